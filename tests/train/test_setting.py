"""Plans of an epoch: of which clips, and from which seed, by a stand-in for the source."""

from types import SimpleNamespace

import numpy as np
import pytest

from avdiff_jax.data.windows import Lengths
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import Setting, plan_epoch
from tests import tiny

INFO = SimpleNamespace(config=tiny.config(seed=42))


class Seeds:
    """A source whose plans tell the first clip and the seed that they are made from."""

    @staticmethod
    def plan(members, lengths, batch, steps, seed):
        assert (batch, steps) == (INFO.config.train.batch, INFO.config.train.batches)
        return np.array([members, *seed])


def plan(phase, members, epoch=7):
    setting = Setting(phase, None, INFO, Seeds, None, members, Lengths(1, 1), None)
    return plan_epoch(setting, epoch)


@pytest.mark.parametrize("phase", [Phase(1, 2), Phase(2, 2, 1), Phase(2, 2, 2)])
def test_the_order_of_clips_depends_on_the_whole_place(phase):
    """Seed, stage, substage, draw, epoch, role; members 11 are base clips, 22 novel ones."""
    plans = plan(phase, ((11, 22),))
    assert [*plans] == ["base", "novel"]
    for number, (role, clips) in enumerate((("base", 11), ("novel", 22))):
        wanted = [clips, 42, phase.stage, phase.substage, phase.draw, 7, number]
        np.testing.assert_array_equal(plans[role], wanted)


def test_substage_1_plans_base_clips_alone():
    plans = plan(Phase(2, 1), ((11,),))
    assert [*plans] == ["base"]
    np.testing.assert_array_equal(plans["base"], [11, 42, 2, 1, 0, 7, 0])


def test_draws_side_by_side_have_the_plans_that_they_have_alone():
    members = ((11, 22), (11, 33), (11, 44))
    together = plan(Phase(2, 2, None), members)
    for draw, of_draw in enumerate(members):
        alone = plan(Phase(2, 2, draw), (of_draw,))
        for role in ("base", "novel"):
            np.testing.assert_array_equal(together[role][:, draw], alone[role])


def test_a_dispatch_takes_its_steps_of_each_plan():
    placed = SimpleNamespace(inputs=lambda plan, lengths: (plan.tolist(), lengths))
    setting = Setting(Phase(1, 2), None, INFO, placed, None, (), Lengths(3, 4), None)
    inputs = setting.place_inputs({"base": np.arange(9), "novel": np.arange(10, 19)}, 3, 2)
    assert inputs == {"base": ([3, 4], (3, 4)), "novel": ([13, 14], (3, 4))}
