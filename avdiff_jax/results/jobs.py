"""How far each run of a benchmark is, and doing the rest: several side by side, as processes."""

import os
import queue
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, Protocol

from ml_collections import ConfigDict
from tqdm import tqdm

from avdiff_jax.cli import configuration
from avdiff_jax.cli.home import command
from avdiff_jax.data import of_config
from avdiff_jax.errors import UserError
from avdiff_jax.results.benchmark import Run
from avdiff_jax.results.results_json import read_results
from avdiff_jax.results.runs import Finished, Key
from avdiff_jax.runtime.lock import is_held
from avdiff_jax.runtime.progress import Progress

WAIT_SECONDS = 2.0  # between two looks at a run of another process
GPU_MEMORY = 0.9  # that runs side by side share out among them


class Failure(NamedTuple):
    """A run that ended with another exit code than 0, and the last line that it printed."""

    run: Run
    code: int
    reason: str


# ------------------------------------------------------------------------- how far each is


def state(run: Run) -> str:
    """"done", "interrupted" or "missing".

    Raises:
      UserError: the workdir holds a run of another configuration.
    """
    there = None
    if (run.workdir / "results.json").exists():
        reached, there = "done", read_results(run.workdir)["config"]
    elif (run.workdir / "config.json").exists():
        reached, there = "interrupted", configuration.read_recorded(run.workdir / "config.json")
    else:
        return "missing"
    for name, (ours, theirs) in configuration.differences(run.config, there).items():
        raise UserError(
            f"{run.workdir} was run with {name}={theirs}, now {ours} is asked for: use the same "
            "value, or another --root"
        )
    return reached


def plan(runs: Sequence[Run]) -> str:
    """What would happen, one line a run with its command line, and how many there are of each."""
    verbs = {"done": "skip   ", "interrupted": "resume ", "missing": "run    "}
    lines, counts = [], Counter()
    for run in runs:
        reached = state(run)
        counts[reached] += 1
        call = f"{command('main')} {' '.join(run.arguments(reached == 'interrupted'))}"
        lines.append(f"{verbs[reached]} {run}")
        lines += [] if reached == "done" else [f"          {call}"]
    total = ", ".join([f"{counts['missing']} to do", f"{counts['interrupted']} interrupted",
                       f"{counts['done']} done"])
    lines.append(f"{len(runs)} runs: {total}")
    return "\n".join(lines)


def list_missing(runs: Sequence[Run]) -> list[str]:
    """Says which stores and splits are missing that runs still ask for; class splits of a store are
    made by themselves."""
    missing = {}
    for run in runs:
        if state(run) != "done":
            config = ConfigDict(run.config)
            sentences = of_config.list_missing(config, run.workdir)
            if run.split is not None and not of_config.find_store(config).exists():
                sentences = sentences[:1]
            elif run.split is not None:
                sentences = []
            missing |= dict.fromkeys(sentences)
    return list(missing)


# ----------------------------------------------------------------------------- doing the rest


class Starter(Protocol):
    """Runs launch/main.py."""

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Runs it with `arguments`, its output appended to `log`; returns the exit code."""
        ...

    def stop(self) -> None:
        """Lets all that run save and end."""
        ...


class Processes:
    """Runs a command as processes, up to `jobs` side by side: each on its share of the cores, one
    core each where there are no more, and with its share of the memory of a GPU."""

    def __init__(self, command: Sequence[str], jobs: int = 1):
        self.command, self.environment = command, dict(os.environ)
        if jobs > 1:
            share = f"{GPU_MEMORY / jobs:.3f}"
            self.environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
        self._shares: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        for cores in share_cores(jobs):
            self._shares.put(cores)
        self._children: list[subprocess.Popen] = []
        self._stopping = False

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Runs one process, its output appended to `log`; returns its exit code."""
        cores = self._shares.get()
        try:
            with log.open("ab") as file, subprocess.Popen(
                [*self.command, *arguments], stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, env=self.environment,
            ) as child:
                if cores:  # before it has threads, which are bound as it is
                    os.sched_setaffinity(child.pid, cores)
                self._children.append(child)
                if self._stopping:
                    child.terminate()
                return child.wait()
        finally:
            self._shares.put(cores)

    def stop(self) -> None:
        """Lets the processes save and end, those too that are about to begin."""
        self._stopping = True
        for child in self._children:
            # Ctrl-C in a terminal reaches them by itself; SIGTERM on top of it is harmless.
            child.terminate()


