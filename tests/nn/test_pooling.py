"""Averages over the valid tokens of a clip."""

import jax.numpy as jnp
import numpy as np

from avdiff_jax.nn.layers import mean_over_time, segment_means, unit


def test_mean_over_time():
    x = jnp.asarray([[[1.0, 2], [3, 6], [9, 9]], [[5, 5], [5, 5], [5, 5]]])
    valid = jnp.asarray([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(mean_over_time(x, valid), [[2, 4], [0, 0]])


def test_unit():
    np.testing.assert_allclose(unit(jnp.asarray([[3.0, 4], [0, 0]])), [[0.6, 0.8], [0, 0]])


def test_segment_means():
    """Against loops, for clips longer and shorter than the number of segments."""
    rng = np.random.default_rng(0)
    lengths, segments = (1, 2, 3, 5, 8, 11), 4
    x = rng.normal(size=(len(lengths), 11, 2)).astype(np.float32)
    valid = np.arange(11)[None] < np.array(lengths)[:, None]
    found = np.asarray(segment_means(jnp.asarray(x), jnp.asarray(valid), segments))
    for i, n in enumerate(lengths):
        for s in range(segments):
            first, last = s * n // segments, -(-(s + 1) * n // segments)
            wanted = x[i, first : max(last, first + 1)].mean(0)
            np.testing.assert_allclose(found[i, 2 * s : 2 * s + 2], wanted, atol=1e-6)
    np.testing.assert_allclose(found[0].reshape(4, 2), np.tile(x[0, 0], (4, 1)), atol=1e-6)


def test_segments_ignore_padding():
    x = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
    valid = np.arange(6)[None] < np.array([6, 4])[:, None]
    longer = np.pad(x, ((0, 0), (0, 5), (0, 0)), constant_values=7)
    mask = np.pad(valid, ((0, 0), (0, 5)))
    np.testing.assert_allclose(
        segment_means(jnp.asarray(x), jnp.asarray(valid), 8),
        segment_means(jnp.asarray(longer), jnp.asarray(mask), 8), atol=1e-6,
    )
