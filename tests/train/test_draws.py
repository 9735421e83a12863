"""The draws of stage 2: side by side they compute what they do one after the other."""

import dataclasses
import json
import signal

import jax
import numpy as np
import pytest

from avdiff_jax.runtime import memory
from avdiff_jax.runtime.stop import Stopped
from avdiff_jax.train import draws
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.draws import choose_draw_phases, split_draws, train_together
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import SubstageRun, run_substage
from avdiff_jax.train.workdir import open_checkpoints
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")

# What moves many networks takes long to compile.
SLOW = [pytest.param("train", words, marks=pytest.mark.slow) for words in ("", "method=avgan")]
TOGETHER = [Phase(2, 2, None)]
APART = [Phase(2, 2, draw) for draw in range(3)]


def train_epochs(b, phase, vars, workdir, epochs=1):
    """(draw, outcome) of the draws of a phase."""
    setting, state = prepare_substage(b, phase, vars, None)
    services = tiny.services(workdir)
    with services.writer, services.saves:
        outcome = run_substage(setting, state, Schedule(epochs), services, 0)
    return list(split_draws(b, phase, outcome.state, outcome.record))


@pytest.mark.parametrize("mode, words", [("eval", ""), *SLOW])
def test_side_by_side_equals_one_after_the_other(mode, words, tmp_path):
    """Variables, statistics and losses of each draw."""
    c = tiny.config(words, train__frozen_mode=mode, train__learning_rate=1e-3)
    b = tiny.make_context(c, 2)
    vars = initialise_variables(b)
    together = train_epochs(b, Phase(2, 2, None), vars, tmp_path / "together")
    assert [draw for draw, _ in together] == [0, 1, 2]
    for draw, outcome in together:
        (_, alone), = train_epochs(b, Phase(2, 2, draw), vars, tmp_path / f"alone{draw}")
        tiny.nearly(outcome.state.vars, alone.state.vars)
        assert outcome.together and not alone.together
        assert outcome.record.last.keys() == alone.record.last.keys()
        for name, value in alone.record.last.items():
            np.testing.assert_allclose(outcome.record.last[name], value, rtol=2e-3)
    first, second = together[0][1].state.vars, together[1][1].state.vars
    assert tiny.differ(first.params["cls"], second.params["cls"])
    assert tiny.differ(first.stats, second.stats)


@pytest.mark.slow
def test_stopped_and_resumed_together(tmp_path, monkeypatch):
    """In the middle of an epoch: bit for bit what an uninterrupted run gives."""
    b = tiny.make_context(tiny.config(), 2)
    vars, phase = initialise_variables(b), Phase(2, 2, None)
    whole = train_epochs(b, phase, vars, tmp_path / "whole", 2)
    setting, state = prepare_substage(b, phase, vars, None)
    services = tiny.services(tmp_path / "w")
    send = SubstageRun.send

    def signalling(self, place, inputs):
        if place == (1, 0):
            services.stop.signal = signal.SIGTERM
        return send(self, place, inputs)

    with monkeypatch.context() as patch, services.writer, pytest.raises(Stopped), services.saves:
        patch.setattr(SubstageRun, "send", signalling)
        run_substage(setting, state, Schedule(2), services, 0)
    with services.checkpoints(phase) as last:
        record = last.metadata(last.latest())
    assert (record["epoch"], record["step"]) == (1, 2)
    setting, state = prepare_substage(b, phase, vars, None)
    services = tiny.services(tmp_path / "w2")
    last, best = open_checkpoints(tmp_path / "w")
    services = dataclasses.replace(services, checkpoints=last, best=best)
    with services.writer, services.saves:
        outcome = run_substage(setting, state, Schedule(2), services, 0)
    again = list(split_draws(b, phase, outcome.state, outcome.record))
    for (_, ours), (_, theirs) in zip(again, whole, strict=True):
        tiny.same(jax.device_get(ours.state), jax.device_get(theirs.state))
        assert ours.record.last == theirs.record.last


@pytest.mark.parametrize("wish, mode, gpu, gib, words, wanted", [
    ("auto", "train", False, 64, "", False),
    ("auto", "eval", False, 64, "", True),
    ("auto", "train", True, 64, "", True),
    ("auto", "train", True, 1e-3, "", False),
    ("auto", "train", True, 64, "method=ncm", False),
    ("together", "train", False, 64, "", True),
    ("apart", "eval", True, 64, "", False),
])
def test_who_decides(wish, mode, gpu, gib, words, wanted, monkeypatch):
    c = tiny.config(words, train__draws=wish, train__frozen_mode=mode)
    b = tiny.make_context(c, 2)
    vars = initialise_variables(b)
    monkeypatch.setattr(draws.devices, "on_cpu", lambda mesh: not gpu)
    monkeypatch.setattr(memory, "free_bytes", lambda: int(gib * (1 << 30)))
    assert train_together(b, vars) == wanted


def test_a_run_goes_on_as_it_began(tmp_path):
    """Whatever would be chosen now, on another machine, say."""
    c = tiny.config("method=ncm")
    b = tiny.make_context(c, 2)
    vars = initialise_variables(b)
    for i, (begun, other) in enumerate(((TOGETHER, "apart"), (APART, "together"))):
        with c.unlocked():
            c.train.draws = other
        last, _ = open_checkpoints(tmp_path / str(i))
        assert choose_draw_phases(b, vars, last) != begun
        with last(begun[0]) as manager:
            manager.save(1, {"x": np.ones(2)}, {"at": 1})
        assert choose_draw_phases(b, vars, last) == begun


@pytest.mark.slow
def test_a_whole_run_together(tmp_path):
    """It says so, can be evaluated again, and gives nearly what draws apart give."""
    numbers = {}
    for wish in ("together", "apart"):
        c = tiny.config("method=attention_fusion", train__draws=wish)
        results, states = tiny.finish(c, tmp_path / wish)
        told = json.loads((tmp_path / wish / "results.json").read_text())
        assert told["draws_trained"] == wish
        again, kept = tiny.finish(c, tmp_path / wish, "evaluate")
        assert again["test"] == results["test"]
        tiny.same(jax.device_get(kept), jax.device_get(states))
        numbers[wish] = states
    for ours, theirs in zip(numbers["together"], numbers["apart"], strict=True):
        tiny.nearly(ours.vars, theirs.vars)
