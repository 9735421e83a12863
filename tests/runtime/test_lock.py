"""One run at a time in a workdir, and nothing to clear away after one that died."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.runtime import lock
from avdiff_jax.runtime.lock import hold_lock
from avdiff_jax.train import protocol
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")

HOLDER = """
import pathlib, sys, time
from avdiff_jax.runtime.lock import hold_lock
with hold_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.0)


def test_a_second_run_is_refused_and_changes_nothing(tmp_path):
    with hold_lock(tmp_path / "w"):
        before = (tmp_path / "w" / ".lock").read_text()
        with pytest.raises(UserError) as caught:
            protocol.run(tiny.config("method=ncm"), tmp_path / "w")
        sentence = f"is in use by process {os.getpid()} on {socket.gethostname()}: wait until"
        assert sentence in str(caught.value) and "\n" not in str(caught.value)
        assert (tmp_path / "w" / ".lock").read_text() == before
        assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())  # nothing was written in it


def test_a_lock_ends_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_watch", None)  # on one machine there is nothing to watch for
    (tmp_path / "notes.txt").touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        sentence = f"in use by process {process.pid} "
        with pytest.raises(UserError, match=sentence), hold_lock(tmp_path):
            pass
        process.kill()
    assert (tmp_path / ".lock").read_text()  # it had no time to tidy up
    with hold_lock(tmp_path):
        (tmp_path / "config.json").touch()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_folder_without_a_run_keeps_no_lock(tmp_path):
    (tmp_path / "notes.txt").touch()
    with hold_lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_dead_holder_on_another_machine_is_watched_and_then_replaced(tmp_path, quick, capsys):
    (tmp_path / ".lock").write_text("elsewhere 7\n")
    with hold_lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{socket.gethostname()} {os.getpid()}\n"
    assert "last held by process 7 on elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("locks", [True, False])
def test_a_living_holder_on_another_machine_is_seen(tmp_path, quick, monkeypatch, locks):
    """Its locks do not reach us; its signs of life do. Nor need there be locks at all."""
    def no_locks(*_):
        raise OSError(37, "No locks available")

    if not locks:
        monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    (tmp_path / ".lock").write_text("elsewhere 7\n")
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(tmp_path / ".lock", over))
    beating.start()
    with pytest.raises(UserError, match="in use by process 7 on elsewhere"), hold_lock(tmp_path):
        pass
    over.set()
    beating.join()
    assert (tmp_path / ".lock").read_text() == "elsewhere 7\n"


def _beat(path, over):
    with path.open("a") as file, lock._signs_of_life(file):
        over.wait(20)


def test_only_process_0_of_several_hosts_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.jax, "process_index", lambda: 1)
    with hold_lock(tmp_path / "w"):
        assert not (tmp_path / "w").exists()
