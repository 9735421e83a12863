"""A stage of the protocol: stage 1 finds epochs, rate cuts and calibration on Val; stage 2
retrains by that record and is measured on test."""

import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax import metrics
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.methods.method import Vars
from avdiff_jax.runtime import devices
from avdiff_jax.train.context import (
    Bench,
    finite,
    initial_vars,
    joined,
    measured_buckets,
    scored,
    training_clips,
)
from avdiff_jax.train.feature_cache import Cache, fused
from avdiff_jax.train.optimisers import TrainState, carried_optimisers, fresh_optimisers
from avdiff_jax.train.substage import Outcome, Phase, Services, Setting, run_substage


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
