"""Scores that depend on nothing but the clip, and what stage 2 takes over from stage 1."""

import dataclasses
from threading import Event, Thread, Timer
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits import split_file
from avdiff_jax.data.splits.stages import concat_members
from avdiff_jax.data.store import open_store
from avdiff_jax.data.windows import Lengths
from avdiff_jax.errors import UserError
from avdiff_jax.train import context, measure, scoring
from avdiff_jax.train import stage as stages
from avdiff_jax.train.context import (
    batch_training_clips,
    initialise_variables,
    iterate_training_clips,
    measure_audio_scaling,
)
from avdiff_jax.train.measure import measure_members
from avdiff_jax.train.records import Phase, Stage1Record, SubstageChoice, SubstageRecord
from avdiff_jax.train.scoring import batch_members, score_members
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import Outcome
from tests import programs, tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture(scope="module")
def vars():
    return jax.device_get(initialise_variables(tiny.make_context(tiny.config())))


def scores_of(vars, order=None, store=None, **changes):
    b = tiny.make_context(tiny.config(**changes), store=store)
    members = concat_members(b.stage.eval_base, b.stage.eval_novel[0])
    order = np.arange(len(members.labels)) if order is None else order
    members = members._replace(clips=members.clips[order], labels=members.labels[order])
    out = np.empty((len(order), len(b.info.classes)))
    out[order] = score_members(b, vars, members, batch_members(b, members, test=False))
    return out


@pytest.fixture(scope="module")
def scores(vars):
    return scores_of(vars)


def test_scores_are_probabilities(scores):
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    assert scores.std(0).max() > 1e-4  # clips differ by far more than the tolerance below


@pytest.mark.parametrize("changes", [{"eval__batch": 5}, {"data__residence": "host"}])
def test_scores_depend_on_the_clip_alone(vars, scores, changes):
    np.testing.assert_allclose(scores_of(vars, **changes), scores, atol=1e-6)


def test_scores_do_not_depend_on_order_or_bucket(vars, scores, monkeypatch):
    order = np.random.default_rng(0).permutation(len(scores))
    np.testing.assert_allclose(scores_of(vars, order), scores, atol=1e-6)
    b = tiny.make_context(tiny.config(eval__batch=2))
    several = batch_members(b, b.stage.base, test=False)
    # A GPU has one shape for clips as short as these, and takes more of them at a time.
    monkeypatch.setattr(scoring.devices, "on_cpu", lambda mesh: False)
    one = batch_members(b, b.stage.base, test=False)
    assert len(several.buckets) > len(one.buckets) == 1
    assert one.buckets[0].rows.shape[1] == 8 * several.buckets[0].rows.shape[1] == 16
    np.testing.assert_allclose(scores_of(vars, eval__batch=2), scores, atol=1e-6)
    monkeypatch.setattr(scoring, "SHORT_TOKENS", sum(one.buckets[0].lengths) - 1)
    assert len(batch_members(b, b.stage.base, test=False).buckets) == len(several.buckets)


def test_long_clips_are_fused_in_turns_on_a_cpu(vars, scores, monkeypatch):
    lengths = Lengths(184, 300)
    assert scoring.clips_at_once(32, lengths, tiny.mesh()) == 2
    assert scoring.clips_at_once(32, lengths, tiny.mesh(2)) == 32
    monkeypatch.setattr(scoring, "CACHED_TOKENS", 40)
    assert scoring.clips_at_once(16, Lengths(6, 9), tiny.mesh()) == 2
    with programs.share(None):
        np.testing.assert_allclose(scores_of(vars), scores, atol=1e-6)


