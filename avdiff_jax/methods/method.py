"""What a method is: a record of pure functions. `train/` knows methods by this alone.

All functions take their arguments in one order: `info` (what is known of the stage), `variables`
(what has been learned), the data (a batch, features, labels or clips), `key` (randomness), and last
how the data are to be treated (`train`, `role`).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from avdiff_jax.data.feed import Batch
from avdiff_jax.data.windows import Lengths

Clips = Callable[[], Iterator[Batch]]  # iterates over training clips as evaluation batches
ByModality = dict[str, jax.Array]  # keys "audio" and "video", or one of them
Features = Any  # an array or a tree of arrays, [B, ...] each


class Vars(struct.PyTreeNode):
    """The variables of a method.

    params: trained arrays; the top-level keys are the parameter groups.
    stats: BatchNorm statistics.
    buffers: arrays that are saved but never trained (time code, scaling, conditions).
    """

    params: Any
    stats: Any
    buffers: Any


class Info(NamedTuple):
    """What a method may know of a stage.

    config: the experiment's configuration.
    classes: names of the stage's classes, sorted; their position is the label.
    is_base: [C] booleans.
    text: [C, Dt] class text vectors.
    audio_shift, audio_scale: [Da] input scaling (x - shift) * scale.
    video_dim: Dv.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    is_base: np.ndarray
    text: np.ndarray
    audio_shift: np.ndarray
    audio_scale: np.ndarray
    video_dim: int


class Labelled(Protocol):
    """What a loss reads of a batch; the rest of it has become features."""

    @property
    def label(self) -> jax.Array:
        """Labels [B], int32."""
        ...


class Player(NamedTuple):
    """One optimiser's part in an update.

    name: "main" for the player whose rate is cut and whose statistics are kept.
    groups: the parameter groups that it moves.
    loss: (info, variables, features, batch, key, role) -> (mean loss, (stats, metrics)); `batch` is
      `Labelled`, `role` is "base" or "novel". `train.step.update` differentiates it with respect to
      the parameters of `groups` alone.
    repeats: how often it moves per update, each time with fresh noise.
    rate, betas, decay: of its Adam.
    """

    name: str
    groups: tuple[str, ...]
    loss: Callable
    repeats: int
    rate: float
    betas: tuple[float, float]
    decay: float


class Frozen(NamedTuple):
    """The parameter groups that stand still, and whether their dropout and statistics run on."""

    groups: tuple[str, ...] = ()
    mode: str = "train"


class Method(NamedTuple):
    """A method as a value.

    init: (info, batch, key) -> Vars, fresh ones for batches like `batch`.
    features: (info, variables, batch, key, train) -> (features, stats): what all players and the
      scores share; it runs once per update.
    players: (info, substage) -> tuple of Player; empty for a method that trains nothing in
      the loop.
    scores: (info, variables, features) -> [B, C], larger is better; evaluation mode.
    reads: the fields of the configuration that change its parameters or its losses, of those that
      `methods.OF_METHODS` names; others are refused. The group of its own name needs no mention.
    frozen: (info, substage) -> Frozen.
    calibration_grid: candidate values of gamma.
    refresh: (info, variables, clips) -> Vars, at the start of a substage; `clips()` iterates over
      the substage's training clips.
    solve: (info, variables, features, labels) -> Vars, at the start of substage 2 and after classes
      were added: what follows in closed form from the features [n, ...] and labels [n] of all
      training clips, on the host. Only methods have it whose substage 2 leaves the features alone.
    check: (config) -> None; raises UserError where choices contradict each other.
    needs_text: (config) -> whether it reads the class text.
    generate: (info, variables, labels, key) -> synthetic features [n, d].
    embed: (info, variables, features) -> real features [B, d] in the space of `generate`.
    grow: (info, variables, clips, key) -> Vars with the outputs of the classes that `info` has
      beyond those of `variables`, untrained; `clips()` iterates over these classes' clips. Only
      methods have it whose substage 2 needs nothing of the clips but their features, one array
      [B, ...].
    """

    init: Callable[[Info, Batch, jax.Array], Vars]
    features: Callable[[Info, Vars, Batch, jax.Array, bool], tuple[Features, Any]]
    players: Callable[[Info, int], tuple[Player, ...]]
    scores: Callable[[Info, Vars, Features], jax.Array]
    reads: tuple[str, ...]
    frozen: Callable[[Info, int], Frozen] = lambda info, substage: Frozen()
    calibration_grid: tuple[float, ...] = tuple(i / 10 for i in range(11))
    refresh: Callable[[Info, Vars, Clips], Vars] | None = None
    solve: Callable[[Info, Vars, np.ndarray, np.ndarray], Vars] | None = None
    check: Callable[[ConfigDict], None] | None = None
    needs_text: Callable[[ConfigDict], bool] = lambda config: False
    generate: Callable[[Info, Vars, jax.Array, jax.Array], jax.Array] | None = None
    embed: Callable[[Info, Vars, Features], jax.Array] | None = None
    grow: Callable[[Info, Vars, Clips, jax.Array], Vars] | None = None


TRAINED = ("train.learning_rate", "train.weight_decay")  # what `main_player` reads
FREEZING = ("train.frozen_mode", "train.crops")  # and who stands still in substage 2


def abstract_batch(info: Info, lengths: Lengths) -> Batch:
    """Shapes and types of a batch of two clips, which are all that `Method.init` reads of one."""

    def of(kind: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((2, *shape), kind)

    audio, video = lengths
    return Batch(
        audio=of("float32", audio, len(info.audio_shift)),
        video=of("float32", video, info.video_dim),
        audio_mask=of(bool, audio), video_mask=of(bool, video),
        audio_time=of("float32", audio), video_time=of("float32", video),
        label=of("int32"), weight=of("float32"),
    )


def main_player(info: Info, groups: tuple[str, ...], loss: Callable) -> Player:
    """The player that every method trained by the benchmark's schedule has."""
    train = info.config.train
    return Player("main", groups, loss, 1, train.learning_rate, (0.9, 0.999), train.weight_decay)


def with_params(variables: Vars, moved: Any) -> Vars:
    """The variables with the parameter groups `moved` in the place of their own."""
    return variables.replace(params={**variables.params, **moved})


def scaling_buffers(info: Info) -> dict[str, jax.Array]:
    """The buffers that `nn.trunk.scaled` reads, [Da] each."""
    return {
        "audio_shift": jnp.asarray(info.audio_shift, "float32"),
        "audio_scale": jnp.asarray(info.audio_scale, "float32"),
    }
