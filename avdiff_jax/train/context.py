"""A stage made ready: who is trained and measured, and its compiled functions."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits.stages import Members, Stage
from avdiff_jax.data.windows import Bucket, Lengths, Limits, evaluation_buckets, training_plan
from avdiff_jax.errors import UserError
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.train.feature_cache import fused
from avdiff_jax.train.step import Steps, compiled


class Bench(NamedTuple):
    """A stage made ready: who is trained and measured, and its compiled functions."""

    number: int
    stage: Stage
    method: Method
    info: Info
    feed: Feed
    lengths: Lengths
    steps: Steps


def audio_scaling(config, store, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale [Da] of the audio: 0 and 1/255, or mean and 1/deviation of all tokens of
    `clips` (the stage's base training clips)."""
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


def bench(config, method: Method, feed: Feed, stage: Stage, number: int) -> Bench:
    """Makes stage `number` ready."""
    store = feed.store
    shift, scale = audio_scaling(config, store, stage.base.clips)
    text = {str(n): store.class_text[i] for i, n in enumerate(store.class_names)}
    folded = {name.casefold(): vector for name, vector in text.items()}
    info = Info(
        config=config,
        classes=stage.class_names,
        is_base=stage.is_base,
        text=np.stack([text.get(n, folded[n.casefold()]) for n in stage.class_names]),
        audio_shift=shift,
        audio_scale=scale,
        video_dim=store.video.dim,
    )
    limits = Limits(config.data.train_max_audio, config.data.train_max_video)
    clips = np.concatenate([stage.base.clips, *(m.clips for m in stage.novel)])
    lengths = limits.lengths(store, clips)
    steps = compiled(method, info, feed, lengths)
    return Bench(number, stage, method, info, feed, lengths, steps)


def initial_vars(b: Bench) -> Vars:
    """Fresh variables, a function of the seed and the stage, replicated over the devices."""
    config = b.info.config
    plan = training_plan(b.feed.store, b.stage.base, b.lengths, b.feed.mesh.size, 1, [0])
    inputs = b.feed.inputs(jax.tree.map(lambda x: x[0], plan), b.lengths)
    key = jax.random.fold_in(jax.random.key(config.seed), b.number)

    def init(key, data, inputs):
        return b.method.init(key, b.info, b.feed.batch(data, inputs, b.lengths))

    whole = devices.replicated(b.feed.mesh)
    # It runs once, and is all random numbers, which take a CPU long to compile well. XLA for GPUs
    # knows no such level.
    quickly = {"xla_backend_optimization_level": 0} if devices.on_cpu(b.feed.mesh) else None
    made = compile_function(init, config.device.precision, quickly, out_shardings=whole)
    return made(key, b.feed.data, inputs)


def measured_buckets(b: Bench, members: Members, test: bool) -> list[Bucket]:
    """Evaluation batches of `members` under the limits for validation or test."""
    data, evaluation = b.info.config.data, b.info.config.eval
    limits = (
        Limits(data.test_max_audio, data.test_max_video)
        if test
        else Limits(data.val_max_audio, data.val_max_video)
    )
    return evaluation_buckets(b.feed.store, members, limits, evaluation.batch)


def scored(b: Bench, vars: Vars, members: Members, buckets: list[Bucket]) -> np.ndarray:
    """Scores [n, C] of `members` in their order; each clip once."""
    out = np.zeros((len(members.labels), len(b.info.classes)), np.float32)
    waiting = [
        (rows, b.steps.score(vars, b.feed.data, inputs, lengths))
        for rows, inputs, lengths in b.feed.measured(buckets)
    ]
    for rows, scores in jax.device_get(waiting):
        out[rows[rows >= 0]] = scores[rows >= 0]
    return finite(b, out)


def finite(b: Bench, scores: np.ndarray) -> np.ndarray:
    """`scores` as they are.

    Raises:
      UserError: one of them is not a finite number.
    """
    if not np.isfinite(scores).all():
        raise UserError(
            f"the scores of stage {b.number} are not finite: check the features for extreme "
            "values, or lower --config.train.learning_rate"
        )
    return scores


def joined(*members: Members) -> Members:
    """Several sets as one."""
    return Members(*(np.concatenate(parts) for parts in zip(*members, strict=True)))


def training_buckets(b: Bench, members: Members) -> list[Bucket]:
    """Evaluation batches of training clips, cut as in training but centred."""
    return evaluation_buckets(
        b.feed.store, members, Limits(*b.lengths), b.info.config.eval.batch
    )


def training_features(b: Bench, vars: Vars, members: Members):
    """What `Method.features` makes of training clips in evaluation mode, [n, ...]."""
    return fused(b.steps.fuse, b.feed, vars, training_buckets(b, members), len(members.labels))


def training_clips(b: Bench, members: tuple[Members, ...]) -> Callable[[], Iterator]:
    """A function that iterates over all clips of `members` in their `training_buckets`."""
    buckets = training_buckets(b, joined(*members))

    def clips():
        for _, inputs, lengths in b.feed.measured(buckets):
            yield b.steps.batch(b.feed.data, inputs, lengths)

    return clips
