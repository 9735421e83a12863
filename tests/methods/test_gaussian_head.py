"""The Gaussian head against a plain float64 calculation, and at its edges."""

import numpy as np
import pytest

from avdiff_jax.methods.shared.gaussian_head import share_covariance, solve_head


def clips(base=6, novel=3, many=20, shots=5, dims=7, seed=0):
    """Rows, labels and is_base of correlated clips; base classes come first."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(base + novel), [many] * base + [shots] * novel)
    mix = rng.normal(size=(dims, dims))
    means = 2 * rng.normal(size=(base + novel, dims))
    rows = means[labels] + rng.normal(size=(len(labels), dims)) @ mix
    order = rng.permutation(len(labels))
    return rows[order], labels[order], np.arange(base + novel) < base


def reference(rows, labels, is_base):
    """Logits [n, C] of the clips themselves, straight from the definition: densities with an
    explicit inverse, one class and one clip at a time."""
    d, classes = rows.shape[1], sorted(set(labels.tolist()))
    mean = {c: rows[labels == c].mean(0) for c in classes}

    def covariance(members):
        total, freedom = np.zeros((d, d)), 0
        for c in members:
            mine = rows[labels == c]
            for x in mine:
                total += np.outer(x - mean[c], x - mean[c])
            freedom += len(mine) - 1
        return total / freedom if freedom else total

    s_b = covariance([c for c in classes if is_base[c]])
    s_n = covariance([c for c in classes if not is_base[c]])
    if np.trace(s_n) == 0 or np.trace(s_b) == 0:
        q = s_b + s_n
    else:
        q = 0.7 * s_b * np.trace(s_n) / np.trace(s_b) + 0.3 * s_n
    q = 0.9 * q + 0.1 * np.trace(q) / d * np.eye(d)
    inverse = np.linalg.inv(q)
    distance = np.array([
        [(x - mean[c]) @ inverse @ (x - mean[c]) for c in classes] for x in rows
    ])
    return -0.5 * distance


def relative(logits):
    """What comparisons see: logits up to a number per clip."""
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("shape", [
    {}, {"shots": 1}, {"shots": 20}, {"base": 1}, {"dims": 200}, {"novel": 1}, {"many": 1},
    {"many": 1, "shots": 2, "dims": 30},
], ids=str)
def test_equals_the_definition(shape):
    rows, labels, is_base = clips(**shape)
    weights, bias = solve_head(rows, labels, is_base)
    wanted = relative(reference(rows, labels, is_base))
    found = relative(rows @ weights + bias)
    np.testing.assert_allclose(found, wanted, atol=1e-8 * np.abs(wanted).max())


def test_by_hand():
    """Two base clips at -1 and 1 and two shots at 9 and 13, one dimension: S_b = 2, S_n = 8,
    Q = .7 * 2 * 4 + .3 * 8 = 8, which shrinkage leaves alone."""
    rows, is_base = np.array([[-1.0], [1], [9], [13]]), np.array([True, False])
    weights, bias = solve_head(rows, np.array([0, 0, 1, 1]), is_base)
    np.testing.assert_allclose(weights, [[0, 11 / 8]])
    np.testing.assert_allclose(bias, [0, -121 / 16])


def test_without_any_spread_it_is_the_nearest_mean():
    rows, is_base = np.array([[1.0, 0], [0, 3], [2, 2]]), np.array([True, True, False])
    weights, bias = solve_head(rows, np.arange(3), is_base)
    np.testing.assert_allclose(weights, rows.T)
    np.testing.assert_allclose(bias, [-0.5, -4.5, -4])


def test_a_dimension_without_anything_is_as_good_as_absent():
    """Neither shrinkage nor logits see it."""
    rows, labels, is_base = clips()
    wanted = solve_head(rows, labels, is_base)
    wider = np.insert(rows, 3, 0, axis=1)
    weights, bias = solve_head(wider, labels, is_base)
    assert (weights[3] == 0).all()
    np.testing.assert_allclose(np.delete(weights, 3, axis=0), wanted[0], rtol=1e-10)
    np.testing.assert_allclose(bias, wanted[1], rtol=1e-10)


def test_a_constant_dimension_tells_no_classes_apart():
    rows, labels, is_base = clips()
    rows = np.insert(rows, 3, 5.0, axis=1)
    weights, bias = solve_head(rows, labels, is_base)
    assert np.isfinite(weights).all() and np.isfinite(bias).all()
    np.testing.assert_allclose(np.ptp(weights[3]), 0, atol=1e-10)


def test_a_class_without_clips_leaves_the_others_alone():
    rows, labels, is_base = clips()
    wanted = solve_head(rows, labels, is_base)
    more = np.append(is_base, [True, False])
    weights, bias = solve_head(rows, labels, more)
    np.testing.assert_allclose(weights[:, :-2], wanted[0], rtol=1e-10)
    assert (weights[:, -2:] == 0).all() and (bias[-2:] == 0).all()


def test_clips_in_another_order_make_the_same_head():
    rows, labels, is_base = clips()
    order = np.random.default_rng(1).permutation(len(rows))
    for found, wanted in zip(
        solve_head(rows[order], labels[order], is_base), solve_head(rows, labels, is_base),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("base, novel", [(2.0, 0.0), (0.0, 2.0)])
def test_a_covariance_of_nothing_leaves_the_other_alone(base, novel):
    one = np.diag([1.0, 3.0])
    np.testing.assert_allclose(share_covariance(base * one, novel * one), np.diag([2.2, 5.8]))
