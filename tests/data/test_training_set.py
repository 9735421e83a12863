"""Clips and stores known again by what they hold."""

import numpy as np
import pytest

from avdiff_jax.data.clip_source import of_arrays, of_store
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.fingerprints import fingerprint, identify
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.data.training_set import TrainingSet, find_unseen
from avdiff_jax.data.values import Values
from avdiff_jax.errors import Note
from tests import tiny

ANY = Values(0, 0, 0, 0)


@pytest.fixture(scope="module")
def store():
    return open_store(tiny.world()[0])


def test_a_clip_is_the_same_in_every_type():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (4, 3)).astype(np.uint8)
    values = (1e-5 * rng.standard_normal((5, 6))).astype(np.float32)
    values[0, 0] = 3.0
    whole = fingerprint(codes, values)
    assert whole == fingerprint(codes.astype(np.float32), values.astype(np.float64))
    assert whole == fingerprint(codes.astype(np.int64), values.astype(np.float16))
    assert fingerprint(codes, None) == fingerprint(codes, values[:0])


def test_another_clip_is_another():
    rng = np.random.default_rng(0)
    audio, video = rng.random((4, 3)), rng.random((5, 6))
    others = [
        (audio[:3], video), (audio, video[::-1]), (video, audio), (None, video), (audio, None),
        (audio.reshape(3, 4), video), (audio + 0.01, video), (audio * 1e6, video),
        (audio * 1e7, video), (audio * 1e-9, video), (audio * 1e-10, video),
    ]
    prints = {fingerprint(*clip) for clip in [(audio, video), *others]}
    assert len(prints) == 1 + len(others)


def test_what_a_clip_holds_decides_and_not_its_name():
    audio = list(np.random.default_rng(0).random((6, 4, 3)))
    new = list(np.random.default_rng(1).random((3, 4, 3)))
    # "0" to "5" have been trained on; of those given, "0" to "2" are new and "3" to "5" are not.
    source = of_arrays([*new, *audio[:3]], [None] * 6)
    prints = of_arrays(audio, [None] * 6).prints
    trained_on = TrainingSet((ANY, ANY), prints, np.zeros(0, str), None)
    with pytest.warns(Note, match="3 of 6 clips .*: 3 hold what a training clip of"):
        unseen = find_unseen(trained_on, np.zeros(0, str), source, np.arange(6))
    assert unseen.tolist() == [0, 1, 2]
    with pytest.warns(Note, match="2 of 4 clips"):
        unseen = find_unseen(trained_on, np.zeros(0, str), source, np.array([5, 0, 3, 1]))
    assert unseen.tolist() == [1, 3]
    # The file of a model of version 0.1 has ids alone.
    with pytest.warns(Note, match="1 of 6 clips"):
        unseen = find_unseen(None, np.array(["4", "9"]), source, np.arange(6))
    assert unseen.tolist() == [0, 1, 2, 3, 5]
    with pytest.warns(Note, match="does not say what it was trained on, so none of the 6 clips"):
        unseen = find_unseen(None, np.zeros(0, str), source, np.arange(6))
    assert len(unseen) == 6


def test_a_group_that_was_trained_on_is_left_out():
    audio = list(np.random.default_rng(0).random((6, 4, 3)))
    groups = np.array(["a", "b", "", "a", "c", ""])
    source = of_arrays(audio, [None] * 6, groups=groups)
    trained_on = TrainingSet((ANY, ANY), source.prints[[0, 2]], np.array(["a"]), None)
    with pytest.warns(Note, match="3 of 6 .*: 2 hold what .*, 1 are of a group that"):
        unseen = find_unseen(trained_on, np.zeros(0, str), source, np.arange(6))
    assert unseen.tolist() == [1, 4, 5]
    with pytest.warns(Note, match="1 of 2 clips of the list of arrays are left out: 1 are of a "):
        find_unseen(trained_on, np.zeros(0, str), source, np.array([3, 4]))


def test_nothing_is_said_where_nothing_is_left_out(store):
    trained_on = TrainingSet((ANY, ANY), np.zeros(0, np.uint64), np.zeros(0, str), None)
    rows = np.arange(len(store))
    assert find_unseen(trained_on, np.zeros(0, str), of_store(store), rows).tolist() == [*rows]


CHANGES = {
    "ids": lambda clip: clip._replace(clip_id=clip.clip_id + "x"),
    "groups": lambda clip: clip._replace(group="all"),
    "an audio value": lambda clip: clip._replace(audio=clip.audio + (clip.audio < 9)),
    "video values": lambda clip: clip._replace(video=clip.video + np.float32(1e-3)),
    "lengths": lambda clip: clip._replace(video=clip.video[:1]),
    "classes": lambda clip: clip._replace(
        class_name=clip.class_name.translate(str.maketrans("12", "21"))),
    "nothing": None,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_store_is_known_by_what_it_holds(name, store, tmp_path):
    other = tiny.rewritten(store, tmp_path / "other.h5", change=CHANGES[name])
    assert (identify(other) == identify(store)) == (name == "nothing")


def test_a_store_is_another_where_clips_are_of_other_lengths(store, tmp_path):
    """Though all tokens are the same, and as many."""
    forward = dict(zip(store.clip_ids, store.video.lengths, strict=True))
    back = dict(zip(store.clip_ids, store.video.lengths[::-1], strict=True))
    known_by = {
        identify(tiny.rewritten(
            store, tmp_path / "even.h5", change=lambda clip, n=lengths: clip._replace(
                video=np.ones((n[clip.clip_id], 3), np.float32))))
        for lengths in (forward, back)
    }
    assert len(known_by) == 2


def test_a_store_is_another_at_another_rate_in_another_order_or_with_other_classes(store, tmp_path):
    usual = identify(store)
    assert identify(tiny.rewritten(store, tmp_path / "rate.h5", rate=2)) != usual
    order = np.arange(len(store))[::-1]
    assert identify(tiny.rewritten(store, tmp_path / "order.h5", order)) != usual
    clips = [Clip(c.clip_id, "all", None, c.audio, c.video) for c in of_store(store)]
    write_store(tmp_path / "one.h5", name=store.name, clips=clips, class_names=["all"],
                class_text=store.class_text[:1], audio_seconds=store.audio.seconds,
                video_seconds=store.video.seconds, provenance={})
    assert identify(open_store(tmp_path / "one.h5")) != usual
