"""Clips in every form that a fit takes, and the stores that come of them."""

import os

import numpy as np
import pytest

pytest.importorskip("av")

from avdiff_jax.data.importers import text_encoders
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.extract import encoders
from avdiff_jax.fitting.sources import Arrays, FeatureFiles, Settings, VideoFiles, find_source
from tests.extract import test_run as quick
from tests.extract.clips import write_clip

RATES = Settings(audio_seconds=0.5, video_seconds=0.25)


@pytest.fixture(autouse=True)
def without_text(monkeypatch):
    monkeypatch.setattr(text_encoders, "PACKAGE", "not_there")


@pytest.fixture
def features(tmp_path):
    """Two classes of two clips as .npy files; the last has no audio."""
    folder = tmp_path / "pets"
    for number, name in enumerate(("cat/a", "cat/b", "dog/a", "dog/c")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.video.npy", np.full((3, 4), number, np.float32))
        if number < 3:
            np.save(folder / f"{name}.audio.npy", np.full((2, 5), number, np.float32))
    return folder


def values(store, modality, clip):
    part = getattr(store, modality)
    return part.values[part.offsets[clip] : part.offsets[clip + 1]]


def test_a_folder_of_features(features, tmp_path):
    source = find_source(features, None, None)
    assert isinstance(source, FeatureFiles) and source.name == "pets"
    assert "classes    2, with 2 clips each and no text" in source.write(tmp_path / "x.h5", RATES)
    store = open_store(tmp_path / "x.h5")
    assert store.clip_ids.tolist() == ["cat/a", "cat/b", "dog/a", "dog/c"]
    assert (store.audio.seconds, store.video.seconds) == (0.5, 0.25) and not source.labels()
    assert store.audio.lengths.tolist() == [2, 2, 2, 0] and store.may_lack_modality
    assert (values(store, "video", 2) == 2).all()


def test_a_manifest_of_features(features, tmp_path):
    (tmp_path / "list.csv").write_text(
        "clip_id,class,group,audio,video\nx,cat,g,pets/cat/a.audio.npy,pets/cat/a.video.npy\n"
        "y,dog,,,pets/dog/c.video.npy\n")
    source = find_source(tmp_path / "list.csv", None, None)
    assert isinstance(source, FeatureFiles) and source.layout == "manifest"
    source.write(tmp_path / "x.h5", RATES)
    store = open_store(tmp_path / "x.h5")
    assert store.clip_ids.tolist() == ["x", "y"] and store.groups.tolist() == ["g", ""]


def test_arrays(tmp_path):
    clips = [(np.ones((2, 5)), np.zeros((3, 4))), (None, np.ones(4)), (np.ones(5), None)]
    source = find_source(clips, ["cat", "dog", "cat"], ["g", "g", "h"])
    assert isinstance(source, Arrays)
    assert source.labels() == [("cat", "g"), ("dog", "g"), ("cat", "h")]
    source.write(tmp_path / "x.h5", RATES)
    store = open_store(tmp_path / "x.h5")
    assert store.class_names == ("cat", "dog") and store.labels.tolist() == [0, 1, 0]
    assert store.audio.lengths.tolist() == [2, 0, 1] and store.video.lengths.tolist() == [3, 1, 0]
    assert store.groups.tolist() == ["g", "g", "h"]


def test_video_files(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "make", lambda name, modality, *_: getattr(
        quick.encoders(), modality))
    for name in ("high/a", "low/b"):
        (tmp_path / "v" / name).parent.mkdir(parents=True)
        write_clip(tmp_path / "v" / f"{name}.avi", 1.1)
    for source in (
        find_source(tmp_path / "v", None, None),
        find_source([tmp_path / "v/high/a.avi", str(tmp_path / "v/low/b.avi")], ["x", "y"], None),
    ):
        assert isinstance(source, VideoFiles) and source.name == "v"
        assert source.labels() == [(name, None) for name in source.collection.class_names]
        out = tmp_path / f"{source.collection.class_names[0]}.h5"
        said = source.write(out, Settings())
        assert "extracted  2 ok" in said and f"report     {out.with_suffix('.report.csv')}" in said
        assert open_store(out).class_names == source.collection.class_names


def test_the_fingerprint_changes_with_the_clips(features):
    def fingerprint():
        return find_source(features, None, None).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    os.utime(features / "cat" / "a.video.npy", (1, 1))
    assert fingerprint() != first
    arrays = [(np.ones((2, 5)), None), (np.ones((2, 5)), np.ones((1, 2)))]
    first = find_source(arrays, ["a", "b"], None).fingerprint()
    assert find_source(arrays, ["a", "b"], None).fingerprint() == first
    assert find_source(arrays, ["b", "a"], None).fingerprint() != first
    arrays[0][0][1, 1] = 2
    assert find_source(arrays, ["a", "b"], None).fingerprint() != first


@pytest.mark.parametrize("clips, classes, groups, complaint", [
    ([(None, np.ones(2))] * 2, None, None, "2 clips have 0 classes: give one of each"),
    ([(None, np.ones(2))] * 2, ["a"], None, "2 clips have 1 classes"),
    ([(None, np.ones(2))] * 2, ["a", "b"], ["g"], "2 clips have 2 classes and 1 groups"),
])
def test_lists_that_do_not_fit(clips, classes, groups, complaint):
    with pytest.raises(UserError, match=complaint):
        find_source(clips, classes, groups)


def test_what_is_wrong_with_files(features, tmp_path):
    with pytest.raises(UserError, match=r"classes and groups come from .*pets: leave them out"):
        find_source(features, ["a"], None)
    with pytest.raises(UserError, match=(
            r"seconds a token lasts: add --audio-seconds S and --video-seconds S, in Python "
            r"avdiff_jax\.fit\(\.\.\., audio_seconds=S, video_seconds=S\)$")):
        find_source(features, None, None).write(tmp_path / "x.h5", Settings())
    os.rename(features / "cat" / "a.video.npy", features / "cat" / "a.npy")
    with pytest.raises(UserError, match=r"a.npy does not say whether it is audio or video: name"):
        find_source(features, None, None).write(tmp_path / "x.h5", RATES)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.mp4").write_text("x")
    with pytest.raises(UserError, match=r"clips of .*loose have no classes: lay them as loose/"):
        find_source(tmp_path / "loose", None, None)
    assert not (tmp_path / "x.h5").exists()
