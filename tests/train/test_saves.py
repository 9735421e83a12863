"""Checkpoints that are written beside training: in order, and none after one that failed."""

import contextlib
import signal
import threading
import time

import jax.numpy as jnp
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.runtime.stop import Stopped
from avdiff_jax.train.optimisers import TrainState
from avdiff_jax.train.records import Phase, SubstageRecord
from avdiff_jax.train.saves import Saves, SubstageCheckpoints
from avdiff_jax.train.workdir import open_checkpoints

PHASE = Phase(1, 1)


def state(value):
    return TrainState(vars={"x": jnp.full(3, float(value))}, opt={}, updates=jnp.int32(value))


def record(epoch, **fields):
    return SubstageRecord(epoch, epoch, best_epoch=epoch, best={"score": 1.0}, **fields)


@contextlib.contextmanager
def opened(workdir):
    both = (checkpoints(PHASE) for checkpoints in open_checkpoints(workdir))
    with Saves() as saves, SubstageCheckpoints(*both, saves) as checkpoints:
        yield checkpoints, saves


def test_what_is_saved_is_restored(tmp_path):
    with opened(tmp_path) as (checkpoints, _):
        assert checkpoints.restore(state(0)) is None
        first = record(1, cuts=(1,), sums={"loss": 2.0})
        checkpoints.save(4, state(4), first, state(4).vars)
        checkpoints.save(8, state(8), record(1))
    with opened(tmp_path) as (checkpoints, _):
        newest, told = checkpoints.restore(state(0))
        assert (newest.vars["x"] == 8).all() and told == record(1)
        assert (checkpoints.restore_best(told, state(0).vars)["x"] == 4).all()


def test_training_does_not_wait_and_the_best_comes_first(tmp_path, monkeypatch):
    """A save that is held up comes back at once; the record that names the best is written last."""
    save, go, written = Checkpoints.save, threading.Event(), []

    def held_up(self, *args):
        assert go.wait(60), "the save was waited for"
        save(self, *args)
        written.append(self.folder.name)

    monkeypatch.setattr(Checkpoints, "save", held_up)
    with opened(tmp_path) as (checkpoints, saves):
        checkpoints.save(4, state(4), record(1), state(4).vars)
        saves.check()
        assert not written
        go.set()
        saves.wait()
        assert written == ["stage1-substage1-best", "stage1-substage1"]


def test_nothing_is_written_after_a_save_that_failed(tmp_path, monkeypatch):
    calls = []

    def full(self, number, *_):
        calls.append(number)
        raise UserError("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(UserError, match="full"), opened(tmp_path) as (checkpoints, _):
        checkpoints.save(4, state(4), record(1), state(4).vars)
        checkpoints.save(8, state(8), record(2))
    assert calls == [1]


@pytest.mark.parametrize("error", [None, Stopped(signal.SIGTERM)])
def test_a_run_that_ends_or_is_stopped_waits_for_its_saves(error, tmp_path, monkeypatch):
    """The next substage does not; and whatever fails is told in the end."""
    go, closed = threading.Event(), []

    def full(*_):
        assert go.wait(60), "the save was waited for"
        raise UserError("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", full)
    monkeypatch.setattr(Checkpoints, "__exit__", lambda self, *_: closed.append(self))
    with pytest.raises(UserError, match="full"), Saves() as saves:
        both = (checkpoints(PHASE) for checkpoints in open_checkpoints(tmp_path))
        with SubstageCheckpoints(*both, saves) as checkpoints:
            checkpoints.save(4, state(4), record(1))
        assert not closed
        go.set()
        if error:
            raise error


def test_what_follows_a_save_is_written_after_it_or_not_at_all():
    go, written = threading.Event(), []
    with Saves() as saves:
        saves.begin(lambda: go.wait(60) and written.append(1))
        saves.then(lambda: written.append(2))
        assert not written
        go.set()
        saves.wait()
        assert written == [1, 2]

    def fail():
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="full"), Saves() as saves:
        saves.begin(fail)
        saves.then(lambda: written.append(3))
    assert written == [1, 2]


def test_a_failure_is_seen_without_waiting(tmp_path, monkeypatch):
    done = threading.Event()

    def full(self, *_):
        done.set()
        raise UserError("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", full)
    with opened(tmp_path) as (checkpoints, saves):
        checkpoints.save(4, state(4), record(1))
        assert done.wait(60)
        with pytest.raises(UserError, match="full"):
            for _ in range(1000):  # the thread may need a moment to end
                saves.check()
                time.sleep(0.01)


def test_of_several_processes_each_saves_at_once(tmp_path, monkeypatch):
    """They take part in a save in the same order."""
    threads = []
    monkeypatch.setattr(
        Checkpoints, "save", lambda *_: threads.append(threading.current_thread()))
    with opened(tmp_path) as (checkpoints, _):
        monkeypatch.setattr("jax.process_count", lambda: 2)
        checkpoints.save(4, state(4), record(1), state(4).vars)
        monkeypatch.undo()
    assert threads == [threading.main_thread()] * 2
