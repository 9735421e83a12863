"""Dropout: the share that stays, its scale and gradient, and the generator of its randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.nn.layers import dropout, random_words


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout(rate, key):
    x = jnp.ones((400, 251))
    y = np.asarray(dropout(key, x, rate))
    kept = y != 0
    # Five standard deviations of a share of 1e5 draws, and the rounding of the rate.
    assert abs(1 - kept.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size) + 2**-16
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-4)
    np.testing.assert_array_equal(y, dropout(key, x, rate))
    assert (y != np.asarray(dropout(jax.random.key(1), x, rate))).any()


def test_dropout_is_independent(key):
    """Neighbours, which share a random word, and rows fall out independently."""
    out = np.asarray(dropout(key, jnp.ones((4000, 8)), 0.5)) == 0
    correlation = np.corrcoef(out.T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_no_dropout(key):
    x = jax.random.normal(key, (3, 5))
    np.testing.assert_array_equal(dropout(key, x, 0.0), x)


def test_dropout_gradient(key):
    """What fell out gets no gradient, the rest 1 / (1 - rate)."""
    x = jnp.ones((20, 20))
    grad = jax.grad(lambda x: dropout(key, x, 0.25).sum())(x)
    np.testing.assert_allclose(grad, dropout(key, x, 0.25))


def kept(key, shape=(64, 256), rate=0.3):
    return np.asarray(dropout(key, jnp.ones(shape), rate)) > 0


def test_random_words_are_uniform_in_every_bit(key):
    words = np.asarray(random_words(key, (1024, 256)))
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32).mean(0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(words.size)
    counts = np.bincount((words >> 20).ravel(), minlength=4096)
    chi2 = ((counts - words.size / 4096) ** 2 / (words.size / 4096)).sum()
    assert abs(chi2 - 4095) < 5 * np.sqrt(2 * 4095)


def test_both_words_of_a_key_count():
    drawn = {
        tuple(random_words(jax.random.wrap_key_data(jnp.array(pair, jnp.uint32)), (4,)).tolist())
        for pair in ((0, 0), (1, 0), (0, 1))
    }
    assert len(drawn) == 3


def test_dropout_is_independent_across_positions_keys_and_shapes(key):
    """Correlations of masks at all small distances, of neighbouring keys, of rows, are noise."""
    mask = kept(key, (512, 512))
    centred = (mask - mask.mean()).ravel()
    scale = centred.var() * np.sqrt(centred.size)
    for lag in [*range(1, 70), 256, 511, 512, 513, 1024, 4096, 65536]:
        assert abs((centred[:-lag] * centred[lag:]).sum() / scale) < 5, lag
    keys = [*jax.random.split(key, 12), *(jax.random.fold_in(key, 100 + i) for i in range(12))]
    masks = np.stack([kept(k).ravel() for k in keys]).astype(float)
    off = np.corrcoef(masks) - np.eye(len(keys))
    assert np.abs(off).max() < 5 / np.sqrt(masks.shape[1])
    raw = [jax.random.wrap_key_data(jnp.array(d, jnp.uint32))
           for d in ([0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [2, 0], [0, 1 << 31], [1 << 31, 0])]
    masks = np.stack([kept(k).ravel() for k in raw]).astype(float)
    off = np.corrcoef(masks) - np.eye(len(raw))
    assert np.abs(off).max() < 5 / np.sqrt(masks.shape[1])


def test_dropout_draws_are_a_function_of_the_global_position(key):
    """The same on one device and with the rows split over two."""
    from jax.sharding import NamedSharding, PartitionSpec

    from avdiff_jax.runtime import devices

    split = NamedSharding(devices.mesh(), PartitionSpec("data"))
    x = jnp.ones((8, 5, 7))
    run = jax.jit(lambda x: dropout(key, x, 0.4))
    np.testing.assert_array_equal(run(x), run(jax.device_put(x, split)))
