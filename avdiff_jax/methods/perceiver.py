"""Perceiver (Jaegle et al. 2021, Section 3): latents read all tokens again and again."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from avdiff_jax.methods.method import ByModality
from avdiff_jax.methods.shared.trunk_methods import BLOCKS, make_classifier
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.latents import CrossBlock, Latents
from avdiff_jax.nn.layers import LayerNorm


class Perceiver(nn.Module):
    """L blocks of cross-attention (one head), MLP, self-attention, MLP on the latents; then
    their mean. No weights are shared between blocks."""

    config: ConfigDict

    @nn.compact
    def __call__(self, tokens: ByModality, valid: ByModality, train: bool) -> jax.Array:
        """Dicts by modality: tokens [b, t, dim], valid [b, t] -> [b, dim]."""
        model = self.config.model
        context = jnp.concatenate(list(tokens.values()), axis=1)
        visible = jnp.concatenate(list(valid.values()), axis=1)[:, None]
        count = self.config.perceiver.latents
        x = Latents(count, model.dim, name="latents")(len(context))
        everything = jnp.ones((len(x), 1, count), bool)
        # The MLPs do not widen: hidden width = width (Jaegle et al.'s ImageNet model).
        sizes = {"head_dim": model.head_dim, "hidden": model.dim, "rate": model.dropout_blocks}
        for i in range(model.depth):
            x = CrossBlock(model.dim, 1, name=f"cross{i}", **sizes)(x, context, visible, train)
            block = Block(model.dim, model.heads, norms=2, name=f"self{i}", **sizes)
            x = block(x, everything, train)
        return LayerNorm(name="norm")(x.mean(1))


METHOD = make_classifier(Perceiver, (*BLOCKS, "model.modality"))
