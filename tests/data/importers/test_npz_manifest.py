"""Flat arrays and manifests to clips."""

import io
import os
import zipfile

import numpy as np
import pytest

from avdiff_jax.data.clips import pool_tokens
from avdiff_jax.data.importers.npz_manifest import read_manifest, read_npz
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.errors import UserError
from avdiff_jax.io import npy_npz as array_files
from avdiff_jax.io import text_files
from tests.data.samples import Calls, arrays, text_file

KEYS = {"audio_key": "m1", "video_key": "m2", "label_key": "label", "class_key": "class_names",
        "id_key": "sample_id", "group_key": "who"}


def read_arrays(folder, made, save=np.savez_compressed, **changes):
    save(folder / "f.npz", **made)
    clips, source = read_npz(
        [folder / "f.npz"], **(KEYS | {"text": text_file(folder, ".npz")} | changes))
    return list(clips), source


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_clips(tmp_path, save):
    made = arrays()
    clips, source = read_arrays(tmp_path, made, save)
    assert source.total == 5 and source.class_names == ["dog", "cat"]
    np.testing.assert_array_equal(source.text.vectors, [[1, 2], [3, 4]])
    assert [clip.clip_id for clip in clips] == made["sample_id"]
    assert [clip.class_name for clip in clips] == ["dog", "cat", "dog", "cat", "dog"]
    assert [clip.group for clip in clips] == ["0", "0", "1", "1", "2"]
    for key, modality in (("m1", "audio"), ("m2", "video")):
        for i, clip in enumerate(clips):
            start, stop = made[f"{key}_offsets"][i:i + 2]
            np.testing.assert_array_equal(getattr(clip, modality), made[f"{key}_flat"][start:stop])


def test_npz_by_its_usual_names(tmp_path):
    """No key is given, and all arrays are found; with a key for one modality, that one alone."""
    made, text = arrays(), text_file(tmp_path, ".npz")
    usual = {"m1_flat": "audio_flat", "m1_offsets": "audio_offsets", "m2_flat": "video_flat",
             "m2_offsets": "video_offsets", "sample_id": "clip_ids", "who": "groups",
             "class_names": "classes"}
    np.savez(tmp_path / "f.npz", **{usual.get(key, key): values for key, values in made.items()})
    (tmp_path / "other").mkdir()
    wanted, _ = read_arrays(tmp_path / "other", made)
    found, source = read_npz([tmp_path / "f.npz"], text=text)
    for a, b in zip(found, wanted, strict=True):
        assert a[:3] == b[:3]
        np.testing.assert_array_equal(a.audio, b.audio)
        np.testing.assert_array_equal(a.video, b.video)
    assert source.class_names == ["dog", "cat"]
    clips, _ = read_npz([tmp_path / "f.npz"], video_key="video", text=text)
    assert all(clip.audio is None for clip in clips)
    np.savez(tmp_path / "g.npz", **{f"audio_{part}": made[f"m1_{part}"]
                                    for part in ("flat", "offsets")})
    with pytest.raises(UserError, match=r"g\.npz has no array 'label' that says of which class"):
        read_npz([tmp_path / "g.npz"], text=text)


def test_names_saved_as_python_objects(tmp_path):
    made = arrays() | {"class_names": np.array(["dog", "cat"], object),
                       "sample_id": np.array([f"s{i}" for i in range(5)], object)}
    clips, source = read_arrays(tmp_path, made)
    assert source.class_names == ["dog", "cat"] and clips[3].clip_id == "s3"
    made["class_names"] = np.array(["dog", None], object)
    with pytest.raises(UserError, match=r"\[class_names\] holds Python objects that are no names:"):
        read_arrays(tmp_path, made)


def test_npz_other_ways_to_say_it(tmp_path):
    made = arrays()
    plain, _ = read_arrays(tmp_path, made)
    renamed = {**made, "x": np.asfortranarray(made["m1_flat"]), "x_at": made["m1_offsets"],
               "label": np.array(["dog", "cat"])[made["label"]]}
    clips, source = read_arrays(tmp_path, renamed, audio_key="x,x_at", id_key=None, class_key=None,
                                group_key=None)
    assert [clip.clip_id for clip in clips] == [f"clip{i}" for i in range(5)]
    assert source.class_names == ["cat", "dog"] and clips[0].group is None
    np.testing.assert_array_equal(source.text.vectors, [[3, 4], [1, 2]])
    assert [clip.class_name for clip in clips] == [clip.class_name for clip in plain]
    for clip, other in zip(clips, plain, strict=True):
        np.testing.assert_array_equal(clip.audio, other.audio)


def test_npz_one_modality(tmp_path):
    clips, _ = read_arrays(tmp_path, arrays(), audio_key=None)
    assert all(clip.audio is None and clip.video is not None for clip in clips)
    with pytest.raises(UserError, match="--audio-key or --video-key"):
        read_arrays(tmp_path, arrays(), audio_key=None, video_key=None)


