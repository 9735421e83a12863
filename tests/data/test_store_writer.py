import numpy as np

from avdiff_jax.data.clips import Clip, pool_tokens


def test_pooling_averages_the_rest_too():
    values = np.arange(10).reshape(5, 2)
    clip = Clip("a", "c", None, values, values.astype(np.float64))
    got = next(pool_tokens([clip], audio=2, video=4))
    np.testing.assert_array_equal(got.audio, [[1, 2], [5, 6], [8, 9]])
    np.testing.assert_array_equal(got.video, [[3, 4], [8, 9]])
    assert next(pool_tokens([clip])).audio is values


def test_pooling_does_not_hide_bad_values():
    bad = np.ones((4, 2))
    bad[3, 1] = np.nan
    got = next(pool_tokens([Clip("a", "c", None, bad, None)], audio=3, video=3))
    assert np.isnan(got.audio[1, 1]) and np.isfinite(got.audio[0]).all() and got.video is None
