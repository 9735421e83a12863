"""Frames and sound of the made clips: numbers read back from the pixels, levels of the sound."""

import math

import numpy as np
import pytest

pytest.importorskip("av")

import av
import PIL.Image

from avdiff_jax.extract import decoding
from tests.extract.clips import by_filter, number_of

RATE = 16_000


@pytest.fixture
def made(shared):
    folder = shared / "extract" / "clips" / "made"
    if not folder.is_dir():
        pytest.skip("shared holds no clips")
    return folder


def decoded(path, **span):
    """(frame numbers by place, samples, facts)."""
    facts, numbers, sound = decoding.Facts(), [], [np.zeros(0, np.float32)]
    for part in decoding.decode(path, RATE, 25.0, facts, **span):
        if isinstance(part, decoding.Picture):
            assert part.tick == len(numbers)
            numbers.append(number_of(part.rgb()))
        else:
            sound.append(part.values)
    return numbers, np.concatenate(sound), facts


@pytest.mark.parametrize("name", ["fps10.mp4", "fps60.mp4", "ntsc.mp4", "vfr.mp4", "ok25.mp4"])
def test_frames_are_those_of_the_filter(made, name):
    numbers, _, facts = decoded(made / name)
    assert numbers == by_filter(made / name)
    assert not facts.damaged and not facts.ends_early


def test_frames_of_variable_rate_stay_near_their_times(made):
    numbers, _, _ = decoded(made / "vfr.mp4")
    times = np.load(made / "vfr_times.npy")
    for place, number in enumerate(numbers):
        due = times[number + 1] if number + 1 < len(times) else math.inf
        assert times[number] <= (place + 0.5) / 25 + 1e-6 and due >= (place + 0.5) / 25 - 1e-6


@pytest.mark.parametrize("name", ["old.avi", "webm.webm", "surround.mp4", "audio_late.mp4"])
def test_a_clip_of_the_right_rate_is_left_alone(made, name):
    assert decoded(made / name)[0] == list(range(75))


def test_rotation(made):
    upright = next(iter(decoding.decode(made / "rot90.mp4", None, 25.0, decoding.Facts())))
    stored = upright.frame.to_ndarray(format="rgb24")
    assert stored.shape == (128, 192, 3) and upright.rgb().shape == (192, 128, 3)
    np.testing.assert_array_equal(np.rot90(upright.rgb(), -1), stored)


def test_damaged_packets_are_left_out_and_time_is_kept(made):
    numbers, sound, facts = decoded(made / "corrupt_mid.mp4")
    whole, _, _ = decoded(made / "ok25.mp4")
    assert facts.damaged == 10 and not facts.ends_early
    assert len(numbers) == 75 and numbers[-1] == 74
    assert sum(a == b for a, b in zip(numbers, whole, strict=True)) >= 70
    assert abs(len(sound) / RATE - 3) < 0.1


def test_an_early_end_is_noticed(made):
    numbers, sound, facts = decoded(made / "trunc_faststart.mp4")
    assert facts.ends_early and facts.stated == 3.0 and facts.seconds == 1.48
    assert numbers == list(range(37)) and 1.2 < len(sound) / RATE < 1.5


def test_late_sound_begins_with_silence(made):
    _, sound, _ = decoded(made / "audio_late.mp4")
    assert abs(len(sound) / RATE - 3.02) < 0.01
    late = round(43042 / 44100 * RATE)
    assert not sound[: late - 100].any() and np.abs(sound[late + 800 :]).max() > 0.05


@pytest.mark.parametrize("name", ["ok25.mp4", "surround.mp4", "mono8k.mp4", "old.avi", "webm.webm"])
def test_sound_is_as_loud_as_the_mean_of_its_channels(made, name):
    _, sound, _ = decoded(made / name)
    with av.open(str(made / name)) as container:
        channels = []
        for frame in container.decode(audio=0):
            assert frame.format.name == "fltp"
            channels.append(frame.to_ndarray())
        stated = np.concatenate(channels, 1).mean(0)
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(np.sqrt(np.mean(stated**2)), rel=0.02)


@pytest.mark.parametrize("start, end", [(0.0, 1.0), (1.0, 2.0), (2.0, math.inf), (0.5, 0.52)])
def test_a_span(made, start, end):
    whole, all_sound, _ = decoded(made / "ok25.mp4")
    numbers, sound, facts = decoded(made / "ok25.mp4", start=start, end=end)
    last = min(75, round(end * 25)) if end < 9 else 75
    assert numbers == whole[round(start * 25):last]
    first = round(start * RATE)
    wanted = all_sound[first:round(min(end, 99) * RATE)]
    assert abs(len(sound) - len(wanted)) < 50
    # Resampling that starts elsewhere rounds the times of samples: levels are compared.
    assert np.std(sound) == pytest.approx(np.std(wanted), rel=0.05)
    assert not facts.ends_early


@pytest.mark.parametrize("name, complaint", [
    ("empty.mp4", "it is empty"),
    ("text.mp4", "no video or sound, or was cut off"),
    ("trunc_moovend.mp4", "no video or sound, or was cut off"),
    ("missing.mp4", "no such file"),
])
def test_what_is_no_clip(made, name, complaint):
    with pytest.raises(decoding.NotDecodable, match=complaint):
        decoded(made / name)


def test_pictures_and_lists_of_files_are_no_clips(tmp_path, made):
    """FFmpeg would show a picture as a film, and follow a list to other files."""
    PIL.Image.new("RGB", (64, 48)).save(tmp_path / "cover.png")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile '{made / 'ok25.mp4'}'\n")
    for name in ("cover.png", "list.txt"):
        with pytest.raises(decoding.NotDecodable, match="no video or sound"):
            decoded(tmp_path / name)


def test_tracks_that_are_not_there(made):
    numbers, sound, facts = decoded(made / "noaudio.mp4")
    assert len(numbers) == 75 and not len(sound) and not facts.has_audio and facts.has_video
    numbers, sound, facts = decoded(made / "audioonly.m4a")
    assert not numbers and len(sound) > 3 * RATE and facts.has_audio and not facts.has_video
