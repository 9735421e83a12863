"""Section 4.3: the plateau rule, the best epoch, what is frozen, which clips are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.data.feed import Feed
from avdiff_jax.data.windows import ROLES
from avdiff_jax.errors import UserError
from avdiff_jax.train import substage
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.optimisers import TrainState, copy_tree, cut_rate, learning_rate
from avdiff_jax.train.records import Phase, SubstageRecord
from avdiff_jax.train.setting import Schedule, Setting, make_dropout_key, plan_epoch
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import SubstageRun, check_finite, judge_plateau, run_substage
from avdiff_jax.train.workdir import open_checkpoints
from tests import programs, tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.mark.parametrize(
    "scores, cuts",
    [
        ([10, 20, 30, 40, 50, 60], []),
        # "More than 3 epochs": the fourth epoch without gain cuts.
        ([10, 9, 9, 9], []),
        ([10, 9, 9, 9, 9], [5]),
        ([10, 10, 10, 10, 10, 10], [5]),
        # After a cut the count starts anew, the reference stays.
        ([10, 9, 9, 9, 9, 9, 9, 9, 9, 9], [5, 9]),
        ([10, 9, 9, 9, 11, 9, 9, 9, 9], [9]),
        # A gain of less than a ten-thousandth does not count.
        ([10, 10.0009, 10.0009, 10.0009, 10.0009], [5]),
        ([10, 10.0011, 10, 10, 10], []),
        ([10, 10.0011, 10, 10, 10, 10], [6]),
        ([0, 0, 0, 0, 0], [5]),
        ([0, 0, 0, 0, 1e-9], []),
    ],
)
def test_plateau_rule(scores, cuts):
    record, found = SubstageRecord(0), []
    for epoch, score in enumerate(scores, 1):
        record, cut = judge_plateau(record, score, 3)
        if cut:
            found.append(epoch)
    assert found == cuts


def test_patience_zero_cuts_at_once():
    record, cut = judge_plateau(SubstageRecord(0), 5.0, 0)
    assert not cut
    assert judge_plateau(record, 5.0, 0)[1]


class Scripted:
    """`select` that returns given scores and copies what it was shown. On the devices: variables of
    which the host has a view are never given away, and a missing copy would go unnoticed."""

    def __init__(self, scores):
        self.scores, self.seen = list(scores), []

    def __call__(self, vars):
        self.seen.append(copy_tree(vars))
        return {"score": self.scores[len(self.seen) - 1], "val/B": 1.0}


START = (Phase(1, 1), None, None)


def run(tmp_path, scores=None, words="", start=START, **changes):
    """One substage of the tiny protocol; returns (outcome, select, first state)."""
    replay = changes.pop("replay", ())
    epochs = changes.pop("epochs", None) or len(scores)
    c = tiny.config(words, **changes)
    phase, vars, before = start
    b = tiny.make_context(c, phase.stage)
    vars = initialise_variables(b) if vars is None else vars
    setting, state = prepare_substage(b, phase, vars, before)
    first = jax.device_get(state)
    select = Scripted(scores) if scores else None
    services = tiny.services(tmp_path)
    with services.writer, services.saves:
        outcome = run_substage(setting, state, Schedule(epochs, select, replay), services, 0)
    return outcome, select, first


def test_first_of_equal_epochs_is_kept_and_the_rate_is_cut(tmp_path):
    outcome, select, _ = run(tmp_path, [3, 7, 7, 7, 7, 7, 5], train__learning_rate=1e-2)
    record = outcome.record
    assert record.best_epoch == 2 and record.best["score"] == 7
    assert record.cuts == (6,) and record.finished and record.run_epochs == 7
    tiny.same(jax.device_get(outcome.best), select.seen[1])
    tiny.same(jax.device_get(outcome.state.vars), select.seen[-1])
    np.testing.assert_allclose(learning_rate(outcome.state), 1e-3, rtol=1e-6)
    rates = [line["stage1-substage1/learning_rate"] for line in tiny.lines(tmp_path)]
    np.testing.assert_allclose(rates, [1e-2] * 6 + [1e-3], rtol=1e-6)


def test_cuts_are_replayed(tmp_path):
    """Stage 2 cuts after the same epochs, whatever happens, and keeps its last epoch."""
    outcome, _, _ = run(tmp_path, None, epochs=4, replay=(1, 3), train__learning_rate=1e-2)
    assert outcome.record.cuts == (1, 3) and outcome.record.best_epoch == 0
    rates = [line["stage1-substage1/learning_rate"] for line in tiny.lines(tmp_path)]
    np.testing.assert_allclose(rates, [1e-2, 1e-3, 1e-3, 1e-4], rtol=1e-6)
    tiny.same(jax.device_get(outcome.best), jax.device_get(outcome.state.vars))


def test_no_plateau(tmp_path):
    outcome, _, _ = run(tmp_path, [5] * 6, train__plateau=False, train__batches=2)
    assert outcome.record.cuts == ()


TRUNK = ("enc", "pos", "fusion")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Substage 1, from which substage 2 goes on."""
    return run(tmp_path_factory.mktemp("first"), [1, 2])[0]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_frozen_parts(first, mode, tmp_path):
    outcome, _, _ = run(
        tmp_path, [1], start=(Phase(1, 2), first.best, first.state), train__frozen_mode=mode
    )
    before, after = first.best, outcome.state.vars
    for group in before.params:
        moved = tiny.differ(before.params[group], after.params[group])
        assert moved == (group not in TRUNK), group
    tiny.same(before.buffers, after.buffers)
    assert tiny.differ(before.stats["enc"], after.stats["enc"]) == (mode == "train")
    assert tiny.differ(before.stats["proj"], after.stats["proj"])


