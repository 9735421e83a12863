"""A stage of the protocol: stage 1 finds epochs, rate cuts and calibration on Val; stage 2
retrains by that record and is measured on test."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax import metrics
from avdiff_jax.cli.alternatives import MARGIN, is_usual, list_alternatives
from avdiff_jax.data.splits.stages import Members, concat_members
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.probabilities import fit_temperature
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.train.announcements import announce_substage
from avdiff_jax.train.context import (
    StageContext,
    fuse_training_clips,
    initialise_variables,
    iterate_training_clips,
)
from avdiff_jax.train.draws import choose_draw_phases, split_draws
from avdiff_jax.train.feature_cache import cache_members
from avdiff_jax.train.optimisers import (
    TrainState,
    carried_optimisers,
    fresh_optimisers,
)
from avdiff_jax.train.records import Phase, Stage1Record, SubstageChoice, Trial
from avdiff_jax.train.scoring import batch_members, check_scores, fuse_members, score_members
from avdiff_jax.train.setting import Schedule, Select, Setting
from avdiff_jax.train.source import Source
from avdiff_jax.train.substage import Outcome, Services, run_substage


def members_of(context: StageContext, phase: Phase) -> tuple[tuple[Members, ...], ...]:
    """Base clips, and in substage 2 novel ones, for each draw of a phase."""
    stage = context.stage
    draws = range(len(stage.novel)) if phase.draw is None else (phase.draw,)
    return tuple((stage.base, stage.novel[draw])[: phase.substage] for draw in draws)


def prepare_state(
    context: StageContext, phase: Phase, variables: Vars, before: TrainState | None
) -> TrainState:
    """Makes what a substage begins with.

    Args:
      before: the state that substage 1 ended with, in substage 2.
    """
    of_draws, whole = [], devices.replicated(context.feed.mesh)
    for members in members_of(context, phase):
        of_draw = variables
        if context.method.refresh:
            clips = iterate_training_clips(context, members)
            of_draw = context.method.refresh(context.info, of_draw, clips)
        if context.method.solve and phase.substage == 2:
            every = concat_members(*members)
            features = fuse_training_clips(context, of_draw, every)
            of_draw = context.method.solve(context.info, of_draw, features, every.labels)
        of_draws.append(of_draw)
    carried = phase.substage == 2 and not context.info.config.train.reset_optimizer and before
    begin = beginning_program(context, phase)
    return begin(devices.put(of_draws, whole), carried.opt if carried else None)


def beginning_program(context: StageContext, phase: Phase) -> Callable:
    """Returns the compiled `begin_state` of a phase, the same for each draw. It is one program:
    hundreds of small ones take seconds to compile for a GPU."""
    substage, together = phase.substage, phase.draw is None
    begin = functools.partial(begin_state, context.method, context.info, substage, together)
    whole = devices.replicated(context.feed.mesh)
    return context.programs.setdefault(
        ("begin", substage, together), compile_function(begin, "float32", out_shardings=whole)
    )


def begin_state(
    method: Method,
    info: Info,
    substage: int,
    together: bool,
    of_draws: list[Vars],
    before: dict | None,
) -> TrainState:
    """Makes the state that a substage begins with: copies of the variables of its draws, since
    training donates them, with optimisers. It may run inside jit.

    Args:
      together: the draws are trained side by side, [draws, ...] each.
      before: the optimisers whose moments are carried over, if any.
    """

    def begin(variables):
        args = (method, info, substage, variables)
        opt = carried_optimisers(*args, before) if before else fresh_optimisers(*args)
        return TrainState(vars=variables, opt=opt, updates=jnp.zeros((), jnp.int32))

    states = [begin(variables) for variables in of_draws]
    if together:
        return jax.tree.map(lambda *x: jnp.stack(x), *states)
    return jax.tree.map(jnp.copy, states[0])


def prepare_substage(
    context: StageContext, phase: Phase, variables: Vars, before: TrainState | None
) -> tuple[Setting, TrainState]:
    """Prepares setting and first state of a substage; arguments as of `prepare_state`."""
    setting = prepare_setting(context, phase, variables, cache_members)
    started = time.monotonic()
    state = jax.block_until_ready(prepare_state(context, phase, variables, before))
    return dataclasses.replace(setting, preparation=time.monotonic() - started), state


def prepare_setting(
    context: StageContext, phase: Phase, variables: Vars, cache: Callable[..., Source]
) -> Setting:
    """Prepares the setting of a substage.

    Args:
      cache: makes the cache where the substage trains on one: `cache_members`, or
        `describe_cache` where nothing is to be trained yet.
    """
    members = members_of(context, phase)
    source: Source = context.feed
    trains = bool(context.method.players(context.info, phase.substage))
    if trains and context.uses_cache(phase.substage):
        every = concat_members(*(part for of_draw in members for part in of_draw))
        source = cache(context, variables, every, context.lengths)
    draws = len(members) if phase.draw is None else 0
    return Setting(
        phase, context.method, context.info, source, context.feed.store, members, context.lengths,
        program=context.training_program(phase.substage, source, draws),
    )


def calibrate(context: StageContext, scores: np.ndarray, labels: np.ndarray) -> metrics.Point:
    """Finds the point with the best HM on Val: over the method's grid, or all breakpoints."""
    is_base = context.info.is_base
    if context.info.config.eval.calibration == "exact":
        gamma = metrics.exact_gamma(scores, labels, is_base)
        return metrics.evaluate(scores, labels, is_base, gamma)
    return metrics.best(metrics.sweep(scores, labels, is_base, context.method.calibration_grid))


