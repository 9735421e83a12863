"""Latent vectors that read a longer sequence: the step that Perceiver and HiP repeat."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avdiff_jax.nn.attention import Attention, FeedForward, exact_gelu
from avdiff_jax.nn.layers import LayerNorm


class Latents(nn.Module):
    """Learned latent vectors, truncated normal with deviation 0.02, one set for all clips."""

    count: int
    dim: int

    @nn.compact
    def __call__(self, clips: int) -> Float[Array, "b n d"]:
        """[clips, count, dim]."""
        normal = nn.initializers.truncated_normal(0.02)
        latents = self.param("latents", normal, (1, self.count, self.dim))
        return jnp.broadcast_to(latents, (clips, self.count, self.dim))


class CrossBlock(nn.Module):
    """x += Attn(LN x, LN context); x += FF(LN x), each LayerNorm its own (Jaegle et al. 2021).

    A latent that sees nothing reads zero, as in Carreira et al. 2022: without it the softmax
    over hidden keys would average the padding.
    """

    dim: int
    heads: int
    head_dim: int
    hidden: int
    rate: float
    activation: Callable = exact_gelu

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b n c"],
        visible: Bool[Array, " b #q n"],
        train: bool,
    ) -> Float[Array, "b q d"]:
        """Queries from x, keys and values from the visible part of the context."""
        attend = Attention(self.dim, self.heads, self.head_dim, self.rate, name="attention")
        keys = LayerNorm(name="norm_context")(context)
        read = attend(LayerNorm(name="norm")(x), keys, visible, train)
        x = x + jnp.where(visible.any(-1, keepdims=True), read, 0.0)
        forward = FeedForward(
            self.dim, self.hidden, self.rate, self.activation, name="forward"
        )
        return x + forward(LayerNorm(name="norm2")(x), train)
