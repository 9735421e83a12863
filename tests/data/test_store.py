import json
import os

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avdiff_jax.data import store as stores
from avdiff_jax.data import store_writer
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.errors import UserError
from avdiff_jax.io import subprocess_probe


@pytest.fixture(autouse=True)
def no_child(monkeypatch):
    """Hundreds of files are opened here: none in a child process first, as test_probe.py does."""
    monkeypatch.setattr(subprocess_probe, "try_apart", lambda *_: None)


def clip(number, *, audio=None, video=None, class_name="dog", group=None):
    rng = np.random.default_rng(number)
    return Clip(
        f"clip{number}", class_name, group,
        rng.integers(0, 256, (2 + number, 3)).astype(np.float64) if audio is None else audio,
        rng.standard_normal((1 + number, 5)) if video is None else video,
    )


def save(path, clips, **changes):
    arguments = {
        "name": "pets", "clips": iter(clips), "class_names": ["dog", "cat"],
        "class_text": np.eye(2, 4), "audio_seconds": 0.96, "video_seconds": 0.64,
        "provenance": {"command": "test"},
    }
    return write_store(path, **(arguments | changes))


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.h5"
    save(path, [clip(0, group="a"), clip(1, class_name="cat", group="b"), clip(2, group="a")])
    return path


def test_round_trip(good):
    store = open_store(good)
    assert store.name == "pets" and len(store) == 3
    assert store.clip_ids.tolist() == ["clip0", "clip1", "clip2"]
    assert store.labels.dtype == np.int32 and store.labels.tolist() == [0, 1, 0]
    assert store.groups.tolist() == ["a", "b", "a"]
    assert store.class_names == ("dog", "cat")
    np.testing.assert_array_equal(store.class_text, np.eye(2, 4))
    assert store.class_text.dtype == np.float32
    assert (store.audio.seconds, store.video.seconds) == (0.96, 0.64)
    assert store.provenance == {"command": "test"} and store.may_lack_modality is False
    for number in range(3):
        for modality in ("audio", "video"):
            part = getattr(store, modality)
            rows = part.values[part.offsets[number]:part.offsets[number + 1]]
            expected = getattr(clip(number), modality)
            np.testing.assert_array_equal(rows, expected.astype(part.values.dtype))
    assert store.audio.values.dtype == np.uint8 and store.audio.dim == 3
    assert store.video.values.dtype == np.float32 and store.video.dim == 5
    assert store.video.lengths.tolist() == [1, 2, 3]


def test_values_are_mapped_not_loaded(good):
    part = open_store(good).video
    assert isinstance(part.values, np.memmap) and part.values.offset % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        part.values[0, 0] = 1


@pytest.mark.parametrize("odd", [0.5, -1.0, 256.0])
def test_audio_turns_to_float_when_one_value_is_no_byte(tmp_path, odd):
    """The odd value comes last, after others were written as bytes."""
    late = np.full((1, 3), odd)
    save(tmp_path / "s.h5", [clip(0), clip(1), clip(2, audio=late)])
    values = open_store(tmp_path / "s.h5").audio.values
    assert values.dtype == np.float32
    np.testing.assert_array_equal(
        values, np.concatenate([clip(0).audio, clip(1).audio, late]).astype(np.float32))


def test_bytes_survive_at_their_ends(tmp_path):
    ends = np.array([[0, 255, 128]])
    save(tmp_path / "s.h5", [clip(0, audio=ends)])
    values = open_store(tmp_path / "s.h5").audio.values
    assert values.dtype == np.uint8 and values.tolist() == ends.tolist()


def test_copies_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "COPY_BYTES", 32)  # smaller than the values of one clip
    given = [clip(0), clip(9), clip(2, audio=np.full((2, 3), 0.25))]
    save(tmp_path / "s.h5", given)
    store = open_store(tmp_path / "s.h5")
    for modality in ("audio", "video"):
        np.testing.assert_array_equal(
            getattr(store, modality).values,
            np.concatenate([getattr(c, modality) for c in given]).astype(np.float32))


