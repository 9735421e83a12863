"""Losses against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.losses import cross_entropy, mean_where, negatives, squared_error, triplet


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.asarray([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    np.testing.assert_allclose(
        cross_entropy(logits, jnp.asarray([0, 1])), [np.log(2), np.log(5)], rtol=1e-6
    )


def test_cross_entropy_ignores_a_shift_and_stays_finite():
    logits = jnp.asarray([[1e4, 0.0], [0.0, -1e4]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([1, 0])), [1e4, 0])


def test_cross_entropy_gradient():
    """softmax - one-hot."""
    logits = jnp.asarray([[0.3, -1.0, 2.0]])
    grad = jax.grad(lambda x: cross_entropy(x, jnp.asarray([2]))[0])(logits)
    p = np.exp([0.3, -1.0, 2.0])
    np.testing.assert_allclose(grad[0], p / p.sum() - [0, 0, 1], atol=1e-6)


def test_squared_error_by_hand():
    a, b = jnp.asarray([[1.0, 2], [0, 0]]), jnp.asarray([[3.0, 2], [1, 2]])
    np.testing.assert_allclose(squared_error(a, b), [2, 2.5])


def test_triplet_by_hand():
    zero = jnp.zeros((3, 2))
    positive = jnp.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])  # distances 5, 1, 0
    negative = jnp.array([[0.0, 2.0], [0.0, 9.0], [0.0, 0.0]])  # 2, 9, 0
    np.testing.assert_allclose(triplet(zero, positive, negative), [4, 0, 1], rtol=1e-5)
    slope = jax.grad(lambda a: triplet(a, zero, negative).sum())(zero)
    assert np.isfinite(slope).all()  # also where anchor and positive are the same


def test_negatives_never_share_the_label():
    labels = jnp.array([0, 0, 1, 2, 2, 2])
    draws, found = jax.vmap(lambda k: negatives(k, labels))(
        jax.random.split(jax.random.key(0), 3000)
    )
    assert found.all()
    assert (labels[draws] != labels[None]).all()
    counts = np.bincount(np.asarray(draws[:, 2]), minlength=6)  # of class 1: five others
    np.testing.assert_allclose(counts / 3000, [0.2, 0.2, 0, 0.2, 0.2, 0.2], atol=0.03)


def test_a_batch_of_one_class_has_no_negatives():
    _, found = negatives(jax.random.key(0), jnp.zeros(4, int))
    assert not found.any()
    assert mean_where(jnp.ones(4), found) == 0


def test_mean_where_by_hand():
    values, used = jnp.array([1.0, 5.0, jnp.nan]), jnp.array([True, True, False])
    assert mean_where(values, used) == 3
