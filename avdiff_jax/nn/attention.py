"""Masked attention and the transformer block of Section 3.1."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avdiff_jax.nn.layers import Dropout, LayerNorm, Linear, product

HIDDEN = jnp.finfo(jnp.float32).min  # finite: a row without any visible key stays finite


@jax.custom_jvp
def softmax(scores: Float[Array, "..."]) -> Float[Array, "..."]:
    """Softmax over the last axis; its derivative is written in terms of its output, which
    saves passes over the scores."""
    return jax.nn.softmax(scores, axis=-1)


@softmax.defjvp
def _softmax_jvp(primals, tangents):
    weights, (change,) = softmax(*primals), tangents
    weighted = weights * change
    return weights, weighted - weights * weighted.sum(-1, keepdims=True)


def attention(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b n h d"],
    v: Float[Array, "b n h d"],
    visible: Bool[Array, " b #q n"],
) -> tuple[Float[Array, "b q h d"], Float[Array, "b h q n"]]:
    """softmax(q k^T / sqrt(d)) v over the visible keys; also returns the attention itself."""
    # Heads in front, once: the products below and those of the gradient need them there.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * q.shape[-1] ** -0.5, k, v))
    hidden = jnp.where(visible, 0.0, HIDDEN)[:, None]
    weights = softmax(product("bhqd,bhnd->bhqn", q, k) + hidden)
    return product("bhqn,bhnd->bhqd", weights, v).transpose(0, 2, 1, 3), weights


class Attention(nn.Module):
    """Multi-head attention with keys and values from `context`; no bias on q, k and v."""

    dim: int
    heads: int
    head_dim: int
    rate: float

    @nn.compact
    def __call__(self, x, context, visible, train: bool):
        """x [b, q, dim], context [b, n, c], visible [b, 1 or q, n] -> [b, q, dim]."""
        inner = self.heads * self.head_dim

        def project(name, y):
            y = Linear(inner, use_bias=False, name=name)(y)
            return y.reshape(*y.shape[:-1], self.heads, self.head_dim)

        q, k, v = project("query", x), project("key", context), project("value", context)
        mixed, weights = attention(q, k, v, visible)
        self.sow("intermediates", "weights", weights)
        y = Linear(self.dim, name="out")(mixed.reshape(*mixed.shape[:-2], inner))
        return Dropout(self.rate)(y, train)


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times the Gaussian distribution function of x, not its tanh approximation."""
    return nn.gelu(x, approximate=False)


class FeedForward(nn.Module):
    """Linear, activation, Dropout, Linear, Dropout."""

    dim: int
    hidden: int
    rate: float
    activation: Callable = exact_gelu

    @nn.compact
    def __call__(self, x, train: bool):
        """[..., dim] -> [..., dim]."""
        x = self.activation(Linear(self.hidden, name="hidden")(x))
        x = Linear(self.dim, name="out")(Dropout(self.rate)(x, train))
        return Dropout(self.rate)(x, train)


class Block(nn.Module):
    """Pre-norm transformer block x += Attn(LN x); x += FF(LN x). Eq. (1).

    With `norms=1` one LayerNorm serves both branches, as in the published AV-Diff.
    """

    dim: int
    heads: int
    head_dim: int
    hidden: int
    rate: float
    norms: int = 1
    activation: Callable = exact_gelu

    @nn.compact
    def __call__(self, x, visible, train: bool, queries: int | None = None):
        """x [b, n, dim] -> [b, n, dim], or the first `queries` tokens only where given: the
        last layer need not compute tokens that nobody reads."""
        first = LayerNorm(name="norm")
        second = first if self.norms == 1 else LayerNorm(name="norm2")
        context = first(x)
        asked = context[:, :queries]
        if visible.shape[1] > 1:
            visible = visible[:, :queries]
        attend = Attention(self.dim, self.heads, self.head_dim, self.rate, name="attention")
        x = x[:, :queries] + attend(asked, context, visible, train)
        forward = FeedForward(
            self.dim, self.hidden, self.rate, self.activation, name="forward"
        )
        return x + forward(second(x), train)
