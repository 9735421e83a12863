"""MBT (Nagrani et al. 2021, Section 3): a transformer for each modality; from the fusion layer
on they exchange what they know through a few bottleneck tokens only."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import ByModality, Info, Labelled, Vars
from avdiff_jax.methods.shared import heads, trunk_methods
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.layers import LayerNorm


class Mbt(nn.Module):
    """Two towers of L blocks, joined by bottleneck tokens in the layers after the first Z.

    The original's fusion layer is 8 of 12; AV-Diff's switch layer Z has about the same ratio.
    """

    config: ConfigDict
    bottlenecks: int = 4

    @nn.compact
    def __call__(self, tokens: ByModality, valid: ByModality, train: bool) -> jax.Array:
        """Dicts by modality: tokens [b, t, dim], valid [b, t] -> class tokens [b, 2, dim]."""
        model = self.config.model
        clips = len(tokens["audio"])
        shape = (1, self.bottlenecks, model.dim)
        shared = self.param("bottleneck", nn.initializers.normal(0.02), shape)
        shared = jnp.broadcast_to(shared, (clips, *shape[1:]))
        x, alone, joined = {}, {}, {}
        for name in tokens:
            token = self.param(f"token_{name}", nn.initializers.zeros, (1, 1, model.dim))
            token = jnp.broadcast_to(token, (clips, 1, model.dim))
            x[name] = jnp.concatenate([token, tokens[name]], axis=1)
            seen = jnp.concatenate([jnp.ones((clips, 1), bool), valid[name]], axis=1)
            alone[name] = seen[:, None]
            joined[name] = jnp.pad(alone[name], ((0, 0), (0, 0), (0, self.bottlenecks)),
                                   constant_values=True)
        for i in range(model.depth):
            # Only the class tokens of the last layer are read.
            queries = 1 if i == model.depth - 1 else None
            copies = []
            for name in tokens:
                block = Block(
                    model.dim, model.heads, model.head_dim, model.mlp, model.dropout_blocks,
                    norms=2, name=f"{name}{i}",
                )
                if i < model.switch:
                    x[name] = block(x[name], alone[name], train, queries)
                else:
                    length = x[name].shape[1]
                    y = jnp.concatenate([x[name], shared], axis=1)
                    y = block(y, joined[name], train, queries)
                    x[name], copy = y[:, :length], y[:, length:]
                    copies.append(copy)
            if copies:
                shared = (copies[0] + copies[1]) / 2
            self.sow("intermediates", f"layer{i}", dict(x))
        classes = jnp.concatenate([x[name][:, :1] for name in tokens], axis=1)
        return LayerNorm(name="norm")(classes)


def loss(
    info: Info, variables: Vars, tokens: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """The mean over the modalities of the cross-entropy of their own logits.

    Args:
      info: of the stage.
      variables: of all groups.
      tokens: the class tokens of both towers, [b, 2, dim].
      batch: for its labels.
      key: of dropout.
      role: plays no part.

    Returns:
      mean loss, (statistics, metrics).
    """
    (_, logits), stats = heads.apply_head(info, variables, tokens, key)
    parts = [cross_entropy(logits[:, i], batch.label).mean() for i in range(2)]
    total = sum(parts) / 2
    metrics = {"ce_audio": parts[0], "ce_video": parts[1], "loss": total,
               "accuracy": heads.compute_accuracy(logits.mean(1), batch.label)}
    return total, (stats, metrics)


def scores(info: Info, variables: Vars, tokens: jax.Array) -> jax.Array:
    """softmax of the mean over the modalities of the logits, [b, C]."""
    (_, logits), _ = heads.apply_head(info, variables, tokens, None)
    return nn.softmax(logits.mean(1))


METHOD = trunk_methods.make_classifier(
    Mbt, (*trunk_methods.BLOCKS, "model.mlp", "model.switch")
)._replace(
    players=partial(trunk_methods.players, loss=loss), scores=scores
)
