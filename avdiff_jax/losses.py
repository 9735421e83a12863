"""Losses per example; the caller takes the mean."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[Array, " b"]
) -> Float[Array, " b"]:
    """-log softmax(logits)[label], in nats."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def squared_error(a: Float[Array, "b d"], b: Float[Array, "b d"]) -> Float[Array, " b"]:
    """Mean over dimensions of (a - b)^2."""
    return jnp.square(a - b).mean(-1)


def triplet(
    anchor: Float[Array, "b d"], positive: Float[Array, "b d"], negative: Float[Array, "b d"]
) -> Float[Array, " b"]:
    """max(0, |a - p| - |a - n| + 1). The 1e-6 keeps the derivative finite where a = p."""

    def distance(x):
        return jnp.linalg.norm(anchor - x + 1e-6, axis=-1)

    return jnp.maximum(distance(positive) - distance(negative) + 1, 0)


def negatives(
    key: jax.Array, labels: Int[Array, " b"]
) -> tuple[Int[Array, " b"], Bool[Array, " b"]]:
    """For each example another of the batch, uniform among those with a different label.

    Returns:
      index [b], and False where the batch has no other label: leave such examples out.
    """
    other = labels[:, None] != labels[None, :]
    draws = jnp.where(other, jax.random.uniform(key, other.shape), -1)
    return draws.argmax(-1), other.any(-1)


def mean_where(values: Float[Array, " b"], used: Bool[Array, " b"]) -> Float[Array, ""]:
    """Mean of the values used; zero where none is."""
    return jnp.where(used, values, 0).sum() / jnp.maximum(used.sum(), 1)
