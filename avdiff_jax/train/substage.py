"""One substage of the curriculum (Section 4.3): epochs, rate cuts, best epoch, checkpoints."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from avdiff_jax.data.feed import prefetch
from avdiff_jax.errors import UserError, tell_count
from avdiff_jax.methods.method import Vars
from avdiff_jax.results.metrics_log import Writer
from avdiff_jax.runtime.progress import Progress, announce
from avdiff_jax.runtime.stop import Stop
from avdiff_jax.train.optimisers import CUT, TrainState, copy_tree, cut_rate, learning_rate
from avdiff_jax.train.records import Phase, SubstageRecord
from avdiff_jax.train.saves import Saves, SubstageCheckpoints
from avdiff_jax.train.setting import Schedule, Select, Setting, place_dropout_key, plan_epoch
from avdiff_jax.train.step_memory import check_step
from avdiff_jax.train.workdir import PhaseCheckpoints

THRESHOLD = 1e-4  # relative gain that counts, as in the published scheduler
# Seconds since the last checkpoint after which the next one is due: at the end of an epoch, so that
# short epochs do not wait for the disk, and inside a long one.
EPOCH_SAVE_SECONDS, SAVE_SECONDS = 10, 300


@dataclasses.dataclass(frozen=True, eq=False)
class Services:
    """What a run offers to its substages: curves, checkpoints of a phase, saves, stop signals.

    wait_compiled: waits until the steps of a phase are compiled, where a thread does that.
    """

    writer: Writer
    checkpoints: PhaseCheckpoints
    best: PhaseCheckpoints
    saves: Saves
    stop: Stop
    wait_compiled: Callable[[Phase], None] = lambda phase: None


class Outcome(NamedTuple):
    """A finished substage: state after the last epoch, variables of the best epoch (of the
    last where nothing was chosen), and the record that stage 2 replays.

    together: its draw was trained side by side with the others.
    """

    state: TrainState
    best: Vars
    record: SubstageRecord
    together: bool = False


class Place(NamedTuple):
    """Where a dispatch stands: its epoch, from 0, and its first step of that epoch."""

    epoch: int
    first: int


class Dispatch(NamedTuple):
    """A dispatch that was sent and not read yet.

    metrics: still on the devices, [steps] each.
    ended: a copy of the state after it where an epoch ends there, else None.
    """

    place: Place
    metrics: dict[str, jax.Array]
    ended: TrainState | None


def run_substage(
    setting: Setting, state: TrainState, schedule: Schedule, services: Services, run_epochs: int
) -> Outcome:
    """Trains by `schedule`, going on where checkpoints of the phase say.

    Args:
      state: what a fresh start begins with; its structure restores a checkpoint.
      run_epochs: finished epochs over the whole run so far.

    Raises:
      UserError: a loss that is not finite, a full disk.
      Stopped: after a stop signal; the state is being saved, see `Saves`.
    """
    if not setting.trains:
        schedule = dataclasses.replace(schedule, epochs=1)
    last, best = services.checkpoints(setting.phase), services.best(setting.phase)
    with SubstageCheckpoints(last, best, services.saves) as checkpoints:
        run = SubstageRun(setting, schedule, services, checkpoints, state, run_epochs)
        run.train()
    return Outcome(run.state, run.best if schedule.select else run.state.vars, run.record)


class SubstageRun:
    """A substage under way.

    The next dispatch is sent before the numbers of the last one are read, so that the devices do
    not wait for the host. Only after an epoch that may cut the rate everything is read first.

    Attributes:
      state: after the last dispatch that was sent.
      record: of the last dispatch that was read.
      best: variables of the best epoch, where one is chosen.
    """

    def __init__(
        self,
        setting: Setting,
        schedule: Schedule,
        services: Services,
        checkpoints: SubstageCheckpoints,
        state: TrainState,
        run_epochs: int,
    ):
        """Restores the newest checkpoint; arguments as of `run_substage`."""
        self.setting, self.schedule, self.services = setting, schedule, services
        self.checkpoints, self.config = checkpoints, setting.info.config.train
        self.state, self.record = (
            checkpoints.restore(state)
            or (state, SubstageRecord(run_epochs, seconds=setting.preparation))
        )
        self.best = self.state.vars
        if schedule.select and self.record.best_epoch:
            self.best = checkpoints.restore_best(self.record, self.state.vars)
        if setting.trains and not self.record.steps:
            self._update(steps=setting.count_steps())
        # What is on disk; the best epoch is saved with the record that names it.
        self.saved, self.saved_best = self.record, self.record.best_epoch
        self.key = place_dropout_key(setting)
        self.begun = self.record  # of the epoch, or of this process where it is later
        self.read_at = self.saved_at = time.monotonic()

    @property
    def dispatch_steps(self) -> int:
        """Steps of a dispatch; 0 for a method that trains nothing."""
        return self.record.steps or 0

    def train(self) -> None:
        """Runs all dispatches that are left."""
        record, batches = self.record, self.config.batches
        if record.finished:
            announce(f"{self.setting.phase.name} was finished before")
            return
        if record.epoch or record.step:
            announce(f"{self.setting.phase.name} goes on after "
                     f"{tell_count(record.epoch, 'epoch')}")
        left = (self.schedule.epochs - record.epoch) * batches - record.step
        with Progress(max(left, 1) if self.setting.trains else 1, self.setting.phase.name) as bar:
            self.progress = bar
            if not self.setting.trains:
                self.finish_epoch(copy_tree(self.state))
                bar.step()
            unread = None
            for number, (place, inputs) in enumerate(self.prepare_dispatches()):
                if not number:
                    self.services.wait_compiled(self.setting.phase)
                    check_step(self.setting, self.state, inputs, self.key)
                before, unread = unread, self.send(place, inputs)
                if before:
                    self.read(before)
                self.services.saves.check()
                stopping = self.is_due(SAVE_SECONDS)
                if stopping or (unread.ended and self.may_cut_after(place.epoch + 1)):
                    self.read(unread)
                    unread = None
                if stopping:
                    if self.record != self.saved:
                        self.save(copy_tree(self.state))
                    self.services.stop.check()
            if unread:
                self.read(unread)
            self.services.stop.check()

    def prepare_dispatches(self) -> Iterator[tuple[Place, Any]]:
        """Yields place and inputs of each dispatch that is left. Threads prepare the next ones,
        and with them the plans of the next epoch, meanwhile."""
        if not self.setting.trains:
            return
        record, setting, steps = self.record, self.setting, self.dispatch_steps
        places = [
            Place(epoch, first)
            for epoch in range(record.epoch, self.schedule.epochs)
            for first in range(record.step if epoch == record.epoch else 0,
                               self.config.batches, steps)
        ]
        plans = functools.lru_cache(2)(functools.partial(plan_epoch, setting))

        def make_inputs(place):
            return setting.place_inputs(plans(place.epoch), place.first, steps)

        yield from zip(places, prefetch(make_inputs, places), strict=True)

    def send(self, place: Place, inputs: dict[str, Any]) -> Dispatch:
        """Sends a dispatch, and does not wait for it."""
        # Everything is on the device by now: a silent copy from the host would be a defect.
        with jax.transfer_guard("disallow"):
            self.state, metrics = self.setting.program(
                self.state, self.setting.source.data, inputs, self.key
            )
        ends = place.first + self.dispatch_steps == self.config.batches
        # The next dispatch overwrites the state, which is measured and saved meanwhile.
        return Dispatch(place, metrics, copy_tree(self.state) if ends else None)

    def read(self, dispatch: Dispatch) -> None:
        """Waits for the numbers of a dispatch and enters them into the record."""
        place = dispatch.place
        metrics = {
            name: np.asarray(values, np.float64)
            for name, values in jax.device_get(dispatch.metrics).items()
        }
        check_finite(metrics, self.setting.phase, *place)
        before, now = self.record.sums or dict.fromkeys(metrics, 0.0), time.monotonic()
        self._update(
            sums={name: before[name] + float(values.sum()) for name, values in metrics.items()},
            step=place.first + self.dispatch_steps,
            seconds=self.record.seconds + now - self.read_at,
        )
        self.read_at = now
        shown = min(name for name in metrics if name.endswith("main/loss"))
        self.progress.step(self.dispatch_steps, f"loss {metrics[shown].mean():.3f}")
        if dispatch.ended:
            self.finish_epoch(dispatch.ended)

    def may_cut_after(self, epoch: int) -> bool:
        """Whether the rate may be cut after `epoch` (1-based), on which the next one depends."""
        return bool(self.schedule.select) or epoch in self.schedule.replay

    def finish_epoch(self, state: TrainState) -> None:
        """Measures, writes the line of curves and saves; `state` is a copy that stays."""
        epoch, values = self.record.epoch + 1, {}
        if self.setting.trains:
            values = self.average_metrics(state)
        cut = epoch in self.schedule.replay
        if select := self.schedule.select:
            measured = self.measure(select, state.vars, epoch)
            values |= measured
            if self.config.plateau:
                record, cut = judge_plateau(self.record, measured["score"], self.config.patience)
                self.record = record
        if cut and self.setting.trains:
            self.state, state = cut_rate(self.state, CUT), cut_rate(state, CUT)
            self._update(cuts=(*self.record.cuts, epoch))
        self._update(
            epoch=epoch, step=0, sums=None, run_epochs=self.record.run_epochs + 1,
            finished=epoch == self.schedule.epochs,
        )
        phase, numbers = self.setting.phase, {k: float(v) for k, v in values.items()}
        place = dict(stage=phase.stage, substage=phase.substage, draw=phase.draw, epoch=epoch)
        steps = self.record.run_epochs * self.config.batches
        self.services.writer.scalars(
            self.record.run_epochs, numbers, phase.name, step=steps, **place
        )
        self.services.writer.flush()
        if self.record.finished or self.is_due(EPOCH_SAVE_SECONDS):
            self.save(state)
        self.begun, self.read_at = self.record, time.monotonic()

    def average_metrics(self, state: TrainState) -> dict[str, float]:
        """Returns the mean metrics of the epoch that has ended, its rate and its speed."""
        batches, sums = self.config.batches, self.record.sums or {}
        means = {name: value / batches for name, value in sums.items()}
        self._update(last=means)
        seconds = self.record.seconds - self.begun.seconds
        return means | {
            "learning_rate": learning_rate(state),
            "steps_per_second": (batches - self.begun.step) / seconds,
        }

    def measure(self, select: Select, variables: Vars, epoch: int) -> dict[str, float]:
        """Measures on Val, and keeps variables that are better than all before; `variables` are a
        copy that stays."""
        phase, best = self.setting.phase, self.record.best
        try:
            measured = select(variables)
        except UserError as error:
            place = f"after {phase.name}, epoch {epoch}, step {self.config.batches}"
            raise UserError(f"{place}: {error}") from None
        if best is None or measured["score"] > best["score"]:
            best = measured
            self._update(best_epoch=epoch, best=best)
            self.best = variables
        self.progress.step(0, f"best Val {best['score']:.2f}")
        return measured

    def is_due(self, seconds: float) -> bool:
        """Whether a stop signal came or the last save is so many seconds ago, in any process."""
        return self.services.stop.agree(time.monotonic() - self.saved_at > seconds)

    def save(self, state: TrainState) -> None:
        """Saves a copy of the state, to which the record belongs, by the number of steps so far."""
        record = self.record
        number = record.epoch * self.config.batches + record.step
        best = None if record.best_epoch == self.saved_best else self.best
        self.checkpoints.save(number, state, record, best)
        self.saved, self.saved_best = record, record.best_epoch
        self.saved_at = time.monotonic()

    def _update(self, **fields: Any) -> None:
        self.record = dataclasses.replace(self.record, **fields)


def check_finite(
    metrics: dict[str, np.ndarray], phase: Phase, epoch: int, first_step: int
) -> None:
    """Stops a run whose loss is no number.

    Raises:
      UserError: names stage, substage, epoch and step.
    """
    first, name = min(
        ((bad[0], name) for name, values in metrics.items()
         if (bad := np.flatnonzero(~np.isfinite(values))).size),
        default=(0, ""),
    )
    if name:
        raise UserError(
            f"{name} is {metrics[name][first]} in {phase.name}, epoch {epoch + 1}, step "
            f"{first_step + int(first) + 1}: check the features for extreme values, or lower "
            "--config.train.learning_rate"
        )


def judge_plateau(
    record: SubstageRecord, score: float, patience: int
) -> tuple[SubstageRecord, bool]:
    """Applies the plateau rule after one more epoch: cut when `score` has not gained for more than
    `patience` epochs.

    Returns:
      the record with `plateau` and `stalled` brought up to date, and whether to cut.
    """
    reference = record.plateau
    if reference is None or score > reference + abs(reference) * THRESHOLD:
        return dataclasses.replace(record, plateau=score, stalled=0), False
    stalled = record.stalled + 1
    cut = stalled > patience
    return dataclasses.replace(record, stalled=0 if cut else stalled), cut
