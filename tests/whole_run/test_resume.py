"""An interrupted run that goes on equals one that was never interrupted, array by array."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.runtime import checkpoint
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.runtime.stop import Stop, Stopped
from avdiff_jax.train import substage, workdir
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.records import Phase, Stage1Record
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.workdir import PHASES
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture
def whole(finished):
    """(workdir, final states) of an uninterrupted run."""
    return finished[0], finished[2]


def assert_same(workdir, states, whole):
    other, wanted = whole
    tiny.same(states, wanted)
    assert tiny.outcome(workdir) == tiny.outcome(other)
    assert tiny.lines(workdir) == tiny.lines(other)
    for draw in range(3):
        ours, theirs = (np.load(w / f"scores-draw{draw}.npz") for w in (workdir, other))
        with ours, theirs:
            for name in ("scores", "labels", "clips"):
                np.testing.assert_array_equal(ours[name], theirs[name])


class Killed(BaseException):
    """The process died here."""


PLACES = {("stage1-substage1-best", 1), ("stage1-substage2", 4), ("stage2-substage2-draw1", 4)}


@pytest.mark.slow
@pytest.mark.parametrize("places", [PLACES, None])
def test_killed_after_a_save(places, whole, tmp_path, monkeypatch):
    """After some, or each, of the checkpoints, best and last: the next process goes on from it."""
    save, seen, killed = Checkpoints.save, set(), []

    def dying(self, number, state, metadata):
        save(self, number, state, metadata)
        place = (self.folder.name, number)
        if place not in seen and (not places or place in places):
            seen.add(place)
            killed.append(place)
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", dying)
    monkeypatch.setattr(substage, "EPOCH_SAVE_SECONDS", -1)  # each epoch, however short
    while True:
        try:
            _, states = tiny.finish(tiny.config(), tmp_path / "w", resume=bool(killed))
            break
        except Killed:
            assert len(killed) < 40
    assert any(folder.endswith("-best") for folder, _ in killed)
    if places:
        assert seen == places
    else:
        every = {folder.removesuffix("-best") for folder, _ in killed}
        wanted = {phase for phase in PHASES if phase.draw is not None and not phase.trial}
        assert every == {phase.name for phase in wanted}
    assert_same(tmp_path / "w", states, whole)


def test_short_epochs_share_a_save(tmp_path, monkeypatch):
    """Between the first and the last epoch of a substage nothing waits for the disk; the best of
    them comes with the record that names it."""
    saves, save = [], Checkpoints.save

    def noting(self, number, state, metadata):
        saves.append((self.folder.name, number))
        save(self, number, state, metadata)

    monkeypatch.setattr(Checkpoints, "save", noting)
    scores = iter((1.0, 3.0, 2.0))
    context = tiny.make_context(tiny.config())
    services = tiny.services(tmp_path)
    setting, state = prepare_substage(context, Phase(1, 1), initialise_variables(context), None)
    schedule = Schedule(3, select=lambda variables: {"score": next(scores)})
    with services.writer, services.saves:
        substage.run_substage(setting, state, schedule, services, 0)
    assert saves == [("stage1-substage1-best", 2), ("stage1-substage1", 12)]


@pytest.mark.parametrize("every", [9, pytest.param(3, marks=pytest.mark.slow)])
def test_stopped_in_the_middle_of_epochs(every, whole, tmp_path, monkeypatch):
    """A real SIGTERM after every so many dispatches, in the middle of an epoch and at its end."""
    step, places = substage.Progress.step, []

    def signalling(self, n=1, note=None):
        step(self, n, note)
        if n:
            places.append(self.desc)
            if len(places) % every == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(substage.Progress, "step", signalling)
    before, stops = signal.getsignal(signal.SIGTERM), 0
    while True:
        try:
            _, states = tiny.finish(tiny.config(), tmp_path / "w", resume=bool(stops))
            break
        except Stopped as stopped:
            stops += 1
            assert stopped.exit_code == 143 and str(stopped) == "SIGTERM"
            assert signal.getsignal(signal.SIGTERM) == before
    assert stops == len(places) // every >= 1
    assert_same(tmp_path / "w", states, whole)


def test_a_mid_epoch_save_knows_its_step(tmp_path, monkeypatch):
    """It is read back in units of steps, so that the dispatch may be of another size."""
    stop = Stop()
    monkeypatch.setattr(stop, "signal", signal.SIGINT)
    c = tiny.config()
    b = tiny.make_context(c)
    services = tiny.services(tmp_path, stop)
    setting, state = prepare_substage(b, Phase(1, 1), initialise_variables(b), None)
    with services.writer, services.saves, pytest.raises(Stopped) as stopped:
        substage.run_substage(setting, state, Schedule(2), services, 0)
    assert stopped.value.exit_code == 130
    with services.checkpoints(Phase(1, 1)) as last:
        record = last.metadata(last.latest())
    assert (record["epoch"], record["step"], record["steps"]) == (0, 2, 2)
    assert record["at"] == 0 and not record["finished"] and record["sums"]


def test_a_finished_run_stays_what_it_is(whole, tmp_path):
    workdir, states = whole
    found, before = tiny.outcome(workdir), tiny.lines(workdir)
    _, again = tiny.finish(tiny.config(), workdir, resume=True)
    tiny.same(again, states)
    assert tiny.outcome(workdir) == found and tiny.lines(workdir) == before


RECORD = {"gamma": 0.0, "at": 2, "temperature": 0.5} | {
    f"substage{n}": {"epochs": 1, "cuts": [], "measured": {}, "seconds": 1.0} for n in (1, 2)
}


@pytest.mark.parametrize("number", [{"version": 1}, {}])  # the first ones had none
def test_a_record_of_another_version_is_refused(number, tmp_path, monkeypatch):
    workdir.write_record(tmp_path, Stage1Record.from_json(RECORD))
    assert json.loads((tmp_path / "stage1.json").read_text()) == {
        "version": 1, **RECORD, "trials": []
    }
    (tmp_path / "stage1.json").write_text(json.dumps(number | RECORD))
    assert workdir.read_record(tmp_path) == Stage1Record.from_json(RECORD)
    monkeypatch.setattr(workdir, "RECORD", dataclasses.replace(workdir.RECORD, version=2))
    with pytest.raises(UserError, match=r"stage1.json has version 1 where version 2 is read: "):
        workdir.read_record(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(1, {"x": np.ones(3)}, {"at": 1})
        assert checkpoints.metadata(1) == {"at": 1}
        monkeypatch.setattr(checkpoint, "VERSION", 2)
        with pytest.raises(UserError, match=r"checkpoint 1 in .*/c is of version 1 .* reads 2: "):
            checkpoints.metadata(1)
        file = tmp_path / "c" / "1" / "metadata" / "metadata"
        file.write_text(file.read_text().replace('"version": 1, ', ""))
        with pytest.raises(UserError, match=r"checkpoint 1 in .*/c is of version 1 .* reads 2: "):
            checkpoints.metadata(1)


def test_second_ctrl_c_ends_at_once():
    before = signal.getsignal(signal.SIGINT)
    with Stop().listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_a_real_sigterm(tmp_path):
    """To a process of its own, twice; its last call without a signal ends the run."""
    command = functools.partial(tiny.command, "method=attention_fusion")
    whole = subprocess.run(command(tmp_path / "whole"), capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    workdir, stops = tmp_path / "w", 0
    for tries in range(3):
        more = ["--resume"] if tries else []
        process = subprocess.Popen(
            command(workdir, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while stops == tries < 2 and process.poll() is None:
            epochs = len(tiny.lines(workdir)) if (workdir / "metrics.jsonl").exists() else 0
            if epochs >= 2 * tries + 1:
                process.terminate()
                stops += 1
            time.sleep(0.02)
        _, errors = process.communicate()
        assert process.returncode == (143 if stops > tries else 0), errors
        if stops > tries:
            assert "stopped by SIGTERM: saved in" in errors and "--resume" in errors
    ours, theirs = tiny.outcome(workdir), tiny.outcome(tmp_path / "whole")
    assert json.dumps(ours) == json.dumps(theirs)
    assert tiny.lines(workdir) == tiny.lines(tmp_path / "whole")