def test_half_precision_video(tmp_path):
    save(tmp_path / "s.h5", [clip(0)], video_dtype="float16")
    assert open_store(tmp_path / "s.h5").video.values.dtype == np.float16
    with pytest.raises(UserError, match=r"clip 'clip0'.*7e\+04.*float16"):
        save(tmp_path / "t.h5", [clip(0, video=np.full((1, 5), 7e4))], video_dtype="float16")


def test_a_clip_may_lack_a_modality_only_where_the_file_says_so(tmp_path):
    clips = [clip(0), clip(1, audio=np.zeros((0, 3)))]
    with pytest.raises(UserError, match="clip 'clip1' has an empty audio sequence"):
        save(tmp_path / "s.h5", clips)
    report = save(tmp_path / "s.h5", clips, may_lack_modality=True)
    assert report.audio["missing"] == 1 and report.video["missing"] == 0
    store = open_store(tmp_path / "s.h5")
    assert store.may_lack_modality and store.audio.lengths.tolist() == [2, 0]
    nothing = clip(1, audio=np.zeros((0, 3)), video=np.zeros((0, 5)))
    with pytest.raises(UserError, match="neither audio nor video"):
        save(tmp_path / "t.h5", [clip(0), nothing], may_lack_modality=True)


def test_a_store_of_one_modality(tmp_path):
    save(tmp_path / "s.h5", [clip(0)._replace(audio=None)], may_lack_modality=True)
    audio = open_store(tmp_path / "s.h5").audio
    assert audio.values.shape == (0, 1) and audio.offsets.tolist() == [0, 0]


def test_groups_are_kept_only_where_they_say_something(tmp_path):
    save(tmp_path / "s.h5", [clip(0, group="clip0"), clip(1)])
    assert open_store(tmp_path / "s.h5").groups is None
    report = save(tmp_path / "s.h5", [clip(0, group="a"), clip(1), clip(2, group="a"), clip(3)])
    assert open_store(tmp_path / "s.h5").groups.tolist() == ["a", "", "a", ""]
    assert report.groups == 3  # a, and two clips by themselves


def test_report(tmp_path):
    report = save(tmp_path / "s.h5", [clip(0), clip(1), clip(5)], notes=["a remark"],
                  class_text=np.ones((2, 4)))
    assert report.clips == 3 and report.clips_per_class == {"dog": 3, "cat": 0}
    assert (report.audio["min"], report.audio["median"], report.audio["max"]) == (2, 3, 7)
    assert report.file_bytes == os.path.getsize(tmp_path / "s.h5")
    text = str(report)
    assert "a remark" in text and "3 features a token (uint8)" in text
    assert "1 classes have no clip, the first is 'cat'" in text
    assert "'dog' and 'cat' have the same text vector" in text


BAD = {
    "NaN": ([clip(0), clip(1, video=np.array([[0, 0, np.nan, 0, 0]]))], {},
            "clip 'clip1' has NaN or infinite video features"),
    "infinite": ([clip(0, audio=np.array([[1, 2, 3], [1, np.inf, 3]]))], {},
                 "clip 'clip0' has NaN or infinite audio features \\(token 1\\)"),
    "beyond float32": ([clip(0, video=np.full((1, 5), 1e39))], {}, "1e\\+39.*float32"),
    "dimension": ([clip(0), clip(1, audio=np.ones((2, 4)))], {},
                  "'clip1' has audio features of dimension 4 but the others have 3"),
    "declared dimension": ([clip(0)], {"video_dim": 7}, "dimension 5 but the others have 7"),
    "flat": ([clip(0, video=np.ones(5))], {}, "shape \\(5,\\)"),
    "text for numbers": ([clip(0, audio=np.array([["a", "b", "c"]]))], {}, "type <U1"),
    "objects": ([clip(0, audio=np.array([[1, None]], object))], {}, "type object"),
    "empty": ([clip(0, video=np.zeros((0, 5)))], {}, "'clip0' has an empty video sequence"),
    "twice": ([clip(0), clip(1), clip(0, class_name="cat")], {},
              "clip id 'clip0' occurs twice \\(classes 'dog' and 'cat'\\)"),
    "class": ([clip(0, class_name="cow")], {}, "of class 'cow', which is none of the 2"),
    "no clips": ([], {}, "0 clips"),
    "no classes": ([clip(0)], {"class_names": [], "class_text": np.ones((0, 4))}, "no classes"),
    "class twice": ([clip(0)], {"class_names": ["dog", "dog"]}, "'dog' is named twice"),
    "text rows": ([clip(0)], {"class_text": np.ones((1, 4))}, "1 text vectors for 2 classes"),
    "text zero": ([clip(0)], {"class_text": np.array([[1.0, 0], [0, 0]])},
                  "no usable text vector .* for 1 of 2 classes: 'cat'"),
    "text NaN": ([clip(0)], {"class_text": np.array([[np.nan, 0], [0, 1]])}, "classes: 'dog'"),
    "rate": ([clip(0)], {"audio_seconds": 0.0}, "audio seconds per token is 0.0"),
    "rate NaN": ([clip(0)], {"video_seconds": float("nan")}, "video seconds per token is nan"),
    "type": ([clip(0)], {"video_dtype": "float64"}, "'float64'"),
    "id": ([clip(0)._replace(clip_id="a\nb")], {}, "printable"),
    "no id": ([clip(0)._replace(clip_id=" ")], {}, "printable"),
    "long id": ([clip(0)._replace(clip_id="x" * 2000)], {}, "1024"),
}