def select_by_base_accuracy(context: StageContext) -> Select:
    """Returns what measures substage 1 of stage 1: B, the mean class accuracy of base classes
    on Val."""
    base, info = context.stage.eval_base, context.info
    batches = batch_members(context, base, test=False)

    def select(variables: Vars) -> dict[str, float]:
        scores = score_members(context, variables, base, batches)
        accuracy = metrics.mean_class_accuracy(
            scores.argmax(-1), base.labels, len(info.classes), info.is_base
        )
        return {"score": accuracy, "val/B": accuracy}

    return select


class Validation:
    """Val of stage 1, base and novel clips, as substage 2 is measured on it.

    Args:
      variables: what substage 2 begins with. Where it trains on a cache they fuse Val once.
    """

    def __init__(self, context: StageContext, variables: Vars):
        stage = context.stage
        self.context = context
        self.members = concat_members(stage.eval_base, stage.eval_novel[0])
        self.batches = batch_members(context, self.members, test=False)
        self.features = None
        if context.uses_cache(2):
            self.features = devices.put(
                fuse_members(context, variables, self.batches, len(self.members.labels)),
                devices.replicated(context.feed.mesh),
            )

    def score(self, variables: Vars) -> np.ndarray:
        """Scores the clips, [n, C]."""
        if self.features is None:
            return score_members(self.context, variables, self.members, self.batches)
        return check_scores(np.asarray(self.context.judge(variables, self.features)))

    def select(self, variables: Vars) -> dict[str, float]:
        """Measures an epoch: HM at the best calibration, and what belongs to that."""
        scores, labels = self.score(variables), self.members.labels
        point = calibrate(self.context, scores, labels)
        return {
            "score": point.HM,
            **{f"val/{name}": value for name, value in point._asdict().items()},
            "val/AUSUC": metrics.ausuc(scores, labels, self.context.info.is_base),
        }

    def choose(self, outcome: Outcome) -> SubstageChoice:
        """Returns what a finished substage 2 has chosen, with the temperature of its best epoch,
        which takes longer to fit than a short epoch to train."""
        choice = SubstageChoice.of(outcome.record)
        temperature = fit_temperature(
            self.score(outcome.best), self.members.labels, self.context.info.is_base,
            choice.measured["val/gamma"],
        )
        measured = choice.measured | {"val/temperature": temperature}
        return dataclasses.replace(choice, measured=measured)