def test_the_order_of_a_store_means_nothing(tmp_path):
    """Clips and classes permuted: the same first state, plans, refresh and scores, bit for bit."""
    rng = np.random.default_rng(3)
    store = open_store(tiny.world()[0])
    other = tiny.rewritten(
        store, tmp_path / "other.h5", rng.permutation(len(store)),
        rng.permutation(len(store.class_names)),
    )
    assert other.class_names != store.class_names and (other.clip_ids != store.clip_ids).any()
    found = []
    for s in (store, other):
        c = tiny.config("condition=prototype", data__audio_scale="standardize")
        b = tiny.make_context(c, 2, s)
        _, state = prepare_substage(b, Phase(2, 2, 1), initialise_variables(b), None)
        members = concat_members(b.stage.eval_base, b.stage.eval_novel[1])
        scores = score_members(b, state.vars, members, batch_members(b, members, test=True))
        batches = list(iterate_training_clips(b, (b.stage.base,))())
        found.append((jax.device_get(state), b.info.text, scores, jax.device_get(batches)))
    tiny.same(*found)
    assert found[0][0].vars.buffers["condition"].any(1).all()


def test_text_is_found_by_name():
    store = open_store(tiny.world()[0])
    for number in (1, 2):
        info = tiny.make_context(tiny.config(), number, store).info
        for row, name in zip(info.text, info.classes, strict=True):
            np.testing.assert_array_equal(row, store.class_text[store.class_names.index(name)])


def test_audio_scaling():
    store = open_store(tiny.world()[0])
    clips = np.array([3, 50, 7])
    shift, scale = measure_audio_scaling(tiny.config(), store, clips)
    np.testing.assert_array_equal(shift, np.zeros(8))
    np.testing.assert_allclose(scale, 1 / 255)
    c = tiny.config(data__audio_scale="standardize")
    shift, scale = measure_audio_scaling(c, store, clips)
    offsets = store.audio.offsets
    tokens = np.concatenate([store.audio.values[offsets[i] : offsets[i + 1]] for i in clips])
    np.testing.assert_allclose(shift, tokens.mean(0, dtype=float))
    np.testing.assert_allclose(scale, 1 / tokens.std(0, dtype=float), rtol=1e-9)


def test_scaling_comes_from_base_training_clips_of_the_stage(monkeypatch):
    asked = []
    monkeypatch.setattr(
        context, "measure_audio_scaling",
        lambda c, s, clips: asked.append(clips) or (0 * clips, clips),
    )
    for number in (1, 2):
        b = tiny.make_context(tiny.config(), number)
        np.testing.assert_array_equal(asked[-1], b.stage.base.clips)


def test_initial_variables_are_a_function_of_seed_and_stage(vars):
    again = initialise_variables(tiny.make_context(tiny.config()))
    tiny.same(jax.device_get(again), vars)
    other = initialise_variables(tiny.make_context(tiny.config(seed=43)))
    assert tiny.differ(other.params, vars.params)
    assert tiny.differ(other.buffers["fourier"], vars.buffers["fourier"])


def test_each_stage_has_a_first_key_of_its_own():
    """Here the variables are the key that they are drawn from."""
    b = tiny.make_context(tiny.config())
    one, two = (
        np.asarray(initialise_variables(
            dataclasses.replace(b, init=jax.random.key_data, number=number)
        ))
        for number in (1, 2)
    )
    assert (one != two).any()


