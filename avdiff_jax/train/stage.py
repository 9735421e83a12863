"""A stage of the protocol: stage 1 finds epochs, rate cuts and calibration on Val; stage 2
retrains by that record and is measured on test."""

import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax import metrics
from avdiff_jax.data.batches import Bucket, Feed, Lengths, Limits, evaluation_buckets, training_plan
from avdiff_jax.data.splits.split_file import Members, Stage
from avdiff_jax.errors import UserError
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.runtime import devices
from avdiff_jax.train.feature_cache import Cache, fused
from avdiff_jax.train.step import Steps, TrainState, carried_optimisers, compiled, fresh_optimisers
from avdiff_jax.train.substage import Outcome, Phase, Services, Setting, run_substage


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
    made = jax.jit(init, out_shardings=whole, compiler_options=quickly)
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


def caches(b: Bench, substage: int) -> bool:
    """Whether a substage trains on features that are computed once: what makes them stands
    still, dropout and statistics too."""
    frozen = b.method.frozen(b.info, substage)
    return bool(frozen.groups) and frozen.mode == "eval"


def members_of(b: Bench, phase: Phase) -> tuple[tuple[Members, ...], ...]:
    """Base clips, and in substage 2 novel ones, for each draw of a phase."""
    draws = range(len(b.stage.novel)) if phase.draw is None else (phase.draw,)
    return tuple((b.stage.base, b.stage.novel[draw])[: phase.substage] for draw in draws)


def first_state(b: Bench, phase: Phase, vars: Vars, before: TrainState | None) -> TrainState:
    """What a substage begins with; `vars` are copied, since training donates them.

    Args:
      before: the state that substage 1 ended with, in substage 2.
    """
    states = []
    for members in members_of(b, phase):
        own = jax.tree.map(jnp.copy, vars)
        if b.method.refresh:
            own = b.method.refresh(b.info, own, training_clips(b, members))
        args = (b.method, b.info, phase.substage, own)
        if phase.substage == 1 or b.info.config.train.reset_optimizer or not before:
            opt = fresh_optimisers(*args)
        else:
            opt = jax.tree.map(jnp.copy, carried_optimisers(*args, before.opt))
        states.append(TrainState(vars=own, opt=opt, updates=jnp.zeros((), jnp.int32)))
    side_by_side = phase.draw is None
    state = jax.tree.map(lambda *x: jnp.stack(x) if side_by_side else x[0], *states)
    return devices.put(state, devices.replicated(b.feed.mesh))


def ready(b: Bench, phase: Phase, vars: Vars, before: TrainState | None):
    """Setting and first state of a substage; arguments as of `first_state`."""
    members, config = members_of(b, phase), b.info.config
    cached = caches(b, phase.substage)
    feed = b.feed
    if cached:
        every = joined(*(m for of_draw in members for m in of_draw))
        feed = Cache(
            b.steps.fuse, feed, vars, every, b.lengths, config.eval.batch, config.train.crops
        )
    train = b.steps.train(phase.substage, cached, len(members) if phase.draw is None else 0)
    setting = Setting(phase, b.method, b.info, feed, members, b.lengths, train)
    return setting, first_state(b, phase, vars, before)


def calibrated_point(b: Bench, scores, labels) -> metrics.Point:
    """The point with the best HM on Val: over the method's grid, or all breakpoints."""
    if b.info.config.eval.calibration == "exact":
        gamma = metrics.exact_gamma(scores, labels, b.info.is_base)
        return metrics.evaluate(scores, labels, b.info.is_base, gamma)
    grid = b.method.calibration_grid
    return metrics.best(metrics.sweep(scores, labels, b.info.is_base, grid))


