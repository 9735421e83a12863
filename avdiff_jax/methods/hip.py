"""HiP (Carreira et al. 2022, Section 3): a Perceiver in levels. Groups of neighbouring tokens
of one modality have latents of their own; levels merge groups until one sees everything.

Encoder and processor only: the benchmark asks for no reconstruction, so there is no decoder.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from avdiff_jax.methods.method import ByModality
from avdiff_jax.methods.shared.trunk_methods import make_classifier
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.latents import CrossBlock, Latents
from avdiff_jax.nn.layers import LayerNorm


class Level(NamedTuple):
    """Groups over all modalities, latents and width of each, and its self-attention."""

    groups: int
    latents: int
    dim: int
    layers: int
    heads: int
    head_dim: int


GROUPS = (8, 2)  # of the grouped levels, over both modalities (ours)


def list_levels(config: ConfigDict) -> tuple[Level, ...]:
    """The grouped levels and the processor, which has the width and heads of the other methods."""
    hip, model = config.hip, config.model
    grouped = (
        Level(groups, size.latents, size.dim, 1, size.heads, size.head_dim)
        for groups, size in zip(GROUPS, (hip.level1, hip.level2), strict=True)
    )
    processor = Level(1, hip.latents, model.dim, hip.layers, model.heads, model.head_dim)
    return *grouped, processor


def squared_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(0, x)^2."""
    return jnp.square(nn.relu(x))


def split_tokens(valid: Bool[Array, "b t"], groups: int) -> Bool[Array, "b g t"]:
    """Splits the valid tokens of each clip: token i of n belongs to group floor(i groups / n), so
    padding decides nothing."""
    i = jnp.cumsum(valid, axis=1) - 1
    part = i * groups // jnp.maximum(valid.sum(1, keepdims=True), 1)
    return (part[:, None] == jnp.arange(groups)[None, :, None]) & valid[:, None]


def group_tokens(valid: ByModality, groups: int) -> Bool[Array, "b g n"]:
    """Says which group of the first level reads which token; modalities share the groups equally.

    Args:
      valid: dict by modality of [b, t].
      groups: their number g over all modalities.

    Returns:
      [b, groups, sum of t]: groups of the first modality, then of the next.
    """
    each = groups // len(valid)
    empty = [jnp.zeros((len(v), each, v.shape[1]), bool) for v in valid.values()]
    rows = [
        jnp.concatenate([*empty[:m], split_tokens(v, each), *empty[m + 1 :]], axis=2)
        for m, v in enumerate(valid.values())
    ]
    return jnp.concatenate(rows, axis=1)


def merge_groups(members: Bool[Array, "b g t"], latents: int, groups: int) -> Bool[Array, "b h n"]:
    """Says which group of the next level reads which latent: neighbours merge, empty groups are
    left out.

    Args:
      members: what the groups of this level read.
      latents: of each of them.
      groups: of the next level.

    Returns:
      [b, groups, g * latents].
    """
    alive = jnp.repeat(members.any(-1), latents, axis=1)
    parent = jnp.arange(alive.shape[1]) * groups // alive.shape[1]
    return (parent[None] == jnp.arange(groups)[:, None])[None] & alive[:, None]


class HipLevel(nn.Module):
    """Latents of each group read its members, then attend to each other within the group.

    Weights are shared by the groups; the latents differ.
    """

    level: Level
    cross_dim: int
    rate: float

    @nn.compact
    def __call__(
        self, context: Float[Array, "b n c"], members: Bool[Array, "b g n"], train: bool
    ) -> Float[Array, "b l d"]:
        """context [b, n, c], members [b, groups, n] -> [b, groups * latents, dim]."""
        groups, latents, dim, layers, heads, head_dim = self.level
        x = Latents(groups * latents, dim, name="latents")(len(context))
        cross = CrossBlock(dim, 1, self.cross_dim, dim, self.rate, squared_relu, name="cross")
        x = cross(x, context, jnp.repeat(members, latents, axis=1), train)
        shape = x.shape
        x = x.reshape(-1, latents, dim)
        everything = jnp.ones((len(x), 1, latents), bool)
        for i in range(layers):
            block = Block(
                dim, heads, head_dim, 4 * dim, self.rate, norms=2, activation=squared_relu,
                name=f"self{i}",
            )
            x = block(x, everything, train)
        return x.reshape(shape)


class Hip(nn.Module):
    """Grouped levels, the processor, then the mean of the processor's latents."""

    config: ConfigDict

    @nn.compact
    def __call__(self, tokens: ByModality, valid: ByModality, train: bool) -> jax.Array:
        """Dicts by modality: tokens [b, t, dim], valid [b, t] -> [b, dim]."""
        model, cross_dim = self.config.model, self.config.hip.cross_dim
        x = jnp.concatenate(list(tokens.values()), axis=1)
        members = group_tokens(valid, GROUPS[0])
        level_before = None
        for i, level in enumerate(list_levels(self.config)):
            if level_before:
                members = merge_groups(members, level_before.latents, level.groups)
            x = HipLevel(level, cross_dim, model.dropout_blocks, name=f"level{i}")(
                x, members, train
            )
            level_before = level
        return LayerNorm(name="norm")(x.mean(1))


METHOD = make_classifier(Hip, ("model.heads", "model.head_dim", "model.dropout_blocks"))