@pytest.mark.parametrize("clips, changes, sentence", BAD.values(), ids=BAD)
def test_bad_clips_leave_nothing_behind(tmp_path, clips, changes, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        save(tmp_path / "deep" / "er" / "s.h5", clips, **changes)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_store_alone(good):
    before = good.read_bytes()

    def interrupted():
        yield clip(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(good, interrupted())
    assert good.read_bytes() == before and os.listdir(good.parent) == [good.name]


def test_an_open_store_outlives_its_replacement(good):
    old = open_store(good)
    before = np.array(old.video.values)
    save(good, [clip(7)])
    np.testing.assert_array_equal(old.video.values, before)
    assert len(open_store(good)) == 1


def test_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_writer.Ragged, "copy_to", full)
    with pytest.raises(UserError, match=r"cannot write .*s\.h5: No space left"):
        save(tmp_path / "s.h5", [clip(0)])
    assert list(tmp_path.iterdir()) == []


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory|cannot write .*exists"):
        save(tmp_path / "file" / "s.h5", [clip(0)])
    with pytest.raises(UserError, match="is a folder"):
        save(tmp_path, [clip(0)])


def test_writing_streams(tmp_path):
    """Only one clip is alive at a time."""
    alive = []

    def source():
        import weakref
        for number in range(20):
            made = np.ones((4, 3))
            alive.append(weakref.ref(made))
            yield clip(number, audio=made)
            del made
            assert sum(reference() is not None for reference in alive) <= 2

    save(tmp_path / "s.h5", source())
    assert len(alive) == 20


def test_missing_store_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"data\.py import.*data\.py synthesize"):
        open_store(tmp_path / "none.h5")
    with pytest.raises(UserError, match="is a folder"):
        open_store(tmp_path)


def test_truncated_and_foreign_files(good, tmp_path):
    whole = good.read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=f"truncated.*{len(whole) - 100} bytes.*{len(whole)}"):
        open_store(cut)
    for content in (b"", b"not HDF5 at all", whole[:7], b"\0" * 4096):
        cut.write_bytes(content)
        with pytest.raises(UserError, match="not HDF5"):
            open_store(cut)


def replaced(key, value):
    def change(file):
        del file[key]
        if value is not None:
            file[key] = value
    return change


def resized(file):
    del file["video/values"]
    file["video/values"] = np.ones((6, 5), np.float32)[:4]


def chunked(file):
    del file["video/values"]
    file.create_dataset("video/values", data=np.ones((6, 5), np.float32), compression="gzip")


def external(file):
    del file["video/values"]
    file.create_dataset("video/values", (6, 5), np.float32,
                        external=[("elsewhere.bin", 0, h5py.h5f.UNLIMITED)])


def linked(file):
    del file["labels"]
    file["labels"] = h5py.ExternalLink("other.h5", "labels")


def attribute(key, value, node="/"):
    def change(file):
        file[node].attrs[key] = value
    return change


