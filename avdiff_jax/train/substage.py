"""One substage of the curriculum (Section 4.3): epochs, rate cuts, best epoch, checkpoints."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.data.feed import Feed, prefetched
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import ROLES, Lengths
from avdiff_jax.errors import UserError
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.results.metrics_log import Writer
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.runtime.progress import Progress
from avdiff_jax.runtime.stop import Stop
from avdiff_jax.train.feature_cache import Cache
from avdiff_jax.train.optimisers import TrainState, cut_rate, learning_rate

CUT = 0.1
THRESHOLD = 1e-4  # relative gain that counts, as in the published scheduler
SAVE_SECONDS = 300  # between checkpoints inside a long epoch


class Phase(NamedTuple):
    """Where in the protocol: stage 1 or 2, substage 1 or 2, draw of the shots; None for all draws
    side by side."""

    stage: int
    substage: int
    draw: int | None = 0

    @property
    def name(self) -> str:
        """Folder of its checkpoints and prefix of its curves."""
        draw = "-draws" if self.draw is None else f"-draw{self.draw}"
        of_draw = (self.stage, self.substage) == (2, 2)
        return f"stage{self.stage}-substage{self.substage}{draw if of_draw else ''}"


class Setting(NamedTuple):
    """What does not change over a substage.

    members: base clips, and in substage 2 novel ones; for each draw.
    lengths: fixed shape of its training batches.
    train: the compiled steps of the substage, the same for every draw.
    """

    phase: Phase
    method: Method
    info: Info
    feed: Feed | Cache
    members: tuple[tuple[Members, ...], ...]
    lengths: Lengths
    train: Callable

    @property
    def parts(self) -> tuple[Phase, ...]:
        """The phase, or that of each draw where they are trained side by side."""
        if self.phase.draw is not None:
            return (self.phase,)
        return tuple(self.phase._replace(draw=draw) for draw in range(len(self.members)))


class Services(NamedTuple):
    """What a run offers to its substages: curves, checkpoints, stop signals."""

    writer: Writer
    checkpoints: Callable[[Phase], Checkpoints]
    best: Callable[[Phase], Checkpoints]
    stop: Stop


class Outcome(NamedTuple):
    """A finished substage: state after the last epoch, variables of the best epoch (of the
    last where nothing was chosen), and the record that stage 2 replays."""

    state: TrainState
    best: Vars
    record: dict


def fresh_record(at: int) -> dict:
    """The record of a substage before its first epoch.

    epoch, step: where training goes on. steps: of a dispatch, the same over the substage, so
    that a resumed run makes the same cuts. best_epoch, best: 1-based epoch with the highest
    selection score and what was measured there. cuts: epochs after which the rate was cut.
    stalled, plateau: epochs without gain and the score they are held against. sums: metrics of
    the dispatches of an unfinished epoch. at: finished epochs over the whole run.
    """
    return {
        "epoch": 0, "step": 0, "steps": None, "best_epoch": 0, "best": None, "cuts": [],
        "stalled": 0, "plateau": None, "sums": None, "at": at, "seconds": 0.0,
        "last": None, "finished": False,
    }


def epoch_plans(setting: Setting, epoch: int) -> dict:
    """Plans of an epoch by role: a function of seed, stage, substage, draw and epoch alone.
    Each [steps, B], or [steps, draws, B]."""
    config = setting.info.config

    def plan(phase, members, i):
        place = [config.seed, phase.stage, phase.substage, phase.draw, epoch, i]
        return setting.feed.plan(
            members[i], setting.lengths, config.train.batch, config.train.batches, place
        )

    plans = {}
    for i, role in enumerate(ROLES[: setting.phase.substage]):
        of_draws = [
            plan(phase, members, i)
            for phase, members in zip(setting.parts, setting.members, strict=True)
        ]
        side_by_side = setting.phase.draw is None
        plans[role] = jax.tree.map(
            lambda *x, stack=side_by_side: np.stack(x, axis=1) if stack else x[0], *of_draws
        )
    return plans


def dropout_key(config, phase: Phase) -> jax.Array:
    """Root of all random draws on the device in a substage."""
    key = jax.random.key(config.seed)
    for number in phase:
        key = jax.random.fold_in(key, number)
    return key


def check_finite(metrics: dict, phase: Phase, epoch: int, first_step: int) -> None:
    """Stops a run whose loss is no number.

    Raises:
      UserError: names stage, substage, epoch and step.
    """
    first, name = min(
        ((bad[0], name) for name, values in metrics.items()
         if (bad := np.flatnonzero(~np.isfinite(values))).size),
        default=(None, None),
    )
    if name:
        raise UserError(
            f"{name} is {metrics[name][first]} in {phase.name}, epoch {epoch + 1}, step "
            f"{first_step + int(first) + 1}: check the features for extreme values, or lower "
            "--config.train.learning_rate"
        )


def run_substage(
    setting: Setting,
    state: TrainState,
    epochs: int,
    services: Services,
    at: int,
    select: Callable[[Vars], dict] | None = None,
    replay: tuple[int, ...] = (),
) -> Outcome:
    """Trains for `epochs`, resuming where checkpoints of the phase say.

    Args:
      state: what a fresh start begins with; its structure restores a checkpoint.
      select: measures on Val after each epoch (stage 1): a dict whose `score` chooses the
        best epoch and feeds the plateau rule. None in stage 2.
      replay: epochs (1-based) after which the rate is cut, from stage 1's record.
      at: finished epochs over the whole run so far.

    Raises:
      UserError: a loss that is not finite, a full disk.
      Stopped: after a stop signal, once the state is saved.
    """
    phase, info = setting.phase, setting.info
    config = info.config.train
    trains = bool(setting.method.players(info, phase.substage))
    if not trains:
        epochs = 1  # everything happened in `refresh`
    record = fresh_record(at)
    with services.checkpoints(phase) as last, services.best(phase) as best:
        if (number := last.latest()) is not None:
            record = last.metadata(number)
            state = last.restore(number, state)
        top = state.vars
        if select and record["best_epoch"]:
            top = best.restore(record["best_epoch"], state.vars)
        if trains and not record["steps"]:
            record |= {"steps": setting.feed.steps(
                setting.lengths, config.batch, config.steps_per_dispatch, config.batches
            )}
        keys = [dropout_key(info.config, part) for part in setting.parts]
        key = keys[0] if phase.draw is not None else jnp.stack(keys)
        key = devices.put(key, devices.replicated(setting.feed.mesh))
        total = (epochs - record["epoch"]) * config.batches - record["step"] if trains else 1
        with Progress(max(total, 1), phase.name) as progress:
            while record["epoch"] < epochs and not record["finished"]:
                epoch, values = record["epoch"] + 1, {}
                if trains:
                    begun = record
                    state, record = _epoch(
                        setting, state, record, key, services, last, progress
                    )
                    seconds = record["seconds"] - begun["seconds"]
                    values = record["last"] | {
                        "learning_rate": learning_rate(state),
                        "steps_per_second": (config.batches - begun["step"]) / seconds,
                    }
                cut = epoch in replay
                if select:
                    found = _measured(select, state.vars, phase, epoch, config.batches)
                    values |= found
                    if not record["best_epoch"] or found["score"] > record["best"]["score"]:
                        record |= {"best_epoch": epoch, "best": found}
                        top = jax.tree.map(jnp.copy, state.vars)
                        best.save(epoch, top, {"epoch": epoch, "measured": found})
                    progress.step(0, f"best Val {record['best']['score']:.2f}")
                    if config.plateau:
                        record, cut = plateau_step(record, found["score"], config.patience)
                if cut and trains:
                    state = cut_rate(state, CUT)
                    record |= {"cuts": [*record["cuts"], epoch]}
                record |= {"epoch": epoch, "at": record["at"] + 1, "step": 0, "sums": None}
                place = phase._asdict() | {"epoch": epoch}
                numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
                services.writer.scalars(record["at"], numbers, phase.name, **place)
                services.writer.flush()
                record["finished"] = epoch == epochs
                last.save(_number(record, config.batches), state, record)
                services.stop.check()
    return Outcome(state, top if select else state.vars, record)


def _measured(select, vars, phase, epoch, steps) -> dict:
    """What `select` measures; a complaint of its says where training stood."""
    try:
        return select(vars)
    except UserError as error:
        place = f"after {phase.name}, epoch {epoch}, step {steps}"
        raise UserError(f"{place}: {error}") from None


def _number(record: dict, batches: int) -> int:
    """Checkpoint numbers grow with training: steps so far."""
    return record["epoch"] * batches + record["step"]


def _epoch(setting, state, record, key, services, last, progress):
    """Trains from the record's step to the end of its epoch."""
    phase, feed, epoch = setting.phase, setting.feed, record["epoch"]
    plans = epoch_plans(setting, epoch)
    steps, batches = record["steps"], setting.info.config.train.batches
    started = time.monotonic()
    saved = started

    def made(first):
        part = jax.tree.map(lambda x: x[first : first + steps], plans)
        return {role: feed.inputs(plan, setting.lengths) for role, plan in part.items()}

    firsts = range(record["step"], batches, steps)
    for first, inputs in zip(firsts, prefetched(made, firsts), strict=True):
        # Everything is on the device by now: a silent copy from the host would be a defect.
        with jax.transfer_guard("disallow"):
            state, metrics = setting.train(state, feed.data, inputs, key)
        metrics = {k: np.asarray(v, np.float64) for k, v in jax.device_get(metrics).items()}
        check_finite(metrics, phase, epoch, first)
        sums = record["sums"] or dict.fromkeys(metrics, 0.0)
        record = record | {
            "sums": {k: sums[k] + float(v.sum()) for k, v in metrics.items()},
            "step": first + steps,
            "seconds": record["seconds"] + time.monotonic() - started,
        }
        started = time.monotonic()
        shown = min(k for k in metrics if k.endswith("main/loss"))
        progress.step(steps, f"loss {metrics[shown].mean():.3f}")
        if services.stop.agreed(started - saved > SAVE_SECONDS) and record["step"] < batches:
            last.save(_number(record, batches), state, record)
            saved = started
            services.stop.check()
    return state, record | {"last": {k: v / batches for k, v in record["sums"].items()}}


def plateau_step(record: dict, score: float, patience: int) -> tuple[dict, bool]:
    """The plateau rule after one more epoch: cut when `score` has not gained for more than
    `patience` epochs.

    Returns:
      the record with `plateau` and `stalled` brought up to date, and whether to cut.
    """
    reference = record["plateau"]
    if reference is None or score > reference + abs(reference) * THRESHOLD:
        return record | {"plateau": score, "stalled": 0}, False
    stalled = record["stalled"] + 1
    cut = stalled > patience
    return record | {"stalled": 0 if cut else stalled}, cut
