"""The checkpoints of a substage: restored before it, written in a thread beside the run."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from avdiff_jax.methods.method import Vars
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.runtime.stop import Stopped
from avdiff_jax.train.optimisers import TrainState
from avdiff_jax.train.records import SubstageRecord


class Saves:
    """What a run keeps, written in a thread, one after the other, while it goes on.

    Nothing is written after a save that failed. Of several processes each saves at once, since all
    of them take part in a save in the same order. Leaving the block waits until everything is on
    disk, after a stop signal too.
    """

    def __init__(self):
        """Nothing is written yet."""
        self._pool = ThreadPoolExecutor(1)
        self._unfinished: Future | None = None

    def __enter__(self) -> "Saves":
        return self

    def __exit__(self, kind: type | None, *more: object) -> None:
        with self._pool:
            if kind in (None, Stopped):
                self.wait()

    def begin(self, write: Callable[[], None]) -> None:
        """Begins to save, once the save before is done: one copy of a state waits at most.

        Raises:
          UserError: the save before failed.
        """
        self.wait()
        self.then(write)

    def then(self, write: Callable[[], None]) -> None:
        """Lets `write` follow the save before, and does not wait for that."""
        if jax.process_count() > 1:
            return write()
        before = self._unfinished

        def write_after():
            if before:
                before.result()
            write()

        self._unfinished = self._pool.submit(write_after)

    def check(self) -> None:
        """Raises UserError where a save has failed; does not wait."""
        if self._unfinished and self._unfinished.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: a save failed.
        """
        unfinished, self._unfinished = self._unfinished, None
        if unfinished:
            unfinished.result()


class SubstageCheckpoints:
    """The last and the best checkpoints of a substage, which it leaves while they are written."""

    def __init__(self, last: Checkpoints, best: Checkpoints, saves: Saves):
        """Takes the checkpoints over, to close them in the end."""
        self._last, self._best, self._saves = last, best, saves

    def __enter__(self) -> "SubstageCheckpoints":
        with contextlib.ExitStack() as opened:
            self._last, self._best = map(opened.enter_context, (self._last, self._best))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._saves.then(self._opened.close)

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
        """Begins to save, as `Saves.begin`.

        Args:
          number: of steps so far.
          state, best: must stay as they are meanwhile.
          best: variables of the best epoch where they are not on disk yet; they are saved first,
            since the record names their epoch.

        Raises:
          UserError: the save before failed.
        """

        def write():
            if best is not None:
                chosen = {"epoch": record.best_epoch, "measured": record.best}
                self._best.save(record.best_epoch, best, chosen)
            self._last.save(number, state, record.to_json())

        self._saves.begin(write)