def run_stage1(context: StageContext, services: Services) -> Stage1Record:
    """Trains both substages on Train 1 with selection on Val; substage 2 once for each way of
    filling open fields."""
    train = context.info.config.train
    announce_substage(context, Phase(1, 1), train.epochs1)
    setting, state = prepare_substage(context, Phase(1, 1), initialise_variables(context), None)
    schedule = Schedule(train.epochs1, select_by_base_accuracy(context))
    first = run_substage(setting, state, schedule, services, 0)
    tried, run_epochs = try_alternatives(context, services, first)
    substage2 = tried[0][1]
    return Stage1Record(
        SubstageChoice.of(first.record), substage2, substage2.measured["val/gamma"], run_epochs,
        substage2.measured.get("val/temperature"),
        tuple(Trial(filled, of.measured["val/AUSUC"]) for filled, of in tried if filled),
    )


def try_alternatives(
    context: StageContext, services: Services, first: Outcome
) -> tuple[list[tuple[dict[str, str], SubstageChoice]], int]:
    """Trains substage 2 of stage 1 once for each way of filling open fields, once where none is,
    always from the best epoch of substage 1.

    Returns:
      what was filled in and what was chosen then, see `rank_trials`; finished epochs over the
      whole run.
    """
    run_epochs, tried = first.record.run_epochs, []
    for number, filled in enumerate(list_alternatives(context.info.config), start=1):
        of_trial, phase = context.fill_fields(filled), Phase(1, 2, trial=number if filled else 0)
        epochs = context.info.config.train.epochs2
        announce_substage(of_trial, phase, epochs)
        setting, state = prepare_substage(of_trial, phase, first.best, first.state)
        val = Validation(of_trial, first.best)
        schedule = Schedule(epochs, val.select)
        second = run_substage(setting, state, schedule, services, run_epochs)
        run_epochs = second.record.run_epochs
        tried.append((filled, val.choose(second)))
    return rank_trials(tried), run_epochs


def rank_trials(
    tried: list[tuple[dict[str, str], SubstageChoice]]
) -> list[tuple[dict[str, str], SubstageChoice]]:
    """Sorts trials by AUSUC on Val, of equals the first one first; but the usual one comes before
    all of them unless another leads it by more than `MARGIN` of its own."""
    if len(tried) == 1:
        return tried

    def ausuc(trial):
        return trial[1].measured["val/AUSUC"]

    best = max(map(ausuc, tried))
    return sorted(tried, key=lambda trial: (
        not (is_usual(trial[0]) and ausuc(trial) >= best * (1 - MARGIN)), -ausuc(trial)
    ))


def run_stage2(
    context: StageContext, variables: Vars, services: Services, record: Stage1Record
) -> Iterator[tuple[int, Outcome]]:
    """Retrains `variables` by the record of stage 1 and yields (draw, outcome) for each draw, all
    continued from the same base model; see `draws` for which are trained side by side."""
    one, two = record.substage1, record.substage2
    announce_substage(context, Phase(2, 1), one.epochs, one)
    setting, state = prepare_substage(context, Phase(2, 1), variables, None)
    schedule = Schedule(one.epochs, replay=one.cuts)
    base = run_substage(setting, state, schedule, services, record.run_epochs)
    run_epochs = base.record.run_epochs
    for phase in choose_draw_phases(context, variables, services.checkpoints):
        announce_substage(context, phase, two.epochs, two)
        setting, state = prepare_substage(context, phase, base.best, base.state)
        schedule = Schedule(two.epochs, replay=two.cuts)
        outcome = run_substage(setting, state, schedule, services, run_epochs)
        run_epochs = outcome.record.run_epochs
        yield from split_draws(context, phase, outcome.state, outcome.record)
