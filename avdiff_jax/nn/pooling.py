"""Averages over the valid tokens of a clip."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean_over_time(x: Float[Array, "b t d"], valid: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Mean over valid tokens; zero for a clip without any."""
    total = (x * valid[..., None]).sum(1)
    return total / jnp.maximum(valid.sum(1), 1)[:, None]


def unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """x over its L2 norm; zero stays zero."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def segment_means(
    x: Float[Array, "b t d"], valid: Bool[Array, "b t"], segments: int
) -> Float[Array, "b {segments}*d"]:
    """Means over `segments` equal parts of the valid tokens, concatenated.

    Part s of n tokens covers floor(s n / S) to ceil((s + 1) n / S), at least one token, so
    that clips shorter than the number of segments repeat tokens instead of leaving gaps.
    """
    n = valid.sum(1)[:, None]
    s = jnp.arange(segments)[None]
    first = s * n // segments
    last = jnp.maximum(-(-(s + 1) * n // segments), first + 1)
    t = jnp.arange(x.shape[1])[None, None]
    inside = (t >= first[..., None]) & (t < last[..., None]) & valid[:, None]
    weight = inside / jnp.maximum(inside.sum(-1, keepdims=True), 1)
    return jnp.einsum("bst,btd->bsd", weight.astype(x.dtype), x).reshape(x.shape[0], -1)
