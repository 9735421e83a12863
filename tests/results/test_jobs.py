"""How far the runs of a benchmark are, and doing the rest."""

import copy
import json
import os
import signal
import sys
import threading
import time
from typing import ClassVar

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.results import jobs, tables
from avdiff_jax.results.results_json import write_results
from avdiff_jax.runtime import lock
from tests.results.finished import FakeMain, outcome, small_grid

# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_missing_is_run_interrupted_resumed_and_done_skipped(tmp_path):
    grid = small_grid(tmp_path, methods=["avdiff", "ncm", "linear"])
    done, begun, missing = grid
    write_results(done.workdir, outcome(done.config, [(1.0, 2.0, 3.0)]))
    begun.workdir.mkdir(parents=True)
    (begun.workdir / "config.json").write_text(json.dumps(begun.config))
    assert [jobs.state(run) for run in grid] == ["done", "interrupted", "missing"]
    *lines, total = [line for line in jobs.plan(grid).splitlines() if line[0] != " "]
    assert total == "3 runs: 1 to do, 1 interrupted, 1 done"
    assert [line.split()[0] for line in lines] == ["skip", "resume", "run"]
    main = FakeMain(grid)
    assert jobs.execute(grid, main) == []
    assert main.calls == [begun.arguments(resume=True), missing.arguments()]
    assert jobs.execute(grid, main) == [] and len(main.calls) == 2
    assert [jobs.state(run) for run in grid] == ["done"] * 3


@pytest.mark.parametrize("file", ["config.json", "results.json"])
def test_a_workdir_of_another_configuration_stops_all_before_anything_runs(tmp_path, file):
    grid = small_grid(tmp_path)
    other = copy.deepcopy(grid[1].config)
    other["train"]["batch"] = 16
    grid[1].workdir.mkdir(parents=True)
    content = outcome(other, [(1.0, 2.0, 3.0)]) if file == "results.json" else other
    (grid[1].workdir / file).write_text(json.dumps(content))
    main = FakeMain(grid)
    with pytest.raises(UserError, match=r"train\.batch=16, now 64 .* another --root"):
        jobs.execute(grid, main)
    assert main.calls == []


def test_a_failure_does_not_stop_the_rest(tmp_path):
    grid = small_grid(tmp_path, methods=["avdiff", "mbt", "ncm"])
    main = FakeMain(grid, failing=["mbt"])
    (failure,) = jobs.execute(grid, main)
    assert len(main.calls) == 3
    assert (failure.run, failure.code, failure.reason) == (grid[1], 1, "error: out of memory")
    report = jobs.failure_report([failure])
    assert report == (
        f"failed (exit 1): ucf 5-shot mbt seed 42: error: out of memory [{grid[1].log}]"
    )
    cells = jobs.finished(grid)
    assert [len(members) for members in cells.values()] == [1, 0, 1]
    text = tables.markdown(tables.benchmark_table(cells))
    assert "| ucf | 5 | mbt | – | – (80.61) | – (32.72) | – (46.55) | – (34.53) | – | – |" in text


class Quick:
    """Ends every run at once, well but without results."""

    def run(self, arguments, log):
        return 0

    def stop(self):
        pass


def test_success_without_results_is_a_failure(tmp_path):
    (failure,) = jobs.execute(small_grid(tmp_path, methods=["ncm"]), Quick())
    assert failure.code == 1 and failure.reason == "it printed nothing"


class Bar:
    """Keeps what it is told."""

    said: ClassVar[list] = []

    def __init__(self, total, label):
        self.said.append(total)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def step(self, n, note):
        self.said.append((n, note))

    def tell(self, text):
        self.said.append(text)


def test_each_run_is_told_of_when_it_begins_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(Bar, "said", [])
    grid = small_grid(tmp_path, methods=["avdiff", "mbt", "ncm"])
    write_results(grid[0].workdir, outcome(grid[0].config, [(1.0, 2.0, 3.0)]))
    jobs.execute(grid, FakeMain(grid, failing=["mbt"]), progress=Bar)
    total, *said = Bar.said
    first, second = str(grid[1]), str(grid[2])
    assert total == 2 and [line for line in said if isinstance(line, tuple)] == [
        (1, f"{first} failed"), (1, second)
    ]
    told = [line for line in said if isinstance(line, str)]
    assert f"begins: {first} [{grid[1].log}]" in told
    assert f"failed after 00:00: {first}; 1 of 2 runs, about 00:00 left" in told
    assert f"HM 41.11 after 00:00: {second}; 2 of 2 runs, about 00:00 left" in told


def test_a_process_writes_its_log_and_gives_its_exit_code(tmp_path):
    program = "import sys; print('out', *sys.argv[1:]); print('bad', file=sys.stderr); sys.exit(3)"
    log = tmp_path / "x.log"
    assert jobs.Processes([sys.executable, "-c", program]).run(["--a=1"], log) == 3
    assert sorted(log.read_text().split("\n")) == ["", "bad", "out --a=1"]


