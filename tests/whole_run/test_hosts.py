"""Two processes on this machine run the main job together and find what one finds."""

import json
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.runtime import hosts
from tests import tiny


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def started(workdir, log, *more):
    """The main job on the tiny world, one CPU device a process."""
    with log.open("w") as file:
        return subprocess.Popen(
            tiny.command("", workdir, *more), stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        )


def together(workdir, logs, *more):
    """Exit codes of two processes that share a run."""
    port = free_port()
    flags = (f"--coordinator=127.0.0.1:{port}", "--processes=2", *more)
    jobs = [started(workdir, log, *flags, f"--process={i}") for i, log in enumerate(logs)]
    return [job.wait(timeout=900) for job in jobs]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Each of the two reads its share from the file, the one holds all features."""
    where = "--config.data.residence=host"
    logs = [tmp_path / name for name in ("0.log", "1.log")]
    assert started(tmp_path / "one", tmp_path / "one.log").wait() == 0
    assert together(tmp_path / "two", logs, where) == [0, 0], [log.read_text() for log in logs]
    one, two = (tmp_path / w for w in ("one", "two"))
    # The rest of an event file's name is the time.
    files, others = ({p.name.partition(".out.")[0] for p in w.iterdir()} for w in (one, two))
    assert files == others
    ours, theirs = (tiny.lines(w) for w in (two, one))
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for draw in range(3):
        a, b = (np.load(w / f"scores-draw{draw}.npz") for w in (one, two))
        with a, b:
            np.testing.assert_array_equal(a["clips"], b["clips"])
            np.testing.assert_allclose(a["scores"], b["scores"], atol=2e-3)
    a, b = (json.loads((w / "results.json").read_text()) for w in (one, two))
    assert a["test"]["draws"][0].keys() == b["test"]["draws"][0].keys()
    assert "written to" in logs[0].read_text() and "written to" not in logs[1].read_text()
    # What the first refuses, none does.
    assert together(two, logs, where) == [2, 2]
    assert "already holds a run" in logs[0].read_text()
    assert "process 0 could not begin" in logs[1].read_text()


@pytest.mark.parametrize("coordinator, processes, process", [
    ("", 2, 0), ("127.0.0.1:1", 2, 2), ("127.0.0.1:1", 1, -1),
])
def test_numbers_that_contradict(coordinator, processes, process):
    with pytest.raises(UserError, match="give all three"):
        hosts.start(coordinator, processes, process)


def test_alone_nothing_is_asked():
    assert hosts.agree(3, 0) == (3, 0)
    assert hosts.in_turn(lambda: 7) == 7
    with hosts.own_folder(Path("w")) as folder:
        assert folder == Path("w")
