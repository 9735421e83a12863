"""Losses against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.losses import cross_entropy, squared_error


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