def share_cores(jobs: int) -> list[Sequence[int]]:
    """Shares the cores of this process out among jobs; nothing for a single job, and where the
    system does not bind processes to cores."""
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return [()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [cores[job % len(cores) :: jobs] for job in range(jobs)]


def execute(
    runs: Sequence[Run], starter: Starter, jobs: int = 1, progress: type[Progress] = Progress
) -> list[Failure]:
    """Runs what is missing and goes on with what was interrupted, `jobs` at a time in their order;
    returns what failed.

    A run that fails does not keep the rest from running. One that another process has under way, as
    a killed benchmark leaves behind, is waited for. An exception, such as that of a stop signal,
    stops all that run and waits for them.
    """
    todo = [run for run in runs if state(run) != "done"]  # complain before anything is run
    failures, started, stopping = [], time.monotonic(), threading.Event()
    with progress(len(todo), "benchmark") as bar, ThreadPoolExecutor(jobs) as pool:

        def run_one(run: Run) -> tuple[Failure | None, float]:
            begun, reached = time.monotonic(), _await_others(run, stopping, bar.tell)
            if reached == "done" or stopping.is_set():
                return None, time.monotonic() - begun
            verb = "goes on" if reached == "interrupted" else "begins"
            bar.tell(f"{verb}: {run} [{run.log}]")
            return _run_one(run, reached, starter), time.monotonic() - begun

        futures = {pool.submit(run_one, run): run for run in todo}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                run, (failure, seconds) = futures[future], future.result()
                failures += [failure] if failure else []
                left = (time.monotonic() - started) / done * (len(todo) - done)
                bar.step(1, note=f"{run} failed" if failure else str(run))
                bar.tell(
                    f"{_outcome(run, failure)} after {tqdm.format_interval(seconds)}: {run}; "
                    f"{done} of {len(todo)} runs, about {tqdm.format_interval(left)} left"
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            bar.tell("stopped: what runs saves first; the same command goes on")
            stopping.set()
            starter.stop()
            raise
    return sorted(failures, key=lambda failure: runs.index(failure.run))


def _await_others(run: Run, stopping: threading.Event, tell: Callable[[str], None]) -> str:
    """Waits while another process has the run under way; returns its state."""
    if is_held(run.workdir):
        tell(f"waits: {run} is under way in another process")
    while is_held(run.workdir) and not stopping.wait(WAIT_SECONDS):
        pass
    return state(run)


def _run_one(run: Run, reached: str, starter: Starter) -> Failure | None:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    code = starter.run(run.arguments(reached == "interrupted"), run.log)
    if code == 0 and (run.workdir / "results.json").exists():
        return None
    return Failure(run, code or 1, _last_line(run.log))


def _outcome(run: Run, failure: Failure | None) -> str:
    if failure:
        return "failed"
    return f"HM {read_results(run.workdir)['test']['mean']['HM']:.2f}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def failure_report(failures: Sequence[Failure]) -> str:
    """One line for each failed run, with the place of its log."""
    lines = [f"failed (exit {f.code}): {f.run}: {f.reason} [{f.run.log}]" for f in failures]
    return "\n".join(lines)


def finished(runs: Sequence[Run]) -> dict[Key, list[Finished]]:
    """The finished runs of each row; a row without any is there too."""
    cells: dict[Key, list[Finished]] = {run.key: [] for run in runs}
    for run in runs:
        if (run.workdir / "results.json").exists():
            cells[run.key].append(Finished(run.workdir, read_results(run.workdir)))
    return cells
