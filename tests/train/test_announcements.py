"""What a run says before each part: what comes, and what it will take."""

import re

import pytest

from avdiff_jax.train.announcements import announce_substage, announce_test, describe_parameters
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.records import Phase, SubstageChoice
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")
# Stage 1 took 40 seconds for its 8 or 4 epochs.
CHOSEN = SubstageChoice(6, (), {}, 40.0)


def said(capsys, words, phase, epochs, chosen=None) -> str:
    context = tiny.make_context(tiny.config(words, train__epochs1=8, train__epochs2=4), phase.stage)
    announce_substage(context, phase, epochs, chosen)
    return capsys.readouterr().out


def test_stage_1_says_how_long_it_may_take(capsys):
    line = said(capsys, "", Phase(1, 1), 8)
    assert line.startswith("stage 1, substage 1: up to 8 epochs of 4 steps on ")
    assert line.endswith(" clips of 6 base classes; Val chooses how many\n")
    line = said(capsys, "", Phase(1, 2, trial=2), 4)
    assert line.startswith("stage 1, substage 2, trial 2: ")
    assert "base classes and 6 clips of 3 novel classes; " in line


@pytest.mark.parametrize(
    "phase, epochs, told",
    [
        (Phase(2, 1), 6, "stage 2, substage 1: 6 epochs of 4 steps on .* about 00:30"),
        (Phase(2, 1), 1, "stage 2, substage 1: 1 epoch of 4 steps on .* about 00:05"),
        (Phase(2, 2, 1), 2, "stage 2, substage 2, draw 1: 2 epochs .* about 00:20"),
        (Phase(2, 2, None), 2, "all draws side by side: .* about 01:00"),
    ],
)
def test_stage_2_tells_its_time_by_stage_1(capsys, phase, epochs, told):
    line = said(capsys, "", phase, epochs, CHOSEN)
    assert re.search(told, line) and "as Val of stage 1 chose" in line


def test_a_method_without_steps_fits(capsys):
    line = said(capsys, "method=linear", Phase(2, 1), 1, CHOSEN)
    assert line.startswith("stage 2, substage 1: fits linear to ")
    assert line.endswith(" of 9 base classes; no steps, about 00:40\n")


def test_the_test_is_announced(capsys):
    announce_test(tiny.make_context(tiny.config("method=ncm"), 2))
    line = capsys.readouterr().out
    assert line.startswith("test: 3 draws on ") and "of base and" in line


def test_parameters_or_what_is_fitted_instead():
    context = tiny.make_context(tiny.config("method=ncm"))
    variables = initialise_variables(context)
    # 8 segments of 8 + 12 features: their mean and deviation, 9 means, and which are known
    assert describe_parameters(context.info, variables) == (
        f"parameters: ncm trains none, it fits {2 * 160 + 9 * 160 + 9:,d} numbers"
    )
    trained = tiny.make_context(tiny.config())
    text = describe_parameters(trained.info, initialise_variables(trained))
    groups = [line.split() for line in text.splitlines()[1:]]
    counts = {name: int(count.replace(",", "")) for name, count in groups}
    assert counts.pop("all") == sum(counts.values()) > 0 and "gen" in counts