def test_substage_1_moves_everything(tmp_path):
    outcome, _, start = run(tmp_path, [1])
    for group in start.vars.params:
        assert tiny.differ(start.vars.params[group], outcome.state.vars.params[group]), group
    tiny.same(start.vars.buffers, outcome.state.vars.buffers)
    assert int(outcome.state.updates) == 4


@pytest.mark.parametrize("reset", [True, False])
def test_moments_of_adam(first, reset):
    """Carried over, with their count, for groups that go on moving; or all zero."""
    c = tiny.config(train__reset_optimizer=reset)
    b = tiny.make_context(c)
    _, state = prepare_substage(b, Phase(1, 2), first.best, first.state)
    adam = state.opt["main"].inner_state[1][0]
    old = first.state.opt["main"].inner_state[1][0]
    assert set(adam.mu) == {"proj", "cls", "gen"} and set(old.mu) == {*adam.mu, *TRUNK}
    assert int(adam.count) == (0 if reset else 8) and int(old.count) == 8
    for ours, theirs in ((adam.mu, old.mu), (adam.nu, old.nu)):
        for group in ours:
            wanted = theirs[group]
            if reset:
                wanted = jax.tree.map(np.zeros_like, wanted)
            tiny.same(ours[group], wanted)
    assert int(state.updates) == 0


def test_a_fresh_scheduler_has_the_full_rate(first):
    """Even where the moments are carried over and the rate was cut before."""
    c = tiny.config(train__reset_optimizer=False)
    b = tiny.make_context(c)
    _, state = prepare_substage(b, Phase(1, 2), first.best, cut_rate(first.state, 0.1))
    np.testing.assert_allclose(learning_rate(state), c.train.learning_rate, rtol=1e-6)


def test_plans_hold_the_right_clips():
    """Base then novel; never a clip of Val or test; a new order for each place."""
    c = tiny.config()
    for stage in (1, 2):
        b = tiny.make_context(c, stage)
        allowed = {"base": b.stage.base, "novel": b.stage.novel[0]}
        setting, _ = prepare_substage(b, Phase(stage, 2), initialise_variables(b), None)
        plans = [plan_epoch(setting, epoch) for epoch in range(3)]
        assert list(plans[0]) == list(ROLES)
        video = b.feed.store.video
        held_out = {*b.stage.eval_base.clips} | {*b.stage.eval_novel[0].clips}
        for role in ROLES:
            clips = np.searchsorted(video.offsets, plans[0][role].video_start, "right") - 1
            assert {*clips.ravel()} <= {*allowed[role].clips}
            assert not {*clips.ravel()} & held_out
            assert tiny.differ(plans[0][role].video_start, plans[1][role].video_start)
        tiny.same(plans[2], plan_epoch(setting, 2))


