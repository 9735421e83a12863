"""Steps are compiled ahead as they are called, one at a time, and a run does not notice."""

import dataclasses
import threading

import jax
import pytest

from avdiff_jax.train import ahead
from avdiff_jax.train.context import initialise_variables
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
    contexts = [tiny.make_context(tiny.config(words, **changes), number) for number in (1, 2)]
    last, _ = open_checkpoints(tmp_path)
    for context, phase in ahead.list_phases(contexts, last):
        program, arguments = ahead.describe_step(context, phase)
        setting, state = prepare_substage(context, phase, initialise_variables(context), None)
        assert setting.program is program

        def called(*arguments):
            raise Called(arguments)

        called.trace = program.trace  # for what a step takes
        services = tiny.services(tmp_path / phase.name)
        with services.writer, services.saves, pytest.raises(Called) as call:
            told = dataclasses.replace(setting, program=called)
            run_substage(told, state, Schedule(1), services, 0)
        assert kinds(call.value.args[0]) == kinds(arguments)


@pytest.mark.parametrize("words, changes, described", [
    ("method=ncm", {}, []),
    # Val has to choose the space that substage 2 learns in.
    ("method=avdiff_plus", {"avdiff_plus__head": "linear"}, [(1, 1), (2, 1)]),
])
def test_only_steps_that_are_known_by_then(words, changes, described, tmp_path):
    contexts = [tiny.make_context(tiny.config(words, **changes), number) for number in (1, 2)]
    phases = ahead.list_phases(contexts, open_checkpoints(tmp_path)[0])
    assert described == [
        phase[:2] for context, phase in phases if ahead.describe_step(context, phase)
    ]


def test_a_first_substage_is_left_out_where_the_second_has_begun(tmp_path):
    contexts = [tiny.make_context(tiny.config(), number) for number in (1, 2)]
    last, _ = open_checkpoints(tmp_path)
    begun = Phase(1, 2), Phase(2, 2, 0)
    for phase in begun:
        (tmp_path / "checkpoints" / phase.name / "1").mkdir(parents=True)
    assert [phase for _, phase in ahead.list_phases(contexts, last)] == list(begun)


@pytest.fixture
def programs(monkeypatch):
    """In the place of the steps of four phases; a (phase, word) of each thing that happens, and
    what compiling waits for."""
    happened, proceed = [], threading.Event()

    class Program:
        def __init__(self, phase):
            self.phase = phase

        def lower(self, *arguments):
            happened.append((self.phase, "begun"))
            return self

        def compile(self):
            proceed.wait(10)
            happened.append((self.phase, "compiled"))

    class Context:
        number = 1
        printed = threading.Event()

        @property
        def base_prints(self):
            self.printed.set()

    phases = [Phase(1, 1), Phase(1, 2), Phase(2, 1), Phase(2, 2)]
    monkeypatch.setattr(ahead, "is_worthwhile", lambda context: True)
    monkeypatch.setattr(
        ahead, "list_phases", lambda *args: iter([(Context(), phase) for phase in phases])
    )
    monkeypatch.setattr(ahead, "compile_initialising", lambda context: None)
    monkeypatch.setattr(ahead, "describe_step", lambda _, phase: (Program(phase), ()))
    contexts = [Context(), Context()]
    contexts[1].number = 2
    return contexts, happened, proceed


def test_it_waits_for_the_steps_that_are_needed(programs):
    contexts, happened, proceed = programs
    with ahead.compile_ahead(contexts, None) as wait:
        threading.Timer(0.2, proceed.set).start()
        for phase in (Phase(1, 1), Phase(1, 2), Phase(2, 1), Phase(2, 2, None)):
            wait(phase)
            assert (phase._replace(draw=0), "compiled") in happened
        assert contexts[1].printed.wait(10)
    # One at a time.
    assert [word for _, word in happened] == ["begun", "compiled"] * 4


def test_an_error_ends_it_and_no_one_waits(programs, monkeypatch):
    contexts, happened, _ = programs

    def fail(context, phase):
        raise ValueError("no memory")

    monkeypatch.setattr(ahead, "describe_step", fail)
    with ahead.compile_ahead(contexts, None) as wait:
        waiting = threading.Thread(target=wait, args=[Phase(2, 2, 1)], daemon=True)
        waiting.start()
        waiting.join(10)
    assert not waiting.is_alive() and happened == []


def test_it_is_left_when_the_run_fails(programs):
    contexts, happened, proceed = programs
    with pytest.raises(ValueError), ahead.compile_ahead(contexts, None):
        threading.Timer(0.2, proceed.set).start()
        raise ValueError
    assert happened == [(Phase(1, 1), "begun"), (Phase(1, 1), "compiled")]
    assert not contexts[1].printed.is_set()
    assert all(thread.name != "compile ahead" for thread in threading.enumerate())


@pytest.mark.slow
def test_a_run_does_not_notice(finished, tmp_path, monkeypatch, caplog):
    """And no step is compiled twice."""
    workdir, _, states, _ = finished
    monkeypatch.setattr(ahead, "is_worthwhile", lambda context: True)
    jax.clear_caches()
    jax.config.update("jax_log_compiles", True)
    _, again = tiny.finish(tiny.config(), tmp_path / "run")
    jax.config.update("jax_log_compiles", False)
    assert caplog.text.count("Finished XLA compilation of jit(run)") == 4
    tiny.same(again, states)
    assert tiny.lines(tmp_path / "run") == tiny.lines(workdir)


def test_not_on_a_cpu():
    context = tiny.make_context(tiny.config(), 2)
    assert not ahead.is_worthwhile(context)
    with ahead.compile_ahead([context], None) as wait:
        wait(Phase(2, 2))