def test_each_draw_is_trained_on_its_own_shots():
    context = SimpleNamespace(stage=SimpleNamespace(base="base", novel=("a", "b", "c")))
    for draw, shots in enumerate("abc"):
        assert stages.members_of(context, Phase(2, 2, draw)) == (("base", shots),)
    every = (("base", "a"), ("base", "b"), ("base", "c"))
    assert stages.members_of(context, Phase(2, 2, None)) == every
    assert stages.members_of(context, Phase(2, 1)) == (("base",),)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_epochs_gamma_and_temperature_are_chosen_on_val(mode, monkeypatch):
    """Under the limits for Val, whether its clips are fused each time or once."""
    b = tiny.make_context(tiny.config(train__frozen_mode=mode))
    right, batched = np.eye(len(b.info.classes), dtype=np.float32), []

    def batch(context, members, test):
        batched.append((members, test))
        return members

    monkeypatch.setattr(stages, "batch_members", batch)
    monkeypatch.setattr(stages, "score_members", lambda *arguments: right[arguments[-1].labels])
    monkeypatch.setattr(stages, "fuse_members", lambda _, __, members, count: members.labels)
    b = dataclasses.replace(b, judge=lambda variables, labels: right[labels])
    assert stages.select_by_base_accuracy(b)(None) == {"score": 100, "val/B": 100}
    both = stages.Validation(b, None)
    measured = both.select(None)
    assert measured["score"] == measured["val/HM"] == measured["val/AUSUC"] == 100
    assert measured["val/gamma"] == 0
    record = SubstageRecord(1, best_epoch=1, best=measured)
    assert both.choose(Outcome(None, None, record)).measured["val/temperature"] < 0.2
    val = b.stage.eval_base
    tiny.same(batched, [(val, False), (concat_members(val, b.stage.eval_novel[0]), False)])


def test_val_and_test_have_limits_of_their_own():
    b = tiny.make_context(tiny.config(data__val_max_video=3, data__test_max_video=5))
    longest = [
        max(bucket.lengths.video for bucket in batch_members(b, b.stage.eval_base, test).buckets)
        for test in (False, True)
    ]
    assert longest == [3, 5]


def test_training_clips_are_fused_as_long_as_they_are_trained_on():
    b = tiny.make_context(tiny.config(data__train_max_video=4))
    assert b.lengths.video == 4 and b.feed.store.video.lengths.max() > 4
    for bucket in batch_training_clips(b, b.stage.base).buckets:
        assert (np.array(bucket.lengths) <= b.lengths).all()


class Substages:
    """Stands in for `run_substage`: notes what it is given and returns made-up outcomes."""

    def __init__(self, records):
        self.records, self.calls = records, []

    def __call__(self, setting, state, schedule, services, run_epochs):
        i = len(self.calls)
        self.calls.append((setting.phase, schedule, run_epochs, jax.device_get(state)))
        made = jax.tree.map(lambda x: x + 1 + i, state)
        record = SubstageRecord(
            run_epochs + schedule.epochs, **self.records.get(setting.phase, {})
        )
        best = jax.tree.map(lambda x: x - 1 - i, state.vars)
        return Outcome(made, best if schedule.select else made.vars, record)


RECORD = Stage1Record(
    SubstageChoice(5, (2, 4), {}, 1.0), SubstageChoice(3, (1,), {}, 1.0), gamma=0.0, run_epochs=50
)


def test_stage_2_replays_the_record(monkeypatch, tmp_path):
    """All draws start from the same base model: the last of substage 1."""
    fake = Substages({})
    monkeypatch.setattr(stages, "run_substage", fake)
    b = tiny.make_context(tiny.config(train__reset_optimizer=False), 2)
    services = tiny.services(tmp_path)
    with services.writer, services.saves:
        draws = list(stages.run_stage2(b, initialise_variables(b), services, RECORD))
    assert [draw for draw, _ in draws] == [0, 1, 2]
    assert [call[:3] for call in fake.calls] == [
        (Phase(2, 1), Schedule(5, None, (2, 4)), 50),
        (Phase(2, 2, 0), Schedule(3, None, (1,)), 55),
        (Phase(2, 2, 1), Schedule(3, None, (1,)), 58),
        (Phase(2, 2, 2), Schedule(3, None, (1,)), 61),
    ]
    states = [state for *_, state in fake.calls]
    base = jax.tree.map(lambda x: x + 1, states[0])  # what the first call returned
    for state in states[1:]:
        tiny.same(state.vars, base.vars)
        tiny.same(state.opt["main"].inner_state[1][0].nu["cls"],
                  base.opt["main"].inner_state[1][0].nu["cls"])


