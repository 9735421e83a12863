"""A training step that the memory does not hold is refused before it is compiled."""

import numpy as np
import pytest

from avdiff_jax.data import windows
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import Note, UserError
from avdiff_jax.runtime import memory
from avdiff_jax.train import step_memory
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.records import Phase
from avdiff_jax.train.scoring import batch_members, score_members
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import run_substage
from tests import programs, tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture(scope="module")
def with_a_long_clip(tmp_path_factory):
    """The tiny world, in which one clip that is trained on has 1800 tokens of each modality, and
    the id of that clip."""
    context = tiny.make_context(tiny.config())
    store = context.feed.store
    long = str(store.clip_ids[context.stage.base.clips[0]])
    rng = np.random.default_rng(0)

    def change(clip):
        if clip.clip_id != long:
            return clip
        return clip._replace(
            audio=rng.integers(0, 256, (1800, 8)).astype(np.uint8),
            video=rng.random((1800, 12), np.float32),
        )

    path = tmp_path_factory.mktemp("long") / "long.h5"
    return tiny.rewritten(open_store(tiny.world()[0]), path, change=change), long


def train(store, tmp_path):
    context = tiny.make_context(tiny.config(), store=store)
    setting, state = prepare_substage(context, Phase(1, 1), initialise_variables(context), None)
    given = tiny.services(tmp_path)
    with given.writer, given.saves:
        return run_substage(setting, state, Schedule(1), given, 0)


def test_a_step_that_takes_too_much_is_refused(with_a_long_clip, tmp_path, monkeypatch):
    """On a machine with a gigabyte: nothing is compiled, the clip and the settings are named."""
    store, long = with_a_long_clip
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 30)
    compiled = programs.Counter()
    with programs.count_compilations(compiled), pytest.raises(UserError) as caught:
        train(store, tmp_path)
    sentence = str(caught.value)
    assert "a step of stage1-substage1" in sentence and "GiB where 1 GiB are free" in sentence
    assert f"the longest, {long!r}, has 1800 and 1800 where half of them have at most" in sentence
    assert "--config.data.train_max_video" in sentence and "--config.train.batch=8" in sentence
    assert "run" not in compiled


def test_what_fits_is_trained(tmp_path, monkeypatch):
    store = open_store(tiny.world()[0])
    train(store, tmp_path / "a")
    # So little is free that a note is due, and so much that it is tried.
    monkeypatch.setattr(step_memory.memory, "estimate_bytes", lambda traced: 1.5 * 2**30)
    monkeypatch.setattr(step_memory.memory, "free_bytes", lambda: int(1.2 * 2**30))
    with pytest.warns(Note, match="a step of stage1-substage1 takes about 1 GiB where 1.2 GiB"):
        train(store, tmp_path / "b")


def test_long_clips_are_scored_in_small_batches(with_a_long_clip, monkeypatch):
    """Also where the memory of a batch is smaller than any clip: one at a time."""
    context = tiny.make_context(tiny.config())
    variables, stage = initialise_variables(context), context.stage
    usual = batch_members(context, stage.eval_base, test=True)
    wanted = score_members(context, variables, stage.eval_base, usual)
    monkeypatch.setattr(windows, "BATCH_BYTES", 1)
    small = batch_members(context, stage.eval_base, test=True)
    assert {bucket.rows.shape[1] for bucket in small.buckets} == {1}
    assert {bucket.rows.shape[1] for bucket in usual.buckets} == {16}
    found = score_members(context, variables, stage.eval_base, small)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
