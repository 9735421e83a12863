"""Zorro (Recasens et al. 2023, Section 3): one transformer over audio, video and fusion tokens
whose mask keeps the audio and the video stream pure."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avdiff_jax.methods.method import ByModality
from avdiff_jax.methods.shared.trunk_methods import BLOCKS, make_classifier
from avdiff_jax.nn import masks
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.layers import LayerNorm
from avdiff_jax.nn.trunk import TYPES


class Zorro(nn.Module):
    """L masked blocks, shared by the three kinds of tokens; then LayerNorm and the mean of the
    fusion tokens."""

    config: ConfigDict

    @nn.compact
    def __call__(self, tokens: ByModality, valid: ByModality, train: bool) -> jax.Array:
        """Dicts by modality: tokens [b, t, dim], valid [b, t] -> [b, dim]."""
        model, count = self.config.model, self.config.zorro.tokens
        fusion = self.param("tokens", nn.initializers.normal(1.0), (1, count, model.dim))
        clips = len(tokens["audio"])
        fusion = jnp.broadcast_to(fusion, (clips, count, model.dim))
        # Fusion tokens come first, so that the last layer computes nothing else.
        x = jnp.concatenate([fusion, *tokens.values()], axis=1)
        types = [np.full(tokens[n].shape[1], TYPES[n]) for n in tokens]
        types = np.concatenate([np.full(count, masks.FUSION), *types])
        seen = jnp.concatenate([jnp.ones((clips, count), bool), *valid.values()], axis=1)
        visible = masks.attend(masks.pure_pairs(), types, seen)
        for i in range(model.depth):
            block = Block(
                model.dim, model.heads, model.head_dim, model.mlp, model.dropout_blocks,
                norms=2, name=f"block{i}",
            )
            x = block(x, visible, train, count if i == model.depth - 1 else None)
            self.sow("intermediates", f"layer{i}", x)
        return LayerNorm(name="norm")(x).mean(1)


METHOD = make_classifier(Zorro, (*BLOCKS, "model.mlp"))