def test_stage_1_goes_on_from_the_best_epoch(monkeypatch):
    """And writes down the cuts that its best epochs have seen."""
    records = {
        Phase(1, 1): {"best_epoch": 6, "cuts": (2, 6, 9), "best": {"score": 1, "val/B": 2}},
        Phase(1, 2): {"best_epoch": 1, "cuts": (), "best": {"score": 1, "val/gamma": 0.0}},
    }
    fake = Substages(records)
    monkeypatch.setattr(stages, "run_substage", fake)
    # Made-up variables have no scores.
    monkeypatch.setattr(
        stages.Validation, "choose", lambda _, outcome: SubstageChoice.of(outcome.record)
    )
    c = tiny.config(train__epochs1=9, train__epochs2=7)
    b = tiny.make_context(c)
    record = stages.run_stage1(b, None)
    (phase1, one, before1, s1), (phase2, two, before2, s2) = fake.calls
    assert (phase1, one.epochs, before1) == (Phase(1, 1), 9, 0)
    assert (phase2, two.epochs, before2) == (Phase(1, 2), 7, 9)
    tiny.same(s2.vars, jax.tree.map(lambda x: x - 1, s1.vars))  # the best, not the last
    assert record.substage1 == SubstageChoice(6, (2,), {"score": 1, "val/B": 2}, 0.0)
    assert record.gamma == 0.0 and record.run_epochs == 16
    vars = initialise_variables(b)
    one, two = one.select(vars), two.select(vars)
    assert one["score"] == one["val/B"] and two["score"] == two["val/HM"]
    assert two["val/gamma"] in [i / 10 for i in range(11)]


def test_gamma_is_used_as_given(vars, monkeypatch):
    """Zero too, which the published code takes for none; test is not searched."""
    b = tiny.make_context(tiny.config(), 2)
    members = concat_members(b.stage.eval_base, b.stage.eval_novel[0])
    made = np.where(b.info.is_base, 0.6, 0.1) + 0 * members.labels[:, None]
    made[np.arange(len(made)), members.labels] += 0.2
    monkeypatch.setattr(measure, "score_members", lambda *_: made)
    point = measure_members(b, vars, members, 0.0).point
    assert (point.B, point.N, point.HM, point.FSL, point.gamma) == (100, 0, 0, 100, 0)
    point = measure_members(b, vars, members, 0.4).point
    assert (point.B, point.N, point.HM) == (100, 100, 100)


@pytest.mark.parametrize("how, wanted", [("grid", 0.4), ("exact", None)])
def test_calibration(how, wanted):
    b = tiny.make_context(tiny.config(eval__calibration=how))
    labels = np.arange(len(b.info.classes))
    scores = np.where(b.info.is_base, 0.45, 0.1) + 0 * labels[:, None]
    scores[labels, labels] += 0.01
    point = stages.calibrate(b, scores, labels)
    if wanted is None:
        assert point.HM == 100 and 0.34 < point.gamma < 0.36
    else:
        assert point.HM < 100  # no step of 0.1 lies between the breakpoints


def test_scores_that_are_not_finite_are_refused(vars):
    b = tiny.make_context(tiny.config())
    broken = vars.replace(params=jax.tree.map(lambda x: np.full_like(x, np.nan), vars.params))
    with pytest.raises(UserError, match=r"scores of (\d+) of \1 clips .* finite.*learning_rate"):
        score_members(b, broken, b.stage.eval_base, batch_members(b, b.stage.eval_base, False))


def test_training_clips_are_all_clips_once():
    b = tiny.make_context(tiny.config(eval__batch=5))
    members = (b.stage.base, b.stage.novel[0])
    labels = np.concatenate([
        np.asarray(batch.label)[np.asarray(batch.weight) > 0]
        for batch in iterate_training_clips(b, members)()
    ])
    np.testing.assert_array_equal(np.sort(labels), np.sort(concat_members(*members).labels))