def stage1(b: Bench, services: Services) -> dict:
    """Both substages on Train 1 with selection on Val.

    Returns:
      what stage 2 needs and the result file tells: `substage1`, `substage2` (epochs, cuts, what
      was measured), `gamma` and the `temperature` of probabilities.
    """
    train = b.info.config.train
    base, novel = b.stage.eval_base, b.stage.eval_novel[0]
    both = joined(base, novel)
    base_buckets = measured_buckets(b, base, test=False)
    both_buckets = measured_buckets(b, both, test=False)

    def base_accuracy(vars):
        scores = scored(b, vars, base, base_buckets)
        accuracy = metrics.mean_class_accuracy(
            scores.argmax(-1), base.labels, len(b.info.classes), b.info.is_base
        )
        return {"score": accuracy, "val/B": accuracy}

    setting, state = ready(b, Phase(1, 1), initial_vars(b), None)
    first = run_substage(setting, state, train.epochs1, services, 0, base_accuracy)
    if caches(b, 2):
        features = fused(b.steps.fuse, b.feed, first.best, both_buckets, len(both.labels))

    def harmonic(vars):
        if caches(b, 2):
            scores = finite(b, np.asarray(b.steps.judge(vars, features)))
        else:
            scores = scored(b, vars, both, both_buckets)
        point = calibrated_point(b, scores, both.labels)
        area = metrics.ausuc(scores, both.labels, b.info.is_base)
        values = {f"val/{k}": v for k, v in point._asdict().items()}
        temperature = metrics.fitted_temperature(
            scores, both.labels, b.info.is_base, point.gamma
        )
        return {
            "score": point.HM, **values, "val/AUSUC": area, "val/temperature": temperature
        }

    setting, state = ready(b, Phase(1, 2), first.best, first.state)
    second = run_substage(setting, state, train.epochs2, services, first.record["at"], harmonic)
    return {
        "substage1": _replayed(first),
        "substage2": _replayed(second),
        "gamma": second.record["best"]["val/gamma"],
        "temperature": second.record["best"].get("val/temperature"),
        "at": second.record["at"],
    }


def _replayed(outcome: Outcome) -> dict:
    record = outcome.record
    epochs = record["best_epoch"]
    return {
        "epochs": epochs,
        "cuts": [e for e in record["cuts"] if e < epochs],
        "measured": record["best"],
        "seconds": record["seconds"],
    }


def stage2(
    b: Bench, vars: Vars, services: Services, found: dict
) -> Iterator[tuple[int, Outcome]]:
    """Retrains `vars` by the record of stage 1 and yields (draw, outcome) for each draw, all
    continued from the same base model; side by side where they share cached features."""
    one, two = found["substage1"], found["substage2"]
    setting, state = ready(b, Phase(2, 1), vars, None)
    base = run_substage(
        setting, state, one["epochs"], services, found["at"], replay=tuple(one["cuts"])
    )
    at = base.record["at"]
    for phase in draw_phases(b):
        setting, state = ready(b, phase, base.best, base.state)
        outcome = run_substage(
            setting, state, two["epochs"], services, at, replay=tuple(two["cuts"])
        )
        at = outcome.record["at"]
        yield from apart(b, phase, outcome.state, outcome.record)


def draw_phases(b: Bench) -> list[Phase]:
    """The phases of stage 2's second substage: one for each draw, or one for all."""
    draws = [None] if caches(b, 2) else range(len(b.stage.novel))
    return [Phase(2, 2, draw) for draw in draws]


def apart(b: Bench, phase: Phase, state: TrainState, record: dict) -> Iterator:
    """(draw, outcome) of each draw of a finished phase of `draw_phases`."""
    if phase.draw is not None:
        yield phase.draw, Outcome(state, state.vars, record)
        return
    for draw in range(len(b.stage.novel)):
        own = jax.tree.map(operator.itemgetter(draw), state)
        prefix = f"draw{draw}/"
        last = {
            k.removeprefix(prefix): v for k, v in record["last"].items() if k.startswith(prefix)
        }
        seconds = record["seconds"] / len(b.stage.novel)
        yield draw, Outcome(own, own.vars, record | {"last": last, "seconds": seconds})