def test_npz_in_two_files(tmp_path):
    made = arrays()
    np.savez(tmp_path / "v.npz", **{k: v for k, v in made.items() if not k.startswith("m1")})
    np.savez(tmp_path / "a.npz", **{k: v for k, v in made.items() if not k.startswith("m2")})
    options = KEYS | {"text": text_file(tmp_path, ".npy")}
    files = [tmp_path / "a.npz", tmp_path / "v.npz"]
    clips = list(read_npz(files, **options)[0])
    assert clips[4].audio.shape[1] == 3 and clips[4].video.shape[1] == 4
    # the two lists of clips disagree
    made["sample_id"] = made["sample_id"][::-1]
    np.savez(files[1], **{k: v for k, v in made.items() if not k.startswith("m1")})
    with pytest.raises(UserError, match=r"a.npz and .*v.npz disagree about 'sample_id'"):
        read_npz(files, **options)
    with pytest.raises(UserError, match="both hold 'm1_flat'"):
        read_npz([files[0], files[0]], **options)


UNFIT = {
    "label": ({"label": np.array([0, 1, 2, 0, 1])}, {},
              "clip 's2' the label 2 but \\[class_names\\] has 2 classes"),
    "negative label": ({"label": np.array([0, 1, -1, 0, 1])}, {}, "'s2' the label -1"),
    "label name": ({"label": np.array(["dog", "cow", "cat", "cat", "cat"])}, {},
                   "'s1' the label 'cow'"),
    "label type": ({"label": np.ones(5)}, {}, "float64 where class numbers"),
    "no names": ({}, {"class_key": None}, "--class-key"),
    "ids": ({"sample_id": ["a", "b"]}, {}, "shape \\(2,\\) for 5 clips: change --id-key"),
    "key": ({}, {"audio_key": "m3"}, "no array 'm3_flat' .*'m1_flat'.* change --audio-key"),
    "group key": ({}, {"group_key": "speaker"}, "'speaker'.*--group-key"),
    "few offsets": ({"m1_offsets": np.array([0, 2])}, {}, "shape \\(2,\\).* where 6 integers"),
    "falling": ({"m2_offsets": np.array([0, 5, 1, 2, 3, 9])}, {}, "must rise"),
    "too few rows": ({"m1_flat": np.ones((2, 3))}, {}, "rise from 0 to the 2 rows"),
    "flat": ({"m1_flat": np.ones(9)}, {}, "shape \\(9,\\) where \\(tokens, dimensions\\)"),
    "objects": ({"m1_flat": np.array([[None]], object)}, {}, "Python objects"),
    "pickle": ({"label": np.array([Calls(os.system, "exit 1")], object)}, {}, "Python objects"),
}


