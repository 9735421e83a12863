"""SLDG (Bo, Lu & He 2020): a clip is a few temporal averages of each modality, weighted by
Gaussian bumps over relative time whose place and width are learned; audio takes the place of
optical flow, and the two streams meet in the logits. All sizes are ours."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import Frozen, Info, Method, Vars, main_player, scaling_buffers
from avdiff_jax.methods.shared.heads import HEAD, UnimodalHeads, apply_groups, classified
from avdiff_jax.nn.attention import HIDDEN
from avdiff_jax.nn.layers import product
from avdiff_jax.nn.trunk import Encoders, counted, modalities, scaled

FIRST = ("enc", "pool")
BUMPS = 4  # ours: per modality
UNIMODAL = 0.5  # ours: weight of each stream's own cross-entropy


def bumps(valid, centre, width):
    """Weights exp(-(tau - centre)^2 / (2 width^2)) over relative time tau = (t + 1/2) / T of the
    valid tokens, which come first; they sum to 1.

    Args:
      valid [b, t]; centre, width [n].

    Returns:
      [b, n, t].
    """
    tau = (jnp.arange(valid.shape[1])[None] + 0.5) / jnp.maximum(valid.sum(1), 1)[:, None]
    distance = (tau[:, None] - centre[None, :, None]) / width[None, :, None]
    # softmax is the same as normalising, and does not divide 0 by 0 where a bump is narrow.
    return nn.softmax(jnp.where(valid[:, None], -0.5 * jnp.square(distance), HIDDEN), axis=-1)


class Pool(nn.Module):
    """Gaussian pooling: `BUMPS` weighted averages over time, concatenated."""

    modalities: tuple[str, ...]

    @nn.compact
    def __call__(self, x, valid):
        """Dicts by modality: x [b, t, dim], valid [b, t] -> [b, BUMPS dim]."""
        out = {}
        for name in self.modalities:
            spread = (np.arange(BUMPS) + 0.5) / BUMPS
            centre = self.param(f"{name}_centre", lambda _, at=spread: jnp.float32(at))
            # softplus of this is 1 / BUMPS.
            start = np.full(BUMPS, np.log(np.expm1(1 / BUMPS)))
            width = self.param(f"{name}_width", lambda _, at=start: jnp.float32(at))
            weights = bumps(valid[name], centre, nn.softplus(width))
            pooled = product("bnt,btd->bnd", weights, x[name])
            out[name] = pooled.reshape(len(pooled), -1)
        return out


class First(nn.Module):
    """Scaled features -> encoders per token (`enc`) -> Gaussian pooling (`pool`)."""

    config: object

    def setup(self):
        """The groups that substage 2 freezes."""
        model, names = self.config.model, modalities(self.config)
        self.enc = Encoders((model.enc_hidden, model.dim), model.dropout_enc, names)
        self.pool = Pool(names)

    def __call__(self, batch, buffers, train: bool):
        """Batch -> [b, BUMPS dim] by modality."""
        model = self.config.model
        x = scaled(batch, buffers, model.video_norm)
        valid = {"audio": batch.audio_mask, "video": batch.video_mask}
        counts = {n: counted(valid[n], model.bn_padding) for n in valid}
        return self.pool(self.enc(x, counts, train), valid)


def heads(info: Info) -> UnimodalHeads:
    """Projnet and CLnet for each stream."""
    return UnimodalHeads(info.config, len(info.classes))


def init(key: jax.Array, info: Info, batch) -> Vars:
    """Fresh variables for batches like `batch`."""
    k_first, k_heads = jax.random.split(key)
    buffers = scaling_buffers(info)
    pooled, first = First(info.config).init_with_output(k_first, batch, buffers, False)
    second = heads(info).init(k_heads, pooled, False)
    params = {**first["params"], **second["params"]}
    return Vars(params, {**first["stats"], **second["stats"]}, buffers)


def features(info: Info, vars: Vars, batch, key: jax.Array, train: bool):
    """The pooled streams, [b, BUMPS dim] by modality, and the statistics of the encoders."""
    return apply_groups(
        First(info.config), FIRST, vars.params, vars.stats, batch, vars.buffers,
        train=train, key=key,
    )


def logits_of(info: Info, params, stats, pooled, key: jax.Array | None):
    """Mean logits [b, C], those by modality, and the statistics; evaluation mode without a
    key."""
    logits, stats = apply_groups(
        heads(info), HEAD, params, stats, pooled, train=key is not None, key=key
    )
    return sum(logits.values()) / len(logits), logits, stats


def loss(info: Info, moving, vars: Vars, pooled, batch, key: jax.Array, role: str):
    """CE of the mean logits and, at half the weight, of each stream.

    Args:
      moving: parameters of the groups that this player moves.

    Returns:
      mean loss, (statistics, metrics).
    """
    params = {**vars.params, **moving}
    mean, logits, stats = logits_of(info, params, vars.stats, pooled, key)
    total, metrics = classified(mean, batch.label)
    for name, own in logits.items():
        metrics[f"ce_{name}"] = cross_entropy(own, batch.label).mean()
        total = total + UNIMODAL * metrics[f"ce_{name}"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int):
    """One player: everything in substage 1, the heads in substage 2."""
    groups = (FIRST if substage == 1 else ()) + HEAD
    return (main_player(info, groups, partial(loss, info)),)


def frozen(info: Info, substage: int) -> Frozen:
    """Encoders and pooling stand still in substage 2."""
    return Frozen(FIRST, info.config.train.frozen_mode) if substage == 2 else Frozen()


def scores(info: Info, vars: Vars, pooled):
    """softmax of the mean logits, [B, C]."""
    return nn.softmax(logits_of(info, vars.params, vars.stats, pooled, None)[0])


METHOD = Method(init=init, features=features, players=players, scores=scores, frozen=frozen)
