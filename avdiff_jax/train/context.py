"""A stage made ready: whom it trains and measures, and its compiled functions."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avdiff_jax.cli.alternatives import fill_fields
from avdiff_jax.data.class_text import match_names
from avdiff_jax.data.clip_source import of_store
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.fingerprints import identify
from avdiff_jax.data.splits.stages import Members, Stage, concat_members
from avdiff_jax.data.store import Store
from avdiff_jax.data.windows import Lengths, Limits
from avdiff_jax.methods.method import Info, Method, Vars, abstract_batch
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.train.scoring import (
    EvaluationBatches,
    Scorer,
    compile_fusing,
    compile_judging,
    fuse_members,
    sort_clips,
)
from avdiff_jax.train.source import Source
from avdiff_jax.train.step import compile_training


@dataclasses.dataclass(frozen=True, eq=False)
class StageContext(Scorer):
    """A stage made ready. It scores clips as any `Scorer`, and it trains.

    number: 1 or 2.
    lengths: the fixed shape of its training batches.
    init: compiled key -> variables, of a CPU.
    collate: compiled (data, inputs, lengths) -> Batch.
    embed, generate: compiled, those of the method without `info`; None where it has none.
    programs: the compiled training steps so far, see `training_program`, and what makes the states
      that they begin with.
    reading: held while `base_prints` are made.
    """

    number: int
    stage: Stage
    lengths: Lengths
    init: jax.stages.Wrapped
    collate: Callable
    embed: Callable | None
    generate: Callable | None
    programs: dict[tuple, Callable] = dataclasses.field(default_factory=dict)
    reading: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def base_prints(self) -> np.ndarray:
        """The fingerprints [n] of the base training clips, which all draws share; where a thread
        is at it, its result."""
        with self.reading:  # since Python 3.12 a cached property has no lock of its own
            return self._base_prints

    @functools.cached_property
    def _base_prints(self) -> np.ndarray:
        return of_store(self.feed.store, self.stage.base.clips).prints

    @functools.cached_property
    def identity(self) -> str:
        """What the store is known by."""
        return identify(self.feed.store)

    def uses_cache(self, substage: int) -> bool:
        """Whether a substage trains on features that are computed once: what makes them stands
        still, dropout and statistics too."""
        frozen = self.method.frozen(self.info, substage)
        return bool(frozen.groups) and frozen.mode == "eval"

    def training_program(self, substage: int, source: Source, draws: int = 0) -> Callable:
        """Returns what `compile_training` makes, the same for all draws and for all sources whose
        batches are made in the same way."""
        # Making it is nothing, calling it is all; two threads may ask at a time.
        return self.programs.setdefault(
            (substage, source.batch, draws),
            compile_training(self.method, self.info, substage, source, self.lengths, draws),
        )

    def fill_fields(self, filled: Mapping[str, str]) -> "StageContext":
        """Returns the same stage with what open fields of the configuration hold; what fuses clips
        does not depend on these and stays."""
        if not filled:
            return self
        info = self.info._replace(config=fill_fields(self.info.config, filled))
        return assemble_stage(
            self.method, info, self.feed, self.fuse, self.number, self.stage, self.lengths
        )


def prepare_stage(
    config: ConfigDict, method: Method, feed: Feed, stage: Stage, number: int
) -> StageContext:
    """Makes stage `number` ready; a function that is never called is never compiled."""
    info = describe_stage(config, feed.store, stage)
    fuse = compile_fusing(method, info, feed)
    clips = np.concatenate([stage.base.clips, *(members.clips for members in stage.novel)])
    limits = Limits(config.data.train_max_audio, config.data.train_max_video)
    return assemble_stage(
        method, info, feed, fuse, number, stage, limits.lengths(feed.store, clips)
    )


def assemble_stage(
    method: Method,
    info: Info,
    feed: Feed,
    fuse: Callable,
    number: int,
    stage: Stage,
    lengths: Lengths,
) -> StageContext:
    """Compiles what depends on `info` beside `fuse`."""
    precision = info.config.device.precision

    def compile_part(function):
        # Methods without a generator have neither.
        return compile_function(partial(function, info), precision) if function else None

    return StageContext(
        method, info, feed, fuse, compile_judging(method, info, feed.mesh),
        number=number, stage=stage, lengths=lengths, init=compile_init(method, info, lengths),
        collate=compile_function(feed.batch, precision, static_argnames="lengths"),
        embed=compile_part(method.embed), generate=compile_part(method.generate),
    )


def describe_stage(config: ConfigDict, store: Store, stage: Stage) -> Info:
    """Collects what a method may know of a stage. Class texts are found by name, whatever its
    letter case."""
    shift, scale = measure_audio_scaling(config, store, stage.base.clips)
    text = {str(n): store.class_text[i] for i, n in enumerate(store.class_names)}
    spelled = match_names(stage.class_names, text)
    return Info(
        config=config,
        classes=stage.class_names,
        is_base=stage.is_base,
        text=np.stack([text[spelled[name]] for name in stage.class_names]),
        audio_shift=shift,
        audio_scale=scale,
        video_dim=store.video.dim,
    )


def measure_audio_scaling(
    config: ConfigDict, store: Store, clips: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns shift and scale [Da] of the audio: 0 and 1/255, or mean and 1/deviation of all
    tokens of `clips` (the stage's base training clips)."""
    audio = store.audio
    if config.data.audio_scale == "255":
        return np.zeros(audio.dim), np.full(audio.dim, 1 / 255)
    total, square, count = np.zeros(audio.dim), np.zeros(audio.dim), 0
    for clip in clips:
        tokens = np.asarray(audio.values[audio.offsets[clip] : audio.offsets[clip + 1]], float)
        total, square = total + tokens.sum(0), square + (tokens**2).sum(0)
        count += len(tokens)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(square / max(count, 1) - mean**2, 0))
    return mean, 1 / np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, 1)


