"""What a method is: a record of pure functions. `train/` knows methods by this alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct


@struct.dataclass
class Vars:
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

    config: Any
    classes: tuple[str, ...]
    is_base: np.ndarray
    text: np.ndarray
    audio_shift: np.ndarray
    audio_scale: np.ndarray
    video_dim: int


class Player(NamedTuple):
    """One optimiser's part in an update.

    name: "main" for the player whose rate is cut and whose statistics are kept.
    groups: the parameter groups it moves.
    loss: (params of its groups, vars, features, batch, key, role) -> (mean loss,
      (stats, metrics)); role is "base" or "novel".
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
    """Parameter groups that stand still, and whether their dropout and statistics run on."""

    groups: tuple[str, ...] = ()
    mode: str = "train"


class Method(NamedTuple):
    """A method as a value.

    init: (key, info, batch) -> Vars.
    features: (info, vars, batch, key, train) -> (features, stats): what all players and the
      scores share; run once per update.
    players: (info, substage) -> tuple of Player; empty for a method that trains nothing in
      the loop.
    scores: (info, vars, features) -> [B, C], larger is better; evaluation mode.
    frozen: (info, substage) -> Frozen.
    calibration_grid: candidate values of gamma.
    refresh: (info, vars, clips) -> Vars, at the start of a substage; `clips()` iterates over
      the substage's training clips as evaluation batches.
    generate: (info, vars, key, labels) -> synthetic features [n, d].
    embed: (info, vars, features) -> real features [B, d] in the space of `generate`.
    grow: (key, info, vars, clips) -> Vars with the outputs of the classes that `info` has beyond
      those of `vars`, untrained; `clips()` iterates over batches of these classes' clips. Of
      methods whose substage 2 needs of the clips nothing but their features, an array [B, ...].
    """

    init: Callable
    features: Callable
    players: Callable
    scores: Callable
    frozen: Callable = lambda info, substage: Frozen()
    calibration_grid: tuple[float, ...] = tuple(i / 10 for i in range(11))
    refresh: Callable | None = None
    generate: Callable | None = None
    embed: Callable | None = None
    grow: Callable | None = None


def main_player(info: Info, groups, loss) -> Player:
    """The player that every method trained by the benchmark's schedule has."""
    train = info.config.train
    return Player("main", groups, loss, 1, train.learning_rate, (0.9, 0.999), train.weight_decay)


def scaling_buffers(info: Info) -> dict[str, jax.Array]:
    """The buffers that `nn.trunk.scaled` reads."""
    return {
        "audio_shift": jax.numpy.asarray(info.audio_shift, "float32"),
        "audio_scale": jax.numpy.asarray(info.audio_scale, "float32"),
    }