BROKEN = {
    "version": (attribute("version", 2), "schema version 2 but this code reads version 1"),
    "schema": (attribute("schema", "other"), "'other' instead of 'avdiff_jax.store'"),
    "no schema": (lambda file: file.attrs.pop("schema"), "None instead of"),
    "label above": (replaced("labels", np.array([0, 2, 1], np.int32)),
                    "label 2 for clip 'clip1' but only 2 classes"),
    "label below": (replaced("labels", np.array([0, 0, -1], np.int32)), "label -1 .*'clip2'"),
    "label type": (replaced("labels", np.array([0.0, 1, 1])), "'labels' as 1-d float64"),
    "label count": (replaced("labels", np.array([0, 1], np.int32)), "2 labels for 3 clips"),
    "duplicate": (replaced("clip_ids", np.array([b"a", b"b", b"a"])), "clip id 'a' twice"),
    "not UTF-8": (replaced("clip_ids", np.array([b"a", b"\xff", b"c"])), "not UTF-8"),
    "classes": (replaced("class_names", np.array([b"dog", b"dog"])), "class 'dog' twice"),
    "no classes": (replaced("class_names", None), "no data set 'class_names'"),
    "text": (replaced("class_text", np.ones((3, 4), np.float32)), "3 text vectors for 2 classes"),
    "groups": (replaced("groups", np.array([b"a"])), "1 groups for 3 clips"),
    "offsets fall": (replaced("video/offsets", np.array([0, 4, 3, 6])), "do not rise"),
    "offsets start": (replaced("video/offsets", np.array([1, 2, 3, 6])), "from 1 to 6"),
    "offsets end": (replaced("video/offsets", np.array([0, 1, 3, 5])), "0 to 5 .* 6 tokens"),
    "offsets count": (replaced("video/offsets", np.array([0, 6])), "2 video offsets for 3 clips"),
    "empty": (replaced("audio/offsets", np.array([0, 2, 2, 9])), "no audio for clip 'clip1'"),
    "resized": (resized, "0 to 6 .* 4 tokens"),
    "chunked": (chunked, "chunked or compressed 'video/values'"),
    "external": (external, "outside the file"),
    "linked": (linked, "no data set 'labels'"),
    "seconds": (attribute("seconds", -1.0, "audio"), "seconds per token -1.0 for audio"),
    "no audio": (lambda file: file.pop("audio"), "no data set 'audio/values'"),
    "provenance": (replaced("provenance", np.frombuffer(b"{", np.uint8)), "not JSON"),
    "big": (replaced("audio/values", np.ones((9, 3))), "'audio/values' as 2-d float64"),
}


@pytest.mark.parametrize("change, sentence", BROKEN.values(), ids=BROKEN)
def test_a_store_that_contradicts_itself_is_refused(good, change, sentence):
    with h5py.File(good, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=sentence) as error:
        open_store(good)
    assert str(good) in str(error.value) and "\n" not in str(error.value)


def test_check_values_names_the_clip(good):
    store = open_store(good)
    stores.check_values(store)
    with h5py.File(good, "r+") as file:
        file["video/values"][2, 1] = np.inf  # clip1 holds rows 1 and 2
    with pytest.raises(UserError, match="infinite video features in clip 'clip1', token 1"):
        stores.check_values(open_store(good))


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_sentence_or_harmless(good, data):
    """Flipped bytes: the store opens or is refused; nothing else is ever raised."""
    whole = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    hurt = good.with_name("hurt.h5")
    hurt.write_bytes(whole)
    try:
        open_store(hurt)
    except UserError as error:
        assert str(hurt) in str(error)


def test_any_length_dimension_and_rate(tmp_path):
    lengths = [1, 1, 7]
    clips = [clip(i, audio=np.full((n, 1), i), video=np.full((n, 9), 0.5))
             for i, n in enumerate(lengths)]
    save(tmp_path / "s.h5", clips, audio_seconds=1e-4, video_seconds=60, class_text=np.eye(2, 700))
    store = open_store(tmp_path / "s.h5")
    assert store.audio.lengths.tolist() == store.video.lengths.tolist() == lengths
    assert (store.audio.dim, store.video.dim, store.class_text.shape[1]) == (1, 9, 700)


def test_provenance_is_json_in_the_file(good):
    with h5py.File(good) as file:
        assert json.loads(file["provenance"][...].tobytes()) == {"command": "test"}
