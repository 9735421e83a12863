"""Scaled principal components of pooled raw features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.methods.method import scaling_buffers
from avdiff_jax.methods.shared.raw_branch import (
    COMPONENTS,
    fit_raw,
    init_raw,
    principal_map,
    raw_features,
    sample_rows,
)
from tests.methods import toy


def rows(n=50, p=6, seed=0):
    rng = np.random.default_rng(seed)
    return 3 + rng.normal(size=(n, p)) @ rng.normal(size=(p, p))


def test_components_are_those_of_the_correlation_matrix():
    """Against its eigenvectors: variance of component j is s_j / s_1, and the mean deviation 1."""
    x = rows()
    center, matrix = principal_map(x, 4)
    out = (x - center) @ matrix
    values, vectors = np.linalg.eigh(np.corrcoef(x.T))
    s = np.sqrt(values[::-1][:4])
    deviation = np.sqrt(s / s[0])
    np.testing.assert_allclose(out.std(0), deviation / deviation.mean(), rtol=1e-6)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-9)
    direction = matrix * x.std(0)[:, None]
    direction /= np.linalg.norm(direction, axis=0)
    cosine = (direction * vectors[:, ::-1][:, :4]).sum(0)
    np.testing.assert_allclose(np.abs(cosine), 1, rtol=1e-6)


@pytest.mark.parametrize("x, rank", [
    (rows(n=3), 2), (rows(n=1), 0), (np.ones((5, 6)), 0), (rows() * [1, 1, 0, 0, 1, 1], 4),
], ids=["three clips", "one clip", "constant", "constant dimensions"])
def test_columns_beyond_the_rank_are_zero(x, rank):
    center, matrix = principal_map(x, 5)
    assert np.isfinite(center).all() and matrix.shape == (6, 5)
    np.testing.assert_array_equal((matrix != 0).any(0), np.arange(5) < rank)


def test_a_sample_is_of_the_wanted_classes_and_evenly_drawn():
    """Clips of any batch are as likely to be in it; rows keep their labels."""
    batches = [toy.draw(toy.key(i), role, 40) for i, role in enumerate(("base", "novel") * 4)]
    wanted = np.arange(toy.BASE + toy.NOVEL) < toy.BASE

    def vector(batch):
        return jnp.stack([batch.audio.sum((1, 2)), batch.label.astype(jnp.float32)], axis=1)

    found, labels = sample_rows(vector, batches, wanted, 1000, 0)
    assert len(found) == 160 and set(labels) == set(range(toy.BASE))
    np.testing.assert_array_equal(found[:, 1], labels)
    counts = np.zeros(160)
    for seed in range(100):
        few, _ = sample_rows(vector, batches, wanted, 30, seed)
        assert len(few) == 30
        counts += np.isin(found[:, 0], few[:, 0])
    quarters = counts.reshape(4, 40).mean(1)
    np.testing.assert_allclose(quarters, 100 * 30 / 160, rtol=0.15)


def test_padding_is_no_clip():
    batch = toy.draw(toy.key(0))
    batch = batch.replace(weight=batch.weight.at[5:].set(0))
    found, labels = sample_rows(lambda b: b.audio[:, 0], [batch], np.ones(6, bool), 100, 0)
    np.testing.assert_array_equal(found, batch.audio[:5, 0])
    np.testing.assert_array_equal(labels, batch.label[:5])


def test_the_branch_is_fitted_to_base_clips_alone():
    info = toy.info("ncm")
    buffers = scaling_buffers(info)
    batches = [toy.draw(toy.key(i), role) for i, role in enumerate(("base", "novel"))]
    before = init_raw(info, buffers, batches[0])
    assert (raw_features(info, {**buffers, **before}, batches[0]) == 0).all()
    fitted = fit_raw(info, buffers, lambda: batches)
    assert jax.tree.map(jnp.shape, fitted) == jax.tree.map(jnp.shape, before)
    out = raw_features(info, {**buffers, **fitted}, batches[0])
    assert out.shape == (32, COMPONENTS)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    used = np.asarray(out.std(0)) > 0
    np.testing.assert_allclose(out.std(0)[used].mean(), 1, atol=1e-3)
    other = fit_raw(info, buffers, lambda: [batches[0], toy.draw(toy.key(9), "novel")])
    jax.tree.map(np.testing.assert_array_equal, other, fitted)