def test_stage_names_are_those_of_the_split():
    split = split_file.load(tiny.world()[1])
    b = tiny.make_context(tiny.config(), 2)
    novel = [n for n, base in zip(b.info.classes, b.info.is_base, strict=True) if not base]
    assert novel == sorted(split["classes"]["novel2"])


@pytest.mark.parametrize("residence, times", [("device", 1), ("host", 2)])
def test_batches_are_placed_once_where_the_clips_stay(residence, times, vars, monkeypatch):
    """Val is measured after each epoch; streamed clips are not kept."""
    b = tiny.make_context(tiny.config(data__residence=residence))
    members, placed, inputs = b.stage.eval_base, [], Feed.inputs
    monkeypatch.setattr(Feed, "inputs", lambda *args: placed.append(1) or inputs(*args))
    batches = batch_members(b, members, test=False)
    first, second = (score_members(b, vars, members, batches) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(placed) == times * sum(len(bucket.rows) for bucket in batches.buckets)


@pytest.mark.parametrize("ausuc, order", [
    ({"token": 80.0, "raw": 50.0, "both": 78.5}, "both token raw"),  # a small lead says little
    ({"token": 80.0, "raw": 80.0, "both": 78.3}, "token raw both"),  # of equals the first
    ({"token": 60.0, "raw": 50.0, "both": 70.0}, "both token raw"),
])
def test_the_usual_trial_stands_unless_another_leads_clearly(ausuc, order):
    tried = [
        ({"avdiff_plus.space": space}, SubstageChoice(1, (), {"val/AUSUC": value}, 0.0))
        for space, value in ausuc.items()
    ]
    ranked = stages.rank_trials(tried)
    assert [filled["avdiff_plus.space"] for filled, _ in ranked] == order.split()
    assert stages.rank_trials(tried[:1]) == tried[:1]
    assert stages.rank_trials([({}, tried[0][1])]) == [({}, tried[0][1])]  # no field is open


def test_a_clip_is_fingerprinted_once(monkeypatch):
    """Also where the run asks while a thread is at it."""
    stage, begun, go, read = tiny.make_context(tiny.config(), 2), Event(), Event(), []

    def read_slowly(store, clips):
        read.append(len(clips))
        begun.set()
        assert go.wait(60)
        return SimpleNamespace(prints=clips + 1)

    monkeypatch.setattr(context, "of_store", read_slowly)
    thread = Thread(target=lambda: stage.base_prints)
    thread.start()
    assert begun.wait(60)
    Timer(0.1, go.set).start()
    np.testing.assert_array_equal(stage.base_prints, stage.stage.base.clips + 1)
    thread.join()
    assert read == [len(stage.stage.base.clips)]


@pytest.mark.parametrize("mode, times", [("eval", 1), ("train", 2)])
def test_base_clips_are_fused_once_where_that_stands_still(mode, times, vars, monkeypatch):
    second = tiny.make_context(tiny.config(train__frozen_mode=mode), 2)
    fused = []

    def fuse(_, variables, members):
        fused.append(len(members.labels))
        return np.full((len(members.labels), 2), len(fused), np.float32)

    monkeypatch.setattr(measure, "fuse_training_clips", fuse)
    outcome = Outcome(SimpleNamespace(vars=vars), vars, SubstageRecord(0))
    choice = SubstageChoice(1, (), {}, 0.0)
    record = Stage1Record(choice, choice, 0.0, 1, 1.0)
    built = list(measure.build_models(second, [(0, outcome), (1, outcome)], record))
    base, novel = len(second.stage.base.clips), len(second.stage.novel[0].clips)
    assert fused == [base, novel, *[base] * (times - 1), novel]
    first = [1] * base + [2] * novel
    np.testing.assert_array_equal(built[0].examples.features[:, 0], first)
    assert len(built[1].examples.labels) == base + novel
