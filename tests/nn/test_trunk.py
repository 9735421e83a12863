"""What the trunk does to a batch before any layer: scaling, and which tokens BatchNorm counts."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.nn.trunk import counted, scaled

VALID = jnp.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)


def test_batchnorm_counts_valid_tokens_or_all_up_to_the_longest_clip():
    np.testing.assert_array_equal(counted(VALID, "masked"), VALID)
    np.testing.assert_array_equal(counted(VALID, "batch"), [[1, 1, 0, 0], [1, 1, 0, 0]])


@pytest.mark.parametrize("video_norm, wanted", [
    ("time", [[[0.6, 1], [0.8, 0]]]),  # each feature over its norm along the clip
    ("feature", [[[3 / np.sqrt(13), 2 / np.sqrt(13)], [1, 0]]]),  # each token over its own
    ("none", [[[3, 2], [4, 0]]]),
])
def test_scaling_by_hand(video_norm, wanted):
    batch = SimpleNamespace(
        audio=jnp.array([[[3], [7]]], jnp.uint8), audio_mask=jnp.array([[True, False]]),
        video=jnp.array([[[3.0, 2.0], [4.0, 0.0]]]),
    )
    buffers = {"audio_shift": jnp.array([1.0]), "audio_scale": jnp.array([0.5])}
    found = scaled(batch, buffers, video_norm)
    np.testing.assert_allclose(found["audio"], [[[1], [0]]])  # padding stays zero
    np.testing.assert_allclose(found["video"], wanted, rtol=1e-6)


def test_a_feature_that_is_always_zero_stays_zero():
    batch = SimpleNamespace(
        audio=jnp.zeros((1, 1, 1)), audio_mask=jnp.ones((1, 1), bool), video=jnp.zeros((1, 2, 2))
    )
    buffers = {"audio_shift": jnp.zeros(1), "audio_scale": jnp.ones(1)}
    np.testing.assert_array_equal(scaled(batch, buffers, "time")["video"], np.zeros((1, 2, 2)))
