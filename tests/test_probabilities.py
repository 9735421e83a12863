"""Probabilities of classes: their temperature, their order, how far they can be trusted."""

import numpy as np
import pytest

from avdiff_jax import metrics
from avdiff_jax.probabilities import compute_probabilities, fit_temperature, measure_reliability


def scored_clips(temperature, n=4000, classes=5):
    """Scores whose labels are drawn with the probabilities of that temperature."""
    rng = np.random.default_rng(3)
    is_base = np.arange(classes) < 3
    scores = rng.normal(size=(n, classes))
    p = compute_probabilities(scores, is_base, 0.4, temperature)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    return scores, labels, is_base


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    found = fit_temperature(*scored_clips(temperature), 0.4)
    np.testing.assert_allclose(found, temperature, rtol=0.15)


def test_the_temperature_does_not_depend_on_the_parts_it_is_found_from(monkeypatch):
    given = (*scored_clips(0.5, n=301), 0.4)
    whole = fit_temperature(*given)
    monkeypatch.setattr(metrics, "BLOCK", 7 * 5)
    np.testing.assert_allclose(fit_temperature(*given), whole, rtol=1e-9)


def test_a_class_counts_the_same_for_the_temperature_however_many_clips_it_has():
    """One that is always mistaken does not make all others doubtful by its number."""
    scores, labels, is_base = scored_clips(1.0, n=60)
    mistaken = np.flatnonzero(labels == 2)
    scores[mistaken, 2] = scores[mistaken].min(1) - 1
    often = np.concatenate([np.arange(60), *[mistaken] * 9])
    once, ten_times = (
        fit_temperature(scores[rows], labels[rows], is_base, 0.4)
        for rows in (np.arange(60), often)
    )
    np.testing.assert_allclose(ten_times, once, rtol=0.03)


@pytest.mark.parametrize("times", [1, 25])
def test_scores_that_never_err_may_err_on_the_next_clip(times):
    is_base, labels = np.array([1, 1, 0, 0], bool), np.tile(np.arange(4), times)
    found = fit_temperature(np.eye(4)[labels], labels, is_base, 0.0)
    p = compute_probabilities(np.eye(4), is_base, 0.0, found)
    np.testing.assert_allclose(p.max(1), (len(labels) + 1) / (len(labels) + 2), atol=1e-4)


def test_scores_that_always_err_say_nothing():
    labels, is_base = np.arange(4), np.array([1, 1, 0, 0], bool)
    assert fit_temperature(np.eye(4)[labels[::-1]], labels, is_base, 0.0) == pytest.approx(1e3)


@pytest.mark.parametrize("temperature", [None, 0.05, 2.0])
def test_probabilities_have_the_order_of_the_calibrated_scores(temperature):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(6), 50)
    is_base = np.arange(6) < 4
    for gamma in (0.0, 0.3, -0.2):
        p = compute_probabilities(scores, is_base, gamma, temperature)
        np.testing.assert_allclose(p.sum(1), 1)
        assert (p >= 0).all()
        best = metrics.calibrated(scores, is_base, gamma).argmax(1)
        np.testing.assert_array_equal(p.argmax(1), best)
    if temperature is None:
        np.testing.assert_allclose(compute_probabilities(scores, is_base, 0.0, None), scores)


def test_reliability_by_hand():
    p = np.array([[0.95, 0.05], [0.05, 0.95], [0.38, 0.62], [0.66, 0.34], [1.0, 0.0]])
    found = measure_reliability(p.max(1), p.argmax(1) == [0, 0, 1, 1, 0])
    np.testing.assert_allclose(found.probability, [64.0, 100 * (0.95 + 0.95 + 1) / 3])
    np.testing.assert_allclose(found.accuracy, [50.0, 200 / 3])
    assert found.clips.tolist() == [2, 3]
    np.testing.assert_allclose(found.error, (2 * 14 + 3 * (290 / 3 - 200 / 3)) / 5)
    high = measure_reliability(np.array([0.85, 1.0]), np.ones(2, bool))
    assert high.clips.tolist() == [1, 1]  # certainty belongs to the last tenth