class Losses:
    """A source whose plans are the losses of an epoch: 1, 2, ... of base and 10, 20, ... of novel
    clips."""

    mesh, data = tiny.mesh(), None

    def __init__(self, steps):
        self.steps = lambda *_: steps

    def plan(self, members, lengths, batch, steps, seed):
        *_, epoch, role = seed
        return np.float32(np.arange(1, steps + 1) + 100 * epoch) * (1, 10)[role]

    def inputs(self, plan, lengths):
        return jax.device_put(plan, self.mesh.devices.flat[0])


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_an_epoch_is_told_as_the_mean_of_its_updates(steps, tmp_path, monkeypatch):
    """However many of them a dispatch makes."""
    c = tiny.config(train__batches=6)
    b = tiny.make_context(c)

    @jax.jit
    def program(state, data, inputs, key):
        return state, {f"{role}/main/loss": losses for role, losses in inputs.items()}

    setting = Setting(
        Phase(1, 2), b.method, b.info, Losses(steps), None, ((None, None),), b.lengths, program
    )
    monkeypatch.setattr(substage, "learning_rate", lambda state: 0.5)
    state, services = TrainState({}, {}, jnp.zeros((), int)), tiny.services(tmp_path)
    with services.writer, services.saves:
        record = run_substage(setting, state, Schedule(2), services, 0).record
    first, second = tiny.lines(tmp_path)
    for line, mean in ((first, 3.5), (second, 103.5)):
        assert line["stage1-substage2/base/main/loss"] == mean
        assert line["stage1-substage2/novel/main/loss"] == 10 * mean
        assert line["stage1-substage2/learning_rate"] == 0.5
    assert record.last == {"base/main/loss": 103.5, "novel/main/loss": 1035}


def test_random_numbers_differ_between_phases():
    c = tiny.config()
    phases = [Phase(1, 1), Phase(1, 2), Phase(2, 1), *(Phase(2, 2, d) for d in range(3))]
    keys = [tuple(jax.random.key_data(make_dropout_key(c, p)).tolist()) for p in phases]
    assert len({*keys}) == len(phases) == len({p.name for p in phases})


def test_not_finite_names_the_place():
    good, bad = np.zeros(5), np.array([0, 0, 0, np.inf, 0.0])
    with pytest.raises(UserError) as caught:
        check_finite(
            {"a": bad, "b": np.array([0, np.nan, 0, 0, 0])}, Phase(2, 2, 1), 6, 100
        )
    for part in ("b is nan", "stage2-substage2-draw1", "epoch 7", "step 102"):
        assert part in str(caught.value)
    check_finite({"a": good}, Phase(1, 1), 0, 0)
    with pytest.raises(UserError, match=r"a is inf in .* step 4:"):
        check_finite({"a": bad}, Phase(1, 1), 0, 0)


@pytest.mark.parametrize("rate", [1e30])
def test_a_diverging_run_stops(rate, tmp_path):
    with pytest.raises(UserError, match=r"stage1-substage1, epoch 1, step [2-4]: .*learning_rate"):
        run(tmp_path, [1, 2], train__learning_rate=rate)


@pytest.mark.slow
def test_steps_of_a_dispatch_change_nothing(tmp_path):
    """Two scans of two steps or four of one: the same draws, nearly the same numbers."""
    outcomes = [
        run(tmp_path / str(n), [1], train__steps_per_dispatch=n)[0] for n in (1, 2)
    ]
    tiny.nearly(*(jax.device_get(o.state.vars) for o in outcomes))
    assert tiny.lines(tmp_path / "1")[0].keys() == tiny.lines(tmp_path / "2")[0].keys()


