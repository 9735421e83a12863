"""What a model lets through: tokens of its rate, values of its scale."""

import warnings

import numpy as np
import pytest

from avdiff_jax.data.admission import LOOK, Usual, admit
from avdiff_jax.data.clip_source import of_arrays
from avdiff_jax.data.rates import resample
from avdiff_jax.data.values import Tally, Values
from avdiff_jax.errors import Note, UserError

USUAL = Usual((2, 3), (1.0, 0.5), (Values(0, 255, 128, 40), Values(-4, 4, 0, 1)))


def clips(count, audio=(128, 40), video=(0, 1), tokens=(6, 12), seed=0):
    """Arrays of normal values of such mean and deviation."""
    rng = np.random.default_rng(seed)
    parts = []
    for (mean, deviation), length, dim in zip((audio, video), tokens, USUAL.dims, strict=True):
        values = mean + deviation * rng.standard_normal((count, length, dim)).clip(-3, 3)
        parts.append(list(values.astype(np.float32)))
    return parts


def test_tokens_that_were_repeated_come_out_as_they_were():
    values = np.random.default_rng(0).random((7, 3), np.float32)
    for times in (2, 3, 4):
        again = resample(np.repeat(values, times, 0), 0.9 / times, 0.9)
        np.testing.assert_allclose(again, values, atol=1e-6)


def test_resampling_by_hand():
    values = np.array([[0.0], [1.0], [2.0], [6.0], [8.0]])
    np.testing.assert_allclose(resample(values, 1, 2)[:, 0], [0.5, 4, 8])  # the last one is half
    np.testing.assert_allclose(resample(values, 2, 1)[:, 0], np.repeat(values[:, 0], 2))
    np.testing.assert_allclose(
        resample(values, 1, 1.5)[:, 0], [1 / 3, 5 / 3, 20 / 3, 8], rtol=1e-6)
    assert resample(values[:0], 1, 2).shape == (0, 1)
    assert len(resample(values, 1, 100)) == 1
    codes = np.array([[255], [0], [1], [2]], np.uint8)
    np.testing.assert_allclose(resample(codes, 0.5, 1), [[127.5], [1.5]])


def test_rates():
    audio, video = clips(3)
    for seconds in ((None, None), (1.0, 0.5), (1.0004, None)):
        through = list(admit(of_arrays(audio, video, seconds=seconds), USUAL))
        np.testing.assert_array_equal(through[1].audio, audio[1])
    with pytest.raises(UserError, match=r"arrays has 0.25 s per video token .* trained on 0.5 s"):
        admit(of_arrays(audio, video, seconds=(1.0, 0.25)), USUAL)
    with pytest.raises(UserError, match="inf seconds per audio"):
        admit(of_arrays(audio, video, seconds=(np.inf, None)), USUAL)
    source = of_arrays(audio, video, seconds=(2.0, 0.25), match_rate=True)
    with pytest.warns(Note) as notes:
        through = list(admit(source, USUAL))
    assert [clip.audio.shape for clip in through] == [(12, 2)] * 3
    assert [clip.video.shape for clip in through] == [(6, 3)] * 3
    assert "audio tokens of 2 s are resampled to the model's 1 s" in str(notes[0].message)


@pytest.mark.parametrize(
    "odd, complaint",
    [
        (dict(audio=(0.5, 0.15)), r"has audio values of .* where the model was trained on 0 to 2"),
        (dict(video=(0, 0.05)), "has video values"),  # normalised
        (dict(video=(0, 20)), "has video values"),
        (dict(video=(5, 0.1)), "has video values"),
        (dict(audio=(-1, 40)), "has audio values"),  # half of them below 0
    ],
)
def test_another_scale_is_refused(odd, complaint):
    audio, video = clips(5, **odd)
    with pytest.raises(UserError, match=complaint):
        list(admit(of_arrays(audio, video), USUAL))
    with pytest.warns(Note, match=r"and \d+\.\d% of them lie beyond: check"):
        assert len(list(admit(of_arrays(audio, video, accept_values=True), USUAL))) == 5


@pytest.mark.parametrize("video", [(8, 1), (0, 20)])  # another mean, another scale
def test_values_within_a_wide_range_are_refused_by_how_they_lie(video):
    audio, values = clips(5, video=video)
    wide = USUAL._replace(values=(USUAL.values[0], Values(-100, 100, 0, 1)))
    with pytest.raises(UserError, match="has video values"):
        list(admit(of_arrays(audio, values), wide))


def test_it_is_refused_early():
    """Not at the end of a long stream."""
    audio, video = clips(4 * LOOK, audio=(0.5, 0.15))
    seen = 0
    with pytest.raises(UserError, match="audio values"):
        for _ in admit(of_arrays(audio, video), USUAL):
            seen += 1
    assert seen < LOOK


def test_odd_clips_among_usual_ones_pass():
    """A silent clip, a black one, one that is loud: nothing is refused and nothing said."""
    audio, video = clips(60)
    audio[3], video[5], video[7] = np.full((6, 2), 90), np.zeros((12, 3)), video[7] * 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(admit(of_arrays(audio, video), USUAL))) == 60
        assert len(list(admit(of_arrays(audio[3:4], video[5:6]), USUAL))) == 1


def test_a_model_that_knows_no_values_takes_all():
    audio, video = clips(5, audio=(0.5, 0.15))
    assert len(list(admit(of_arrays(audio, video), USUAL._replace(values=None)))) == 5


def test_a_tally_is_that_of_all_values_at_once():
    rng = np.random.default_rng(0)
    tally, usual = Tally(Values(0, 200, 100, 30)), (0, 200)
    parts = [rng.integers(0, 256, (n, 4)).astype(np.uint8) for n in (3, 0, 7, 1)]
    for part in parts:
        tally.add(part)
    values = np.concatenate(parts).astype(float)
    np.testing.assert_allclose(
        tally.values(), [values.min(), values.max(), values.mean(), values.std()], rtol=1e-12)
    assert tally.outside == ((values < usual[0]) | (values > usual[1])).sum() > 0
