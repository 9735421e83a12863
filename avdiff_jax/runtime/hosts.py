"""Several processes, each with devices of its own, as one run: all compute, the first one writes.

Every process runs the same program on the same files. The others write their curves and tables into
a folder of their own that is thrown away, and take part in what all must do together: compiled
steps, Orbax saves and decisions that depend on a clock or a signal.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from avdiff_jax.errors import UserError
from avdiff_jax.runtime.meeting import meet
from avdiff_jax.runtime.progress import Progress


def start(coordinator: str, processes: int, process: int) -> None:
    """Joins the others; waits for them, and says now and then for whom.

    Args:
      coordinator: HOST:PORT of process 0, which the others can reach.
      processes: how many there are.
      process: the number of this one.

    Raises:
      UserError: the numbers contradict each other, or the others do not come.
    """
    if not coordinator or not 0 <= process < processes:
        raise UserError(
            f"--coordinator={coordinator} --processes={processes} --process={process}: give all "
            "three, the same HOST:PORT everywhere and to each process a number of its own, from 0"
        )
    meet(coordinator, processes, process)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"process {process} of {processes} could not meet the others at "
            f"--coordinator={coordinator} ({line}): start all of them, with the same address"
        ) from error
    if process:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for good
        Progress.shown = False


def agree(*numbers: int) -> tuple[int, ...]:
    """The largest of each number over all processes, the same in each of them."""
    if jax.process_count() == 1:
        return numbers
    return tuple(multihost_utils.process_allgather(np.array(numbers)).max(0).tolist())


def in_turn(work: Callable[[], Any]) -> Any:
    """`work()` in the first process, then in the others, which find what it made.

    Raises:
      UserError: in the others, where it fails in the first.
    """
    if jax.process_count() == 1:
        return work()
    result, failure = None, None
    if not jax.process_index():
        try:
            result = work()
        except BaseException as error:  # told to the others before it goes on
            failure = error
    (failed,) = agree(int(failure is not None))
    if failure:
        raise failure
    if failed:
        raise UserError("process 0 could not begin; it says why")
    return work() if jax.process_index() else result


@contextlib.contextmanager
def own_folder(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where this process writes: the workdir, or a folder that is thrown away."""
    if not jax.process_index():
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="avdiff_jax-process-") as folder:
        yield pathlib.Path(folder)


def fetch(tree: Any):
    """Arrays of any sharding as whole NumPy arrays; all processes call it together."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