@pytest.mark.parametrize("changed, flags, sentence", UNFIT.values(), ids=UNFIT)
def test_unfit_arrays(tmp_path, changed, flags, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        read_arrays(tmp_path, arrays() | changed, **flags)
    assert "f.npz" in str(error.value) and "\n" not in str(error.value)


def test_damaged_npz(tmp_path):
    read_arrays(tmp_path, arrays())
    path = tmp_path / "f.npz"
    whole = path.read_bytes()
    text = text_file(tmp_path, ".npy")
    for hurt in (whole[:-20], whole[: len(whole) // 2], b""):
        path.write_bytes(hurt)
        with pytest.raises(UserError, match=r"no .npz file or is truncated"):
            read_npz([path], **KEYS, text=text)
    with pytest.raises(UserError, match="cannot be read"):
        read_npz([tmp_path / "none.npz"], **KEYS, text=text)
    at = whole.index(b"m1_flat.npy") + 200
    path.write_bytes(whole[:at] + bytes(50) + whole[at + 50:])
    with pytest.raises(UserError, match=r"f.npz"):
        list(read_npz([path], **KEYS, text=text)[0])


def test_an_array_that_declares_more_than_it_has(tmp_path):
    """Refused by what the archive says, before anything is allocated."""
    read_arrays(tmp_path, arrays())
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (1 << 45,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("label.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(UserError, match="declares 281474976710656 bytes of values and has 64"):
        read_npz([path], **KEYS, text=tmp_path / "text.npz")


def test_a_table_larger_than_sense(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_TABLE_BYTES", 16)
    with pytest.raises(UserError, match="declares 40 bytes where at most 16 make sense"):
        read_arrays(tmp_path, arrays())
    monkeypatch.undo()
    monkeypatch.setattr(array_files, "MAX_CLIP_BYTES", 16)
    with pytest.raises(UserError, match=r"a clip of .* where at most 16 make sense"):
        read_arrays(tmp_path, arrays())


@pytest.mark.parametrize("name, groups, classes, n", [
    ("utd_mhad", "subject", 27, 861), ("auslan", "session", 95, 6635)])
def test_real_sets(shared, tmp_path, name, groups, classes, n):
    folder = shared / "real" / name
    keys = KEYS | {"group_key": groups}
    clips, source = read_npz([folder / f"{name}.npz"], **keys, text=folder / "class_minilm384.npz")
    report = write_store(
        tmp_path / "s.h5", name=name, clips=pool_tokens(clips, audio=6, video=4),
        class_names=source.class_names, class_text=source.text.vectors, audio_seconds=0.12,
        video_seconds=0.16, provenance={})
    assert report.clips == n and len(report.clips_per_class) == classes
    assert report.audio["max"] <= 60 and report.video["max"] <= 60
    data = dict(np.load(folder / f"{name}.npz"))
    store = open_store(tmp_path / "s.h5")
    assert store.groups.tolist() == [str(group) for group in data[groups]]
    np.testing.assert_array_equal(store.labels, data["label"])
    for i in (0, 1, n // 2, n - 1):
        raw = data["m2_flat"][data["m2_offsets"][i]:data["m2_offsets"][i + 1]]
        got = store.video.values[store.video.offsets[i]:store.video.offsets[i + 1]]
        expected = [raw[t:t + 4].astype(np.float64).mean(0) for t in range(0, len(raw), 4)]
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


# --- manifest


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "a.npy", np.ones((2, 3)))
    np.save(tmp_path / "v.npy", np.ones((4, 5), np.float32))
    path = tmp_path / "list.csv"
    path.write_text("clip_id,class,group,audio,video\n"
                    "x,dog,g1,sub/a.npy,v.npy\ny,cat,,sub/a.npy,\n\n")
    text_file(tmp_path, ".csv")
    return path


def manifest_clips(path):
    clips, source = read_manifest(path, text=path.parent / "text.csv")
    return list(clips), source


def test_manifest(manifest):
    clips, source = manifest_clips(manifest)
    assert source.class_names == ["cat", "dog"] and source.total == 2
    np.testing.assert_array_equal(source.text.vectors, [[3, 4], [1, 2]])
    assert clips[0][:3] == ("x", "dog", "g1") and clips[1][:3] == ("y", "cat", None)
    assert clips[0].audio.shape == (2, 3) and clips[0].video.dtype == np.float32
    assert clips[1].video is None


def test_manifest_without_groups_in_another_order(manifest):
    manifest.write_text("video,audio,class,clip_id\nv.npy,sub/a.npy,dog,x\n")
    clips, _ = manifest_clips(manifest)
    assert clips[0].clip_id == "x" and clips[0].group is None and clips[0].video.shape == (4, 5)


@pytest.mark.parametrize("content, sentence", [
    ("", "the header '' where clip_id,class"),
    ("clip_id,class,audio\n", "header 'clip_id,class,audio' where"),
    ("clip_id,class,audio,video,extra\n", "where clip_id,class"),
    ("clip_id,class,audio,video\n", "lists 0 clips"),
    ("clip_id,class,audio,video\nx,dog,a\n", "line 2, has 3 cells where the header has 4"),
    ("clip_id,class,audio,video\nx,dog,none.npy,v.npy\n", "none.npy cannot be read"),
    ("clip_id,class,audio,video\nx,cow,sub/a.npy,v.npy\n", "no text vector for 1 of 1 classes"),
    ("clip_id,class,audio,video\nx,dog,list.csv,v.npy\n", "list.csv is no .npy array"),
])
def test_unfit_manifests(manifest, content, sentence):
    manifest.write_text(content)
    with pytest.raises(UserError, match=sentence):
        manifest_clips(manifest)


def test_manifest_of_pickles(manifest, tmp_path):
    sentinel = tmp_path / "sentinel"
    np.save(tmp_path / "v.npy", np.array([Calls(os.system, f"touch {sentinel}")], object))
    with pytest.raises(UserError, match=r"v.npy holds Python objects"):
        manifest_clips(manifest)
    np.save(tmp_path / "v.npy", np.ones((90, 5)))
    whole = (tmp_path / "v.npy").read_bytes()
    (tmp_path / "v.npy").write_bytes(whole[:-8])
    with pytest.raises(UserError, match="declares 3600 bytes of values and has 3592"):
        manifest_clips(manifest)
    assert not sentinel.exists()


def test_blank_lines_and_empty_rows_of_a_manifest(manifest):
    """As a spreadsheet leaves them; the line that is named is that of the file."""
    manifest.write_text("clip_id,class,audio,video\n\n,,,\nx,dog,a\n,,,\n")
    with pytest.raises(UserError, match="line 4, has 3 cells where the header has 4"):
        read_manifest(manifest)
    manifest.write_text("clip_id,class,audio,video\n\nx,dog,sub/a.npy,v.npy\n,,,\n , ,,\n")
    clips, source = read_manifest(manifest)
    assert source.total == 1 and [clip.clip_id for clip in clips] == ["x"]


def test_a_class_in_two_spellings_of_its_accent_is_one(manifest):
    """Composed and decomposed signs look the same."""
    manifest.write_text("clip_id,class,audio,video\nx,caf\u00e9,sub/a.npy,v.npy\n"
                        "y,cafe\u0301,sub/a.npy,v.npy\n", encoding="utf-8")
    np.savez(manifest.parent / "t.npz", names=["cafe\u0301"], emb=np.ones((1, 2)))
    _, source = read_manifest(manifest, text=manifest.parent / "t.npz")
    assert source.class_names == ["caf\u00e9"] and source.text.vectors.tolist() == [[1, 1]]
