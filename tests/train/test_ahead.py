"""Stage 2's steps are compiled ahead as they are called, and a run does not notice."""

import dataclasses
import threading

import jax
import pytest

from avdiff_jax.train import ahead
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.draws import choose_draw_phases
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import run_substage
from avdiff_jax.train.workdir import open_checkpoints
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


class Called(Exception):
    """Ends a substage at its first dispatch."""


def kinds(arguments) -> list:
    """All that a compiled function looks at in its arguments before it compiles anew."""
    return [
        (path, x.shape, x.dtype, x.sharding, getattr(x, "weak_type", False))
        for path, x in jax.tree.leaves_with_path(arguments)
    ]


@pytest.mark.parametrize("words, changes", [
    ("", {}),
    *(pytest.param(words, changes, marks=pytest.mark.slow) for words, changes in (
        ("", {"train__frozen_mode": "eval", "train__draws": "apart"}),
        ("condition=prototype", {"train__frozen_mode": "eval"}),
        ("method=avgan", {"train__draws": "together"}),
        ("method=avdiff_plus", {"avdiff_plus__head": "linear", "avdiff_plus__space": "both"}),
    )),
])
def test_described_as_called(words, changes, tmp_path):
    context = tiny.make_context(tiny.config(words, **changes), 2)
    last, _ = open_checkpoints(tmp_path)
    described = list(ahead.describe_steps(context, last))
    variables = initialise_variables(context)
    phases = Phase(2, 1), choose_draw_phases(context, variables, last)[0]
    for phase, (program, arguments) in zip(phases, described, strict=True):
        setting, state = prepare_substage(context, phase, variables, None)
        assert setting.program is program

        def called(*arguments):
            raise Called(arguments)

        called.trace = program.trace  # for what a step takes
        services = tiny.services(tmp_path / str(phase.substage))
        with services.writer, pytest.raises(Called) as call:
            told = dataclasses.replace(setting, program=called)
            run_substage(told, state, Schedule(1), services, 0)
        assert kinds(call.value.args[0]) == kinds(arguments)


def test_a_method_that_trains_nothing_has_no_steps(tmp_path):
    context = tiny.make_context(tiny.config("method=ncm"), 2)
    assert list(ahead.describe_steps(context, open_checkpoints(tmp_path)[0])) == []


@pytest.mark.slow
def test_a_run_does_not_notice(finished, tmp_path, monkeypatch):
    """Nor an error in the thread, which is the main thread's to tell."""
    workdir, _, states, _ = finished
    monkeypatch.setattr(ahead, "is_worthwhile", lambda context: True)
    compiled = []

    class Program:
        def lower(self, *arguments):
            compiled.append(arguments)
            return self

        def compile(self):
            raise ValueError("no memory")

    def describe(*args):
        yield Program(), (1,)

    monkeypatch.setattr(ahead, "describe_steps", describe)
    _, again = tiny.finish(tiny.config(), tmp_path / "run")
    assert compiled == [(1,)]
    tiny.same(again, states)
    assert tiny.lines(tmp_path / "run") == tiny.lines(workdir)


def test_not_on_a_cpu():
    assert not ahead.is_worthwhile(tiny.make_context(tiny.config(), 2))


def test_it_is_left_when_stage_1_fails(monkeypatch):
    monkeypatch.setattr(ahead, "is_worthwhile", lambda context: True)
    seen, proceed = [], threading.Event()

    class Program:
        def lower(self, *arguments):
            seen.append(arguments)
            return self

        def compile(self):
            proceed.wait(10)

    monkeypatch.setattr(
        ahead, "describe_steps", lambda *args: iter([(Program(), (1,)), (Program(), (2,))])
    )
    with pytest.raises(ValueError), ahead.compile_meanwhile(None, None):
        threading.Timer(0.2, proceed.set).start()
        raise ValueError
    assert seen == [(1,)]
    assert all(thread.name != "compile stage 2" for thread in threading.enumerate())
