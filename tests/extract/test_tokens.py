"""Tokens cut from a stream equal those of the whole clip, however the stream is divided."""

import numpy as np
import pytest

pytest.importorskip("av")

from avdiff_jax.extract import mel, soundnet
from avdiff_jax.extract.decoding import Samples
from avdiff_jax.extract.tokens import FramePlan, WavePlan, count_whole, spread


def cut(plan, parts):
    cutter = plan.cutter()
    tokens = [token for part in parts for token in cutter.take(part)]
    return tokens + list(cutter.finish())


def pieces(wave, sizes):
    places = np.cumsum(sizes)
    return [Samples(part) for part in np.split(wave, places[places < len(wave)])]


@pytest.mark.parametrize("length", [0, 15_599, 15_600, 30_960, 50_000])
@pytest.mark.parametrize("sizes", [[10**6], [1000] * 50, [1, 15_599, 20_000]])
def test_mel_patches(length, sizes):
    plan = WavePlan(mel.RATE, mel.PATCH, mel.PATCH_HOP, 0, count_whole(mel.PATCH, mel.PATCH_HOP),
                    lambda window: mel.patches(window)[0])
    wave = np.random.default_rng(0).normal(size=length).astype(np.float32)
    tokens = cut(plan, pieces(wave, sizes))
    assert len(tokens) == plan.count(length)
    whole = mel.patches(wave)
    np.testing.assert_allclose(
        np.reshape([seen for seen, _, _ in tokens], whole.shape), whole, rtol=1e-6)


@pytest.mark.parametrize("length", [4573, 4574, 8000, 65_664, 70_001])
@pytest.mark.parametrize("size", [512, 9001, 10**6])
def test_windows_beyond_both_ends(length, size):
    plan = WavePlan(soundnet.RATE, soundnet.WINDOW, soundnet.HOP, soundnet.BEFORE,
                    soundnet.count_tokens, lambda window: window)
    wave = np.arange(1, length + 1, dtype=np.float32)
    tokens = cut(plan, pieces(wave, [size] * 200))
    assert len(tokens) == soundnet.count_tokens(length)
    padded = np.pad(wave, (soundnet.BEFORE, soundnet.WINDOW))
    for number, (window, start, samples) in enumerate(tokens):
        assert start == number * soundnet.HOP - soundnet.BEFORE
        first = number * soundnet.HOP
        np.testing.assert_array_equal(window, padded[first : first + soundnet.WINDOW])
        # The end is told wherever it is in sight.
        assert samples == min(length, start + soundnet.WINDOW) or samples == length


def test_the_shortest_clip():
    plan = WavePlan(mel.RATE, mel.PATCH, mel.PATCH_HOP, 0, count_whole(mel.PATCH, mel.PATCH_HOP),
                    lambda window: window)
    assert plan.least == pytest.approx(0.975, rel=0.02) and plan.least >= 0.975
    assert frame_plan(16, 2).least == pytest.approx(0.2)


class Frame:
    """A frame of the grid."""

    def __init__(self, tick, number):
        self.tick, self.frame = tick, number

    def rgb(self):
        return np.full((4, 4, 3), self.frame, np.uint8)


def frame_plan(every, frames):
    return FramePlan(25.0, every, spread(every, frames), 4, lambda image: image)


@pytest.mark.parametrize("count, valid", [(0, []), (4, []), (5, [1]), (13, [2]), (16, [2]),
                                          (20, [2]), (21, [2, 1])])
def test_two_frames_of_sixteen(count, valid):
    tokens = cut(frame_plan(16, 2), [Frame(tick, tick) for tick in range(count)])
    assert [int(there) for _, there in tokens] == valid
    for number, (frames, there) in enumerate(tokens):
        wanted = [16 * number + place for place in (4, 12)[:there]]
        assert frames[:there, 0, 0, 0].tolist() == wanted
        assert not frames[there:].any()


def test_all_frames():
    tokens = cut(frame_plan(16, 16), [Frame(tick, tick + 1) for tick in range(27)])
    assert [int(there) for _, there in tokens] == [16, 11]
    assert tokens[0][0][:, 0, 0, 0].tolist() == list(range(1, 17))
    assert tokens[1][0][:, 0, 0, 0].tolist() == [*range(17, 28), 0, 0, 0, 0, 0]


def test_a_frame_in_several_places_is_seen_once():
    calls = []
    plan = frame_plan(4, 4)._replace(see=lambda image: calls.append(1) or image)
    cut(plan, [Frame(tick, 7) for tick in range(4)])  # small integers are one object
    assert len(calls) == 1
