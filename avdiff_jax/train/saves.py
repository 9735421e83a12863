"""The checkpoints of a substage: restored before it, written in a thread beside it."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from avdiff_jax.methods.method import Vars
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.train.optimisers import TrainState
from avdiff_jax.train.records import SubstageRecord


class SubstageCheckpoints:
    """The last and the best checkpoints of a substage.

    Saves are made in a thread, one after the other. One is under way at most: the next waits for
    it, and nothing is written after one that failed. Of several processes each saves at once,
    since all of them take part in a save in the same order. Leaving the block waits.
    """

    def __init__(self, last: Checkpoints, best: Checkpoints):
        """Takes the checkpoints over, to close them in the end."""
        self._last, self._best = last, best
        self._unfinished: Future | None = None

    def __enter__(self) -> "SubstageCheckpoints":
        with contextlib.ExitStack() as opened:
            self._last, self._best = map(opened.enter_context, (self._last, self._best))
            self._pool = opened.enter_context(ThreadPoolExecutor(1))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind: type | None, *more: object) -> None:
        with self._opened:
            if kind is None:
                self.wait()

    def restore(self, like: TrainState) -> tuple[TrainState, SubstageRecord] | None:
        """Reads the newest state and its record; None where there is none.

        Args:
          like: a state of the same structure.
        """
        number = self._last.latest()
        if number is None:
            return None
        record = SubstageRecord.from_json(self._last.metadata(number))
        return self._last.restore(number, like), record

    def restore_best(self, record: SubstageRecord, like: Vars) -> Vars:
        """Reads the variables of the best epoch that `record` names."""
        return self._best.restore(record.best_epoch, like)

    def save(
        self, number: int, state: TrainState, record: SubstageRecord, best: Vars | None = None
    ) -> None:
        """Begins to save, once the save before is done.

        Args:
          number: of steps so far.
          state, best: must stay as they are meanwhile.
          best: variables of the best epoch where they are not on disk yet; they are saved first,
            since the record names their epoch.

        Raises:
          UserError: the save before failed.
        """
        self.wait()

        def write():
            if best is not None:
                chosen = {"epoch": record.best_epoch, "measured": record.best}
                self._best.save(record.best_epoch, best, chosen)
            self._last.save(number, state, record.to_json())

        if jax.process_count() > 1:
            write()
        else:
            self._unfinished = self._pool.submit(write)

    def check(self) -> None:
        """Raises UserError where a save has failed; does not wait."""
        if self._unfinished and self._unfinished.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: the last save failed.
        """
        unfinished, self._unfinished = self._unfinished, None
        if unfinished:
            unfinished.result()