def test_steps_are_compiled_once_per_substage(tmp_path, monkeypatch):
    """One trace of the update per role, however many epochs and dispatches."""
    from avdiff_jax.train import step

    traced = []
    update = step.update

    def counted(*args):
        traced.append(args[-1])
        return update(*args)

    monkeypatch.setattr(step, "update", counted)
    with programs.share(None):
        run(tmp_path, [1, 2, 3])
    assert traced == ["base"]


@pytest.mark.parametrize("scores, replay, order", [
    # Nothing decides on the rate: one dispatch is always ahead, over the ends of epochs, too.
    (None, (), "s0 s1 r0 s2 r1 s3 r2 s4 r3 s5 r4 r5"),
    # A replayed cut after the second epoch, or Val after each: all is read first.
    (None, (2,), "s0 s1 r0 s2 r1 s3 r2 r3 s4 s5 r4 r5"),
    ([1, 2, 3], (), "s0 s1 r0 r1 s2 s3 r2 r3 s4 s5 r4 r5"),
])
def test_the_next_dispatch_is_sent_before_the_last_is_read(
    scores, replay, order, tmp_path, monkeypatch
):
    """And of a dispatch its metrics alone are fetched, in one go."""
    steps, fetched, real = [], [], jax.device_get

    def note(letter, function):
        def noted(self, *args):
            place = args[0].place if letter == "r" else args[0]
            steps.append(f"{letter}{2 * place.epoch + place.first // 2}")
            return function(self, *args)

        return noted

    for name in ("send", "read"):
        function = getattr(SubstageRun, name)
        monkeypatch.setattr(SubstageRun, name, note(name[0], function))
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or real(tree))
    run(tmp_path, scores, epochs=3, replay=replay)
    assert " ".join(steps) == order
    metrics = [tree for tree in fetched if isinstance(tree, dict) and "base/main/loss" in tree]
    assert len(metrics) == 6
    assert len(fetched) == 6 + 1  # besides them, the test itself fetches the first state


def test_a_loss_that_is_not_finite_is_noticed_before_anything_is_saved(tmp_path, monkeypatch):
    """Though the next epoch has begun by then."""
    send = SubstageRun.send

    def broken(self, place, inputs):
        dispatch = send(self, place, inputs)
        if place != (1, 2):
            return dispatch
        return dispatch._replace(metrics={k: v * np.nan for k, v in dispatch.metrics.items()})

    monkeypatch.setattr(SubstageRun, "send", broken)
    monkeypatch.setattr(substage, "EPOCH_SAVE_SECONDS", -1)  # each epoch, however short
    with pytest.raises(UserError, match="stage1-substage1, epoch 2, step 3: "):
        run(tmp_path, None, epochs=4)
    last, _ = open_checkpoints(tmp_path)
    with last(Phase(1, 1)) as manager:
        assert manager.metadata(manager.latest())["epoch"] == 1


def test_nothing_is_copied_in_silence_while_it_trains(tmp_path, monkeypatch):
    """A plan that is left on the host stops the loop."""
    monkeypatch.setattr(Feed, "inputs", lambda self, plan, lengths: plan)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(tmp_path, [1])


def test_every_loss_is_told(first, tmp_path):
    run(tmp_path, [1], start=(Phase(1, 2), first.best, first.state))
    (line,) = tiny.lines(tmp_path)
    told = {k.removeprefix("stage1-substage2/") for k in line}
    for role, names in (("base", ("loss", "ce_real", "noise_loss", "accuracy")),
                        ("novel", ("loss", "ce_real", "noise_loss", "ce_synthetic"))):
        assert {f"{role}/main/{name}" for name in names} <= told
    assert {"learning_rate", "val/B", "score"} <= told and "base/main/ce_synthetic" not in told
    assert (line["stage"], line["substage"], line["epoch"]) == (1, 2, 1)
    assert "steps_per_second" in (tmp_path / "metrics.jsonl").read_text()
