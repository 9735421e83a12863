"""Methods on the common trunk: embedding nets, token codes, a fusion of their own, one head.

A fusion is a linen module made from the configuration; it takes the tokens and their
validity by modality and returns the fused token [b, dim]. Substage 2 freezes the trunk.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from avdiff_jax.data.feed import Batch
from avdiff_jax.methods.method import (
    FREEZING,
    TRAINED,
    Clips,
    Frozen,
    Info,
    Method,
    Player,
    Vars,
    main_player,
    scaling_buffers,
)
from avdiff_jax.methods.shared import heads
from avdiff_jax.nn.trunk import Fusion, Trunk

TRUNK = ("enc", "pos", "fusion")

# Of the configuration: what the nets in front of the fusion and the head read, and what transformer
# blocks read.
ENCODERS = ("model.video_norm", "model.enc_hidden", "model.dim", "model.dropout_enc")
READS = (
    *TRAINED, *FREEZING, *ENCODERS, *heads.READS, "model.bn_padding", "model.code",
    "model.fourier_scale", "model.dropout_tokens",
)
BLOCKS = ("model.depth", "model.heads", "model.head_dim", "model.dropout_blocks")


def init(
    info: Info, batch: Batch, key: jax.Array, fusion: Callable = Fusion, beside: int = 0
) -> Vars:
    """Draws a fresh trunk and head for batches like `batch`.

    Args:
      info: of the stage.
      batch: gives the shapes.
      key: of all that is random.
      fusion: see above.
      beside: dimensions that the head sees beside the fused token.
    """
    k_time, k_trunk, k_head = jax.random.split(key, 3)
    model = info.config.model
    buffers = scaling_buffers(info)
    buffers["fourier"] = model.fourier_scale * jax.random.normal(k_time, (2, model.code // 2))
    trunk = Trunk(info.config, fusion).init(k_trunk, batch, buffers, False)
    head = heads.build_head(info).init(k_head, jnp.zeros((1, model.dim + beside)), False)
    params = {**trunk["params"], **head["params"]}
    return Vars(params, {**trunk["stats"], **head["stats"]}, buffers)


def features(
    info: Info,
    variables: Vars,
    batch: Batch,
    key: jax.Array,
    train: bool,
    fusion: Callable = Fusion,
):
    """The fused token [b, dim] and the statistics of the embedding nets."""
    return heads.apply_groups(
        Trunk(info.config, fusion), TRUNK, variables, batch, variables.buffers,
        train=train, key=key,
    )


def players(
    info: Info,
    substage: int,
    loss: Callable = heads.classification_loss,
    added: tuple[str, ...] = (),
) -> tuple[Player, ...]:
    """One player: it moves everything in substage 1, all but the trunk in substage 2.

    Args:
      info: of the stage.
      substage: 1 or 2.
      loss: that of the player.
      added: groups besides the trunk's and the head's.
    """
    groups = (TRUNK if substage == 1 else ()) + heads.HEAD + added
    return (main_player(info, groups, loss),)


def frozen(info: Info, substage: int) -> Frozen:
    """The trunk stands still in substage 2."""
    return Frozen(TRUNK, info.config.train.frozen_mode) if substage == 2 else Frozen()


def grow(info: Info, variables: Vars, clips: Clips, key: jax.Array) -> Vars:
    """Gives CLnet untrained outputs for the classes beyond those that it has."""
    old = variables.params["cls"]
    token = jnp.zeros((1, info.config.model.dim))
    fresh = heads.build_head(info).init(key, token, False)["params"]["cls"]
    known = len(old["bias"])
    cls = jax.tree.map(lambda a, b: jnp.concatenate([a, b[..., known:]], axis=-1), old, fresh)
    return variables.replace(params={**variables.params, "cls": cls})


def make_classifier(fusion: Callable, reads: tuple[str, ...] = ()) -> Method:
    """The method that classifies what `fusion` makes of the tokens, by cross-entropy.

    Args:
      fusion: configuration -> module.
      reads: the fields that the fusion reads besides those of the trunk and the head.
    """
    return Method(
        init=partial(init, fusion=fusion), features=partial(features, fusion=fusion),
        players=players, scores=heads.scores, frozen=frozen, grow=grow,
        reads=(*READS, *reads),
    )
