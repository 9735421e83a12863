"""SLDG (Bo, Lu & He 2020): a clip is a few temporal averages of each modality, weighted by
Gaussian bumps over relative time whose place and width are learned; audio takes the place of
optical flow, and the two streams meet in the logits. All sizes are ours."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from avdiff_jax.data.feed import Batch
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import (
    FREEZING,
    TRAINED,
    ByModality,
    Frozen,
    Info,
    Labelled,
    Method,
    Player,
    Vars,
    main_player,
    scaling_buffers,
)
from avdiff_jax.methods.shared.heads import HEAD, READS, UnimodalHeads, apply_groups, judge_real
from avdiff_jax.methods.shared.trunk_methods import ENCODERS
from avdiff_jax.nn.attention import HIDDEN
from avdiff_jax.nn.layers import product
from avdiff_jax.nn.trunk import Encoders, counted, modalities, scaled

FIRST = ("enc", "pool")
BUMPS = 4  # ours: per modality
UNIMODAL = 0.5  # ours: weight of each stream's own cross-entropy


def weigh_tokens(
    valid: Bool[Array, "b t"], centre: Float[Array, " n"], width: Float[Array, " n"]
) -> Float[Array, "b n t"]:
    """Weighs tokens by exp(-(tau - centre)^2 / (2 width^2)), where tau = (t + 1/2) / T is the
    relative time of the T valid ones, which come first; the weights of a bump sum to 1."""
    tau = (jnp.arange(valid.shape[1])[None] + 0.5) / jnp.maximum(valid.sum(1), 1)[:, None]
    distance = (tau[:, None] - centre[None, :, None]) / width[None, :, None]
    # softmax is the same as normalising, and does not divide 0 by 0 where a bump is narrow.
    return nn.softmax(jnp.where(valid[:, None], -0.5 * jnp.square(distance), HIDDEN), axis=-1)


class Pool(nn.Module):
    """Gaussian pooling: `BUMPS` weighted averages over time, concatenated."""

    modalities: tuple[str, ...]

    @nn.compact
    def __call__(self, x: ByModality, valid: ByModality) -> ByModality:
        """Dicts by modality: x [b, t, dim], valid [b, t] -> [b, BUMPS dim]."""
        out = {}
        for name in self.modalities:
            spread = (np.arange(BUMPS) + 0.5) / BUMPS
            centre = self.param(f"{name}_centre", lambda _, value=spread: jnp.float32(value))
            # softplus of this is 1 / BUMPS.
            start = np.full(BUMPS, np.log(np.expm1(1 / BUMPS)))
            width = self.param(f"{name}_width", lambda _, value=start: jnp.float32(value))
            weights = weigh_tokens(valid[name], centre, nn.softplus(width))
            pooled = product("bnt,btd->bnd", weights, x[name])
            out[name] = pooled.reshape(len(pooled), -1)
        return out


class First(nn.Module):
    """Scaled features -> encoders per token (`enc`) -> Gaussian pooling (`pool`)."""

    config: ConfigDict

    def setup(self):
        """The groups that substage 2 freezes."""
        model, names = self.config.model, modalities(self.config)
        self.enc = Encoders((model.enc_hidden, model.dim), model.dropout_enc, names)
        self.pool = Pool(names)

    def __call__(
        self, batch: Batch, buffers: dict[str, jax.Array], train: bool
    ) -> ByModality:
        """Batch -> [b, BUMPS dim] by modality."""
        model = self.config.model
        x = scaled(batch, buffers, model.video_norm)
        valid = {"audio": batch.audio_mask, "video": batch.video_mask}
        counts = {n: counted(valid[n], model.bn_padding) for n in valid}
        return self.pool(self.enc(x, counts, train), valid)


def build_heads(info: Info) -> UnimodalHeads:
    """Projnet and CLnet for each stream."""
    return UnimodalHeads(info.config, len(info.classes))


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws fresh variables for batches like `batch`."""
    k_first, k_heads = jax.random.split(key)
    buffers = scaling_buffers(info)
    pooled, first = First(info.config).init_with_output(k_first, batch, buffers, False)
    second = build_heads(info).init(k_heads, pooled, False)
    params = {**first["params"], **second["params"]}
    return Vars(params, {**first["stats"], **second["stats"]}, buffers)


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """The pooled streams, [b, BUMPS dim] by modality, and the statistics of the encoders."""
    return apply_groups(
        First(info.config), FIRST, variables, batch, variables.buffers, train=train, key=key
    )


def classify(
    info: Info, variables: Vars, pooled: ByModality, key: jax.Array | None
) -> tuple[jax.Array, ByModality, Any]:
    """Applies the heads to the pooled streams, in evaluation mode without a key.

    Returns:
      mean logits [b, C], those by modality, and the statistics.
    """
    logits, stats = apply_groups(
        build_heads(info), HEAD, variables, pooled, train=key is not None, key=key
    )
    total: Any = sum(logits.values())
    return total / len(logits), logits, stats


def loss(
    info: Info, variables: Vars, pooled: ByModality, batch: Labelled, key: jax.Array, role: str
):
    """CE of the mean logits and, at half the weight, of each stream.

    Returns:
      mean loss, (statistics, metrics).
    """
    mean, logits, stats = classify(info, variables, pooled, key)
    total, metrics = judge_real(mean, batch.label)
    for name, of_stream in logits.items():
        metrics[f"ce_{name}"] = cross_entropy(of_stream, batch.label).mean()
        total = total + UNIMODAL * metrics[f"ce_{name}"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """One player: it moves everything in substage 1, the heads in substage 2."""
    groups = (FIRST if substage == 1 else ()) + HEAD
    return (main_player(info, groups, loss),)


def frozen(info: Info, substage: int) -> Frozen:
    """Encoders and pooling stand still in substage 2."""
    return Frozen(FIRST, info.config.train.frozen_mode) if substage == 2 else Frozen()


def scores(info: Info, variables: Vars, pooled: ByModality) -> jax.Array:
    """softmax of the mean logits, [B, C]."""
    return nn.softmax(classify(info, variables, pooled, None)[0])


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=frozen,
    reads=(
        *TRAINED, *FREEZING, *ENCODERS, *READS, "model.bn_padding", "model.modality",
    ),
)
