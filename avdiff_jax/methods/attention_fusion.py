"""Attention Fusion (Fayek and Kumar 2020, Section 3): a classifier for each modality, and a
gate that weighs their outputs for every sample and class. Clips are averaged over time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
from avdiff_jax.methods.shared import heads
from avdiff_jax.methods.shared.trunk_methods import ENCODERS
from avdiff_jax.nn.layers import Linear
from avdiff_jax.nn.trunk import Trunk

GROUPS = (*heads.HEAD, "gate")
UNIMODAL_WEIGHT = 1.0  # ours


class GatedHeads(heads.UnimodalHeads):
    """g * audio logits + (1 - g) * video logits, with g = sigmoid(Linear [audio; video])."""

    def setup(self):
        """The gate is a group of its own."""
        super().setup()
        self.gate = Linear(self.classes)

    def __call__(self, x: ByModality, train: bool) -> dict[str, jax.Array]:
        """Dict by modality of [b, d] -> logits [b, C] of "audio", "video" and "fused"."""
        logits = super().__call__(x, train)
        g = nn.sigmoid(self.gate(jnp.concatenate([x["audio"], x["video"]], axis=-1)))
        return {**logits, "fused": g * logits["audio"] + (1 - g) * logits["video"]}


def _gated(info: Info) -> GatedHeads:
    return GatedHeads(info.config, len(info.classes))


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws fresh variables for batches like `batch`."""
    k_enc, k_heads = jax.random.split(key)
    buffers = scaling_buffers(info)
    x, enc = Trunk(info.config).init_with_output(k_enc, batch, buffers, False, method="averaged")
    gated = _gated(info).init(k_heads, x, False)
    return Vars({**enc["params"], **gated["params"]}, {**enc["stats"], **gated["stats"]}, buffers)


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """The embedded mean over time, a dict by modality of [b, dim], and the statistics."""
    return heads.apply_groups(
        Trunk(info.config), ("enc",), variables, batch, variables.buffers,
        train=train, key=key, method="averaged",
    )


def loss(
    info: Info, variables: Vars, x: ByModality, batch: Labelled, key: jax.Array, role: str
):
    """CE(fused) + CE(audio) + CE(video).

    Returns:
      mean loss, (statistics, metrics).
    """
    logits, stats = heads.apply_groups(_gated(info), GROUPS, variables, x, train=True, key=key)
    total, metrics = heads.judge_real(logits["fused"], batch.label)
    for name in ("audio", "video"):
        metrics[f"ce_{name}"] = cross_entropy(logits[name], batch.label).mean()
        total = total + UNIMODAL_WEIGHT * metrics[f"ce_{name}"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """One player: it moves everything in substage 1, all but the embedding nets in substage 2."""
    groups = (("enc",) if substage == 1 else ()) + GROUPS
    return (main_player(info, groups, loss),)


def frozen(info: Info, substage: int) -> Frozen:
    """The embedding nets stand still in substage 2."""
    return Frozen(("enc",), info.config.train.frozen_mode) if substage == 2 else Frozen()


def scores(info: Info, variables: Vars, x: ByModality) -> jax.Array:
    """softmax of the fused logits, [b, C]."""
    logits, _ = heads.apply_groups(_gated(info), GROUPS, variables, x, train=False)
    return nn.softmax(logits["fused"])


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=frozen,
    reads=(*TRAINED, *FREEZING, *ENCODERS, *heads.READS),
)