def test_side_by_side_is_as_many_as_were_asked_for(tmp_path):
    """Two begin before either may end, and there are never three."""
    grid = small_grid(tmp_path, methods=["avdiff", "ncm", "linear", "mbt"])
    both, running, most = threading.Barrier(2, timeout=20), [], []

    class Slow(FakeMain):
        def run(self, arguments, log):
            running.append(log)
            most.append(len(running))
            both.wait()
            code = super().run(arguments, log)
            running.remove(log)
            return code

    assert jobs.execute(grid, Slow(grid), jobs=2) == []
    assert max(most) == 2 and len(most) == 4


@pytest.mark.parametrize(
    "cores, count, shares",
    [({0, 1}, 1, [()]), ({2, 3}, 2, [[2], [3]]), ({0, 1, 2, 3}, 2, [[0, 2], [1, 3]]),
     ({5, 7}, 3, [[5], [7], [5]])],
)
def test_cores_are_shared_out(monkeypatch, cores, count, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", None, raising=False)
    assert jobs.share_cores(count) == shares


def test_a_process_has_its_cores_and_its_share_of_a_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    program = (
        "import os, threading; print(len(os.sched_getaffinity(threading.get_native_id())), "
        "os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION'))"
    )
    cores = len(os.sched_getaffinity(0))
    for count, said in ((1, f"{cores} None"), (2 * cores, f"1 {0.9 / (2 * cores):.3f}")):
        log = tmp_path / f"{count}.log"
        assert jobs.Processes([sys.executable, "-c", program], count).run([], log) == 0
        assert log.read_text().split("\n")[0] == said


SAVING = """
import pathlib, signal, sys, time
here = pathlib.Path(next(word for word in sys.argv if word.startswith("--workdir="))[10:])
def stop(*_):
    here.with_suffix(".saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
here.with_suffix(".ready").touch()
time.sleep(60)
"""


def test_an_exception_lets_all_processes_save_and_begins_no_more(tmp_path):
    """As a stop signal raises one: here it comes when two runs are under way."""
    grid = small_grid(tmp_path, methods=["avdiff", "ncm", "linear"])

    class Stopped(Bar):
        def step(self, n, note):
            raise KeyboardInterrupt

    class Starter(jobs.Processes):
        """The first run ends when the two others are ready to be stopped."""

        def run(self, arguments, log):
            if f"--workdir={grid[0].workdir}" not in arguments:
                return super().run(arguments, log)
            deadline = time.monotonic() + 60
            while len([*tmp_path.rglob("*.ready")]) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            return 1

    with pytest.raises(KeyboardInterrupt):
        jobs.execute(grid, Starter([sys.executable, "-c", SAVING], 3), jobs=3, progress=Stopped)
    saved = {path.parent.name for path in tmp_path.rglob("*.saved")}
    assert saved == {"ncm", "linear"}
    assert any(str(line).startswith("stopped: what runs saves first") for line in Bar.said)


def test_a_process_that_is_about_to_begin_as_others_are_stopped_ends_too(tmp_path):
    processes = jobs.Processes([sys.executable, "-c", "import time; time.sleep(5)"])
    processes.stop()
    assert processes.run([], tmp_path / "log") == -signal.SIGTERM


def test_a_run_under_way_elsewhere_is_waited_for(tmp_path, monkeypatch):
    """As a killed benchmark leaves one behind: when that ends, it is done."""
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(Bar, "said", [])
    grid = small_grid(tmp_path)
    main, theirs, other = FakeMain(grid), grid[0], threading.Event()

    def run_elsewhere():
        with lock.hold_lock(theirs.workdir):
            (theirs.workdir / "config.json").write_text(json.dumps(theirs.config))
            other.set()
            while not any(str(line).startswith("waits: ") for line in Bar.said):
                time.sleep(0.01)
            write_results(theirs.workdir, outcome(theirs.config, [(1.0, 2.0, 3.0)]))

    thread = threading.Thread(target=run_elsewhere)
    thread.start()
    assert other.wait(20) and lock.is_held(theirs.workdir)
    assert jobs.execute(grid, main, progress=Bar) == []
    thread.join()
    assert main.calls == [grid[1].arguments()] and not lock.is_held(theirs.workdir)
    assert not lock.is_held(tmp_path / "nowhere")


def test_a_stop_does_not_wait_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 60)
    grid = small_grid(tmp_path, methods=["avdiff", "ncm"])

    class Stopped(Bar):
        def step(self, n, note):
            raise KeyboardInterrupt

    with lock.hold_lock(grid[0].workdir):
        (grid[0].workdir / "config.json").write_text(json.dumps(grid[0].config))
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            jobs.execute(grid, FakeMain(grid), jobs=2, progress=Stopped)
        assert time.monotonic() - begun < 30


def test_what_was_cancelled_never_begins(tmp_path):
    grid = small_grid(tmp_path, methods=["avdiff", "ncm", "linear", "mbt"])
    main = FakeMain(grid)

    class Stopped(Bar):
        def step(self, n, note):
            raise KeyboardInterrupt

    gate = threading.Event()

    class Gated(FakeMain):
        def run(self, arguments, log):
            if main.calls:
                assert gate.wait(20)
            main.calls.append(log)
            return super().run(arguments, log)

        def stop(self):
            gate.set()

    with pytest.raises(KeyboardInterrupt):
        jobs.execute(grid, Gated(grid), progress=Stopped)
    assert len(main.calls) <= 2
