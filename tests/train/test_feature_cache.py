"""Substage 2 on features that were fused once: the same as fusing them in every update."""

import jax
import numpy as np
import pytest

from avdiff_jax.data.splits.stages import concat_members
from avdiff_jax.data.windows import windows
from avdiff_jax.train import stage as stages
from avdiff_jax.train.context import StageContext, initialise_variables
from avdiff_jax.train.feature_cache import Fused, cache_members
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_state, prepare_substage
from avdiff_jax.train.substage import run_substage
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")

EVAL = {"train__frozen_mode": "eval", "train__learning_rate": 1e-3}


class FusedEachTime:
    """A source that fuses the clips of a batch whenever it is asked for one."""

    def __init__(self, context, variables, members, lengths):
        self.context, self.variables, self.feed = context, variables, context.feed
        self.mesh, self.data = self.feed.mesh, self.feed.data
        self.steps, self.plan, self.inputs = self.feed.steps, self.feed.plan, self.feed.inputs

    def batch(self, data, inputs, lengths):
        batch, c = self.feed.batch(data, inputs, lengths), self.context
        features, _ = c.method.features(c.info, self.variables, batch, jax.random.key(0), False)
        return Fused(features, batch.label)


def train(b, vars, workdir, schedule):
    """The outcome of substage 2 of stage 1."""
    setting, state = prepare_substage(b, Phase(1, 2), vars, None)
    services = tiny.services(workdir)
    with services.writer, services.saves:
        return run_substage(setting, state, schedule, services, 0)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["", "method=tsl"])
def test_equals_fusing_in_every_update(words, tmp_path, monkeypatch):
    b = tiny.make_context(tiny.config(words, **EVAL))
    vars = initialise_variables(b)
    cached = train(b, vars, tmp_path / "cached", Schedule(1))
    monkeypatch.setattr(stages, "cache_members", FusedEachTime)
    plain = train(b, vars, tmp_path / "plain", Schedule(1))
    tiny.nearly(cached.state.vars, plain.state.vars)
    tiny.nearly(vars, prepare_state(b, Phase(1, 2), vars, None).vars)
    assert cached.record.last.keys() == plain.record.last.keys()
    for name, value in plain.record.last.items():
        np.testing.assert_allclose(cached.record.last[name], value, rtol=2e-3, err_msg=name)


def test_a_row_for_each_window():
    """Short clips have one, long ones `crops`, evenly spaced; each holds that window's token."""
    b = tiny.make_context(tiny.config(data__train_max_video=4, train__crops=3, **EVAL))
    store, vars = b.feed.store, initialise_variables(b)
    members = concat_members(b.stage.base, b.stage.novel[0])
    cache = cache_members(b, vars, members, b.lengths)
    long = store.video.lengths[members.clips] > b.lengths.video
    assert 0 < long.sum() < len(long)
    assert len(cache.data) == len(long) + 2 * long.sum()
    chosen = np.r_[members.clips[long][:3], members.clips[~long][:2]]
    for clip in chosen:
        count = cache.windows[clip]
        assert count == (3 if store.video.lengths[clip] > b.lengths.video else 1)
        for number in range(count):
            place = np.array([(number + 0.5) / count])
            plan = windows(store, np.array([clip]), [0], b.lengths, place)
            token = b.fuse(vars, b.feed.data, b.feed.inputs(plan, b.lengths), b.lengths)
            row = cache.data[cache.first[clip] + number]
            np.testing.assert_allclose(row, token[0], rtol=1e-4, atol=1e-5)


def test_plans_name_the_clips_that_training_draws():
    b = tiny.make_context(tiny.config(data__train_max_video=4, **EVAL))
    members = b.stage.base
    cache = cache_members(b, initialise_variables(b), members, b.lengths)
    args = (b.lengths, 8, 5, [7])
    rows, plan = cache.plan(members, *args), b.feed.plan(members, *args)
    np.testing.assert_array_equal(rows.label, plan.label)
    owner = np.searchsorted(cache.first[np.sort(members.clips)], rows.row, "right") - 1
    clips = np.sort(members.clips)[owner]
    starts = b.feed.store.video.offsets[:-1][clips]
    assert (plan.video_start >= starts).all()
    assert (plan.video_start < b.feed.store.video.offsets[1:][clips]).all()
    crop = rows.row - cache.first[clips]
    assert set(np.unique(crop)) > {0} and (crop < cache.windows[clips]).all()


def test_selection_on_fused_features_equals_scoring(tmp_path, monkeypatch):
    """After each epoch, whether Val was fused once or is fused anew."""
    b = tiny.make_context(tiny.config(**EVAL))
    vars, compared = initialise_variables(b), []
    once = stages.Validation(b, vars).select
    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "uses_cache", lambda *_: False)
        anew = stages.Validation(b, vars).select

    def select(variables):
        measured, wanted = once(variables), anew(variables)
        compared.append((measured, wanted))
        return measured

    train(b, vars, tmp_path, Schedule(2, select))
    assert len(compared) == 2 and compared[0] != compared[1]
    for measured, wanted in compared:
        assert measured.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(measured[name], value, atol=1e-3, err_msg=name)


@pytest.mark.slow
def test_a_whole_run_can_be_evaluated_again(tmp_path):
    c = tiny.config(**EVAL)
    results, states = tiny.finish(c, tmp_path / "w")
    assert len(states) == 3 and states[0].updates.shape == ()
    names = {path.name for path in (tmp_path / "w" / "checkpoints").iterdir()}
    assert "stage2-substage2-draws" in names and "stage2-substage2-draw0" not in names
    again, kept = tiny.finish(c, tmp_path / "w", "evaluate")
    assert again["test"] == results["test"]
    tiny.same(jax.device_get(kept), jax.device_get(states))

