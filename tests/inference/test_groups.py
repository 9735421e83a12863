"""Groups that no training clip is of: their scores are moved together."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from avdiff_jax.data.clip_source import of_arrays, of_store
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import Note, UserError
from avdiff_jax.inference import model as models
from avdiff_jax.inference.groups import DOUBT, score_centered
from tests import tiny

RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.normal(size=(4, 3)), RNG.normal(size=3)


def linear(features, training):
    """A model that is no more than a Linear."""
    return SimpleNamespace(
        examples=SimpleNamespace(features=training), vars=None,
        info=SimpleNamespace(config=SimpleNamespace(device=SimpleNamespace(precision="float32"))),
        method=SimpleNamespace(scores=lambda info, vars, x: x @ WEIGHTS + BIAS[None]),
        score_all=lambda source, tell=None: features @ WEIGHTS + BIAS,
    )


def grouped(groups):
    nothing = [np.zeros((1, 2))] * len(groups)
    return of_arrays(nothing, nothing, groups=np.array(groups))


def test_a_linear_head_sees_features_that_were_moved():
    """By hand: those of a group of n clips by (n - 1) / (n + 7) of the way between the means."""
    features, training = RNG.normal(size=(7, 4)) + 2, RNG.normal(size=(20, 4))
    source = grouped(["a", "b", "a", "a", "", "", "c"])
    moved = features.copy()
    moved[[0, 2, 3]] += 2 / (2 + DOUBT) * (training.mean(0) - features[[0, 2, 3]].mean(0))
    scores = score_centered(linear(features, training), source)
    np.testing.assert_allclose(scores, moved @ WEIGHTS + BIAS, atol=1e-5)


def test_clips_without_groups_are_one():
    features, training = RNG.normal(size=(3, 4)), RNG.normal(size=(5, 4))
    model = linear(features, training)
    alike = score_centered(model, grouped(["a"] * 3))
    with pytest.warns(Note, match="has no groups: all of its clips are taken to be one"):
        scores = score_centered(model, dataclasses.replace(grouped(["a"] * 3), groups=None))
    np.testing.assert_array_equal(scores, alike)
    assert np.abs(alike - model.score_all(None)).max() > 0.01


@pytest.mark.usefixtures("small_programs")
def test_the_mean_of_training_clips_is_that_of_the_model(finished):
    """A group of training clips alone, all that a draw has, is where it is moved to."""
    model, source = models.load(finished[0]), of_store(open_store(tiny.world()[0]))
    rows = np.flatnonzero(np.isin(source.clip_ids, model.examples.clips))
    clips = dataclasses.replace(source.select(rows), groups=np.full(len(rows), "g"))
    told = []
    np.testing.assert_allclose(score_centered(model, clips, told.append).mean(0),
                               model.score_all(clips).mean(0), atol=0.02)
    assert sum(told) == len(rows)
    bare = dataclasses.replace(model, examples=None)
    with pytest.raises(UserError, match="keeps none: use the model-draw"):
        score_centered(bare, clips)