def compile_init(method: Method, info: Info, lengths: Lengths) -> jax.stages.Wrapped:
    """Compiles `Method.init`, a function of the key alone."""

    def init(key):
        batch = abstract_batch(info, lengths)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        return method.init(info, zeros, key)

    # It runs once, on a CPU, and is all random numbers, which take a quarter of a minute to
    # compile for a GPU; for a CPU they need not be compiled well.
    quickly = {"xla_backend_optimization_level": 0} if devices.host().platform == "cpu" else None
    return compile_function(init, info.config.device.precision, quickly)


def initialise_variables(context: StageContext) -> Vars:
    """Makes fresh variables, a function of the seed and the stage, replicated over the devices."""
    with jax.default_device(devices.host()):
        variables = context.init(make_key(context))
    return devices.put(variables, devices.replicated(context.feed.mesh))


def compile_initialising(context: StageContext) -> None:
    """Compiles what `initialise_variables` calls."""
    with jax.default_device(devices.host()):
        context.init.lower(make_key(context)).compile()


def describe_variables(context: StageContext) -> Vars:
    """Returns the shapes of what `initialise_variables` makes."""
    with jax.default_device(devices.host()):
        shapes = jax.eval_shape(context.init, make_key(context))
    return devices.describe_placed(shapes, devices.replicated(context.feed.mesh))


def make_key(context: StageContext) -> jax.Array:
    """Makes the key of the initial variables of a stage."""
    return jax.random.fold_in(jax.random.key(context.info.config.seed), context.number)


def batch_training_clips(context: StageContext, members: Members) -> EvaluationBatches:
    """Sorts training clips into evaluation batches, cut as in training but centred."""
    return sort_clips(context, members, Limits(*context.lengths))


def fuse_training_clips(context: StageContext, variables: Vars, members: Members) -> Any:
    """Returns what `Method.features` makes of training clips in evaluation mode, NumPy arrays
    [n, ...]."""
    batches = batch_training_clips(context, members)
    return fuse_members(context, variables, batches, len(members.labels))


def iterate_training_clips(
    context: StageContext, members: tuple[Members, ...]
) -> Callable[[], Iterator]:
    """Returns a function that iterates over all clips of `members` in evaluation batches."""
    batches = batch_training_clips(context, concat_members(*members))

    def clips():
        for _, inputs, lengths in batches:
            yield context.collate(context.feed.data, inputs, lengths)

    return clips
