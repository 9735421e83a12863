import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from avdiff_jax.data import importers, splits
from avdiff_jax.data.importers import (
    pooled,
    read_manifest,
    read_npz,
    read_official,
    read_pickle,
    read_text,
)
from avdiff_jax.data.store import Clip, open_store, write_store
from avdiff_jax.errors import UserError

# --------------------------------------------------------------------- pickles, without trust


class Calls:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def load(data):
    return read_pickle(io.BytesIO(data), "some.pkl")


def text_op(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def hostile(sentinel):
    """Pickles that would create `sentinel`, or open the way to it, and the name they are
    refused by."""
    command = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w').close()"
    touch = text_op(str(sentinel))
    array_global = b"cnumpy.core.multiarray\n_reconstruct\n"
    yield "os.system", pickle.dumps(Calls(os.system, command)), "posix.system"
    yield "eval", pickle.dumps(Calls(eval, code)), "builtins.eval"
    yield "exec", pickle.dumps(Calls(exec, code), protocol=0), "__builtin__.exec"
    yield "getattr", pickle.dumps(Calls(getattr, str, "join")), "builtins.getattr"
    yield "open", b"cbuiltins\nopen\n(" + touch + text_op("w") + b"tR.", "builtins.open"
    yield "io.open", b"cio\nopen\n(" + touch + text_op("w") + b"tR.", "io.open"
    yield "in an array", pickle.dumps(
        {"features": np.array([Calls(os.system, command)], dtype=object)}), "posix.system"
    yield "in a key", pickle.dumps((1, [{"a": Calls(os.system, command)}])), "posix.system"
    yield "instance", b"(S'" + command.encode() + b"'\nios\nsystem\n.", "os.system"
    yield "object", b"(cos\nsystem\nS'" + command.encode() + b"'\no.", "os.system"
    yield "runstring", b"cnumpy.testing._private.utils\nrunstring\n(" + text_op(code) + b"}tR.", (
        "numpy.testing._private.utils.runstring")
    yield "np.save", b"cnumpy\nsave\n(" + touch + b"K\x01tR.", "numpy.save"
    new_map = touch + text_op("u1") + text_op("w+") + b"K\x00K\x04"
    yield "np.memmap", b"cnumpy\nmemmap\n(" + new_map + b"tR.", "numpy.memmap"
    yield "np.load", b"cnumpy\nload\n(" + touch + b"tR.", "numpy.load"
    yield "tofile", b"cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"
    yield "dotted", b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "numpy.dtype.__init__"
    yield "copyreg", b"ccopyreg\n_reconstructor\n(tR.", "copyreg._reconstructor"
    yield "persistent", b"Pname\n.", "persistent id"
    yield "codec", b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "rot13"
    # Changing what is allowed: attributes of our own stand-ins.
    yield "global state", array_global + b"}" + text_op("make") + b"K\x01sb.", (
        "setting the state of a global")
    yield "global slots", array_global + b"N}" + text_op("make") + b"K\x01s\x86b.", "global"
    # Memory tricks: types whose fields NumPy would believe.
    yield "structured", pickle.dumps(np.zeros(2, [("a", "O"), ("b", "i8")])), "the NumPy type 'V16'"
    yield "fields", (b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8\x89\x88tR(K\x03X\x01\x00\x00\x00|N"
                     b"X\x01\x00\x00\x00a\x85}K\x08K\x01K\x3ftb."), "a structured NumPy type"
    yield "bytes of a size", b"cbuiltins\nbytearray\n(I99\ntR.", "bytes()"
    yield "set", pickle.dumps({1, 2}), "a set"
    yield "function", b"cnumpy\ndtype\n.", "a Global"
    yield "complex", pickle.dumps(1j), "builtins.complex"


@pytest.mark.parametrize("number", range(len(list(hostile("x")))),
                         ids=[name for name, *_ in hostile("x")])
def test_hostile_pickles_run_nothing(tmp_path, number):
    sentinel = tmp_path / "sentinel"
    _, data, name = list(hostile(sentinel))[number]
    with pytest.raises(UserError) as error:
        load(data)
    assert name in str(error.value) and "some.pkl is refused" in str(error.value)
    assert "\n" not in str(error.value)
    assert not sentinel.exists()


def test_the_hostile_pickles_are_real(tmp_path):
    """Otherwise the test above would prove nothing."""
    for name, data, _ in hostile(tmp_path / "sentinel"):
        if name in ("os.system", "eval", "exec", "open", "in an array", "instance",
                    "np.memmap"):
            (tmp_path / "sentinel").unlink(missing_ok=True)
            made = pickle.loads(data)  # the sentinel is all that it touches
            getattr(made, "close", int)()
            assert (tmp_path / "sentinel").exists(), name


def test_one_pickle_cannot_spoil_the_next():
    with pytest.raises(UserError):
        load(b"cnumpy\nndarray\nN}" + text_op("__setstate__") + b"K\x01s\x86b.")
    np.testing.assert_array_equal(load(pickle.dumps(np.arange(3))), np.arange(3))


@pytest.mark.parametrize("data", [
    b"", b"\x80", b"garbage", pickle.dumps(np.arange(99))[:-30], b"N", b"cnumpy\n",
    pickle.dumps([1])[:-1] + b"e.",
    b"]q\x00h\x00a.",  # a list that holds itself
    b"]" * 50 + b"a" * 49 + b".",  # nested
    b"cnumpy.core.multiarray\n_reconstruct\n(tR.",  # an array without contents
    # an array that claims far more than its bytes
    pickle.dumps(np.zeros(3, np.uint8), protocol=2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
])
def test_broken_pickles_are_one_sentence(data):
    with pytest.raises(UserError, match="not a readable pickle") as error:
        load(data)
    assert "\n" not in str(error.value)


def test_a_pickle_that_unfolds_without_end():
    """Lists of lists, each twice the last: small on disk, small in memory, never unfolded."""
    value = [1]
    for _ in range(15):
        value = [value] * 10
    loaded = load(pickle.dumps(value))
    assert loaded[0][3] is loaded[9][0]


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    np.arange(6, dtype=">i4").reshape(3, 2),
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2],
    np.array([True, False]),
    np.array(["ab", "c"]), np.array([b"ab", b"c"]), np.array(3.5, np.float16),
    np.zeros((0, 4), np.float32), np.zeros((3, 0), np.int64),
]


# The names of NumPy 1 are put in by text replacement; from protocol 4 on their lengths count too.
@pytest.mark.parametrize("protocol, numpy1", [
    *((protocol, False) for protocol in range(6)), *((protocol, True) for protocol in range(4))])
def test_plain_data_comes_through(protocol, numpy1):
    value = {"features": ARRAYS, "t": (1, -2.5, None, True, "ä", b"\xff", 2**70), b"k": [],
             "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("x")],
             "objects": np.array([ARRAYS[0], "s", None], dtype=object)}
    data = pickle.dumps(value, protocol=protocol)
    if numpy1:
        data = data.replace(b"numpy._core", b"numpy.core")
    loaded = load(data)
    for got, wanted in zip(loaded["features"], ARRAYS, strict=True):
        assert got.dtype == wanted.dtype and type(got) is np.ndarray
        np.testing.assert_array_equal(got, wanted)
    assert loaded["t"] == value["t"] and loaded[b"k"] == []
    assert loaded["scalars"] == [1.5, -3, True, "x"]
    assert isinstance(loaded["objects"], list) and loaded["objects"][1:] == ["s", None]
    np.testing.assert_array_equal(loaded["objects"][0], ARRAYS[0])


def test_python_2_pickles():
    """Protocol 2 with 8-bit strings, as Python 2 wrote them."""
    data = (b"\x80\x02}U\x08features]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
            b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
            + np.array([1, 2], "<f4").tobytes() + b"tbas.")
    np.testing.assert_array_equal(load(data)[b"features"][0], [1, 2])


# --------------------------------------------------------------------- class text

VECTORS = {"dog": np.array([1.0, 2.0], np.float32), "Cat": np.array([3.0, 4.0], np.float32)}


def text_file(folder, kind):
    path = folder / f"text{kind}"
    if kind == ".npy":
        np.save(path, VECTORS)
    elif kind == ".npz":
        np.savez(path, names=list(VECTORS), emb=np.stack(list(VECTORS.values())))
    elif kind == ".csv":
        path.write_text("name,a,b\ndog,1,2\nCat,3,4\n")
    return path


@pytest.mark.parametrize("kind", [".npy", ".npz", ".csv"])
def test_text_by_name(tmp_path, kind):
    vectors = read_text(text_file(tmp_path, kind))
    assert list(vectors) == ["dog", "Cat"]
    for name, vector in vectors.items():
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, VECTORS[name])


def test_text_of_other_shapes(tmp_path):
    np.savez(tmp_path / "members.npz", **VECTORS)
    assert set(read_text(tmp_path / "members.npz")) == {"dog", "Cat"}
    np.savez(tmp_path / "keys.npz", w=np.eye(2), n=["x", "y"], emb=np.ones((2, 2)))
    np.testing.assert_array_equal(read_text(tmp_path / "keys.npz", "w", "n")["y"], [0, 1])
    (tmp_path / "bare.csv").write_text("dog,1,2\n\nCat,3,4\n")
    assert len(read_text(tmp_path / "bare.csv")) == 2


def test_text_goes_to_classes_by_name_never_by_position(tmp_path):
    path = text_file(tmp_path, ".npz")
    vectors = read_text(path)
    for order in (["dog", "cat"], ["cat", "dog"]):
        rows = importers.match_text(order, vectors, path)
        np.testing.assert_array_equal(
            rows, [VECTORS["dog" if name == "dog" else "Cat"] for name in order])
    spelled = importers.match_text(["Hound"], vectors, path, {"hound": "dog"})
    np.testing.assert_array_equal(spelled, [[1, 2]])


def test_case_alone_does_not_decide_between_two():
    find = importers.NameMatcher(["a", "A", "b"])
    assert (find("a"), find("A"), find("B"), find("c")) == ("a", "A", "b", None)
    assert importers.NameMatcher(["ab", "AB"])("Ab") is None


@pytest.mark.parametrize("make, sentence", [
    (lambda p: np.save(p / "t.npy", np.eye(3)), "t.npy is an array of shape \\(3, 3\\) without na"),
    (lambda p: np.save(p / "t.npy", np.array([1, "a"], object)), "holds a list"),
    (lambda p: np.save(p / "t.npy", {"a": np.eye(2)}), "shape \\(2, 2\\).*for 'a'"),
    (lambda p: np.save(p / "t.npy", {"a": np.ones(2), "b": np.ones(3)}), "3 dimensions for 'b'"),
    (lambda p: np.save(p / "t.npy", {}), "0 vectors"),
    (lambda p: (p / "t.npy").write_bytes(b"\x93NUMPY"), "no .npy array or is truncated"),
    (lambda p: np.savez(p / "t.npz", emb=np.eye(2), names=["a"]), "of shape \\(1,\\)"),
    (lambda p: np.savez(p / "t.npz", emb=np.eye(2), names=["a", "a"]), "names 'a' twice"),
    (lambda p: (p / "t.npz").write_bytes(b"PK"), "no .npz file"),
    (lambda p: (p / "t.csv").write_text("a,1\nb,x\n"), "line 2, has a cell that is no number"),
    (lambda p: (p / "t.csv").write_text("a,1\nb,2,3\n"), "2 dimensions for 'b' and 1 for 'a'"),
    (lambda p: (p / "t.txt").write_text("a,1\n"), "'.txt' and not in"),
    (lambda p: os.symlink("nowhere", p / "t.npy"), "text file .* cannot be read"),
])
def test_unfit_text_files(tmp_path, make, sentence):
    make(tmp_path)
    path = next(tmp_path.iterdir())
    with pytest.raises(UserError, match=sentence) as error:
        read_text(path)
    assert path.name in str(error.value)


def test_class_without_text_vector(tmp_path):
    with pytest.raises(UserError, match=r"class 'cow' has no text vector in t.npz"):
        importers.match_text(["dog", "cow"], VECTORS, "t.npz")
    with pytest.raises(UserError, match=r"'doge' has no .* closest of 2 names is 'dog'"):
        importers.match_text(["doge"], VECTORS, "t.npz")


def test_hostile_text_file(tmp_path):
    sentinel = tmp_path / "sentinel"
    np.save(tmp_path / "t.npy", {"dog": Calls(os.system, f"touch {sentinel}")})
    with pytest.raises(UserError, match=r"posix.system"):
        read_text(tmp_path / "t.npy")
    assert not sentinel.exists()


def test_published_word_vectors(shared):
    for name, classes in (("UCF/word_embeddings_ucf_normed.npy", 101),
                          ("ActivityNet/word_embeddings_activity_normed.npy", 200)):
        vectors = read_text(shared / "lists" / name)
        assert len(vectors) == classes
        norms = np.linalg.norm(np.stack(list(vectors.values())), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)


# --------------------------------------------------------------------- pooling


def test_pooling_averages_the_rest_too():
    values = np.arange(10).reshape(5, 2)
    clip = Clip("a", "c", None, values, values.astype(np.float64))
    got = next(pooled([clip], audio=2, video=4))
    np.testing.assert_array_equal(got.audio, [[1, 2], [5, 6], [8, 9]])
    np.testing.assert_array_equal(got.video, [[3, 4], [8, 9]])
    assert next(pooled([clip])).audio is values


def test_pooling_does_not_hide_bad_values():
    bad = np.ones((4, 2))
    bad[3, 1] = np.nan
    got = next(pooled([Clip("a", "c", None, bad, None)], audio=3, video=3))
    assert np.isnan(got.audio[1, 1]) and np.isfinite(got.audio[0]).all() and got.video is None


# --------------------------------------------------------------------- flat + offsets


def arrays(n=5, classes=2):
    rng = np.random.default_rng(0)
    made = {"label": np.arange(n) % classes, "sample_id": [f"s{i}" for i in range(n)],
            "who": np.arange(n) // 2, "class_names": ["dog", "cat"]}
    for key, dim in (("m1", 3), ("m2", 4)):
        lengths = rng.integers(1, 6, n)
        made[f"{key}_offsets"] = np.concatenate([[0], np.cumsum(lengths)])
        made[f"{key}_flat"] = rng.standard_normal((lengths.sum(), dim)).astype(np.float32)
    return made


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
    np.testing.assert_array_equal(source.class_text, [[1, 2], [3, 4]])
    assert [clip.clip_id for clip in clips] == made["sample_id"]
    assert [clip.class_name for clip in clips] == ["dog", "cat", "dog", "cat", "dog"]
    assert [clip.group for clip in clips] == ["0", "0", "1", "1", "2"]
    for key, modality in (("m1", "audio"), ("m2", "video")):
        for i, clip in enumerate(clips):
            start, stop = made[f"{key}_offsets"][i:i + 2]
            np.testing.assert_array_equal(getattr(clip, modality), made[f"{key}_flat"][start:stop])


def test_npz_other_ways_to_say_it(tmp_path):
    made = arrays()
    plain, _ = read_arrays(tmp_path, made)
    renamed = {**made, "x": np.asfortranarray(made["m1_flat"]), "x_at": made["m1_offsets"],
               "label": np.array(["dog", "cat"])[made["label"]]}
    clips, source = read_arrays(tmp_path, renamed, audio_key="x,x_at", id_key=None, class_key=None,
                                group_key=None)
    assert [clip.clip_id for clip in clips] == [f"clip{i}" for i in range(5)]
    assert source.class_names == ["cat", "dog"] and clips[0].group is None
    np.testing.assert_array_equal(source.class_text, [[3, 4], [1, 2]])
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
    "ids": ({"sample_id": ["a", "b"]}, {}, "shape \\(2,\\) for 5 labels: change --id-key"),
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
    monkeypatch.setattr(importers, "MAX_TABLE_BYTES", 16)
    monkeypatch.setattr(importers.NpzFiles._whole, "__defaults__", (16,))
    with pytest.raises(UserError, match="declares 40 bytes where at most 16 make sense"):
        read_arrays(tmp_path, arrays())
    monkeypatch.undo()
    monkeypatch.setattr(importers, "MAX_CLIP_BYTES", 16)
    with pytest.raises(UserError, match=r"a clip of .* where at most 16 make sense"):
        read_arrays(tmp_path, arrays())


@pytest.mark.parametrize("name, groups, classes, n", [
    ("utd_mhad", "subject", 27, 861), ("auslan", "session", 95, 6635)])
def test_real_sets(shared, tmp_path, name, groups, classes, n):
    folder = shared / "real" / name
    keys = KEYS | {"group_key": groups}
    clips, source = read_npz([folder / f"{name}.npz"], **keys, text=folder / "class_minilm384.npz")
    report = write_store(
        tmp_path / "s.h5", name=name, clips=pooled(clips, audio=6, video=4),
        class_names=source.class_names, class_text=source.class_text, audio_seconds=0.12,
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


# --------------------------------------------------------------------- manifest


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
    np.testing.assert_array_equal(source.class_text, [[3, 4], [1, 2]])
    assert clips[0][:3] == ("x", "dog", "g1") and clips[1][:3] == ("y", "cat", None)
    assert clips[0].audio.shape == (2, 3) and clips[0].video.dtype == np.float32
    assert clips[1].video is None


def test_manifest_without_groups_in_another_order(manifest):
    manifest.write_text("video,audio,class,clip_id\nv.npy,sub/a.npy,dog,x\n")
    clips, _ = manifest_clips(manifest)
    assert clips[0].clip_id == "x" and clips[0].group is None and clips[0].video.shape == (4, 5)


@pytest.mark.parametrize("content, sentence", [
    ("", "the header '' instead of clip_id,class"),
    ("clip_id,class,audio\n", "header 'clip_id,class,audio' instead"),
    ("clip_id,class,audio,video,extra\n", "instead of clip_id"),
    ("clip_id,class,audio,video\n", "lists 0 clips"),
    ("clip_id,class,audio,video\nx,dog,a\n", "row 2, has 3 cells where the header has 4"),
    ("clip_id,class,audio,video\nx,dog,none.npy,v.npy\n", "none.npy cannot be read"),
    ("clip_id,class,audio,video\nx,cow,sub/a.npy,v.npy\n", "class 'cow' has no text vector"),
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


# --------------------------------------------------------------------- published layout

BASE, NOVEL1, NOVEL2 = ["Archery", "HandStandPushups"], ["Bowling"], ["YoYo"]
SHOTS = 2


def features(clip_id):
    rng = np.random.default_rng(list(clip_id.encode()))
    return rng.integers(0, 256, (3, 4)).astype(np.float64), rng.random((5, 6), np.float32)


def write_class(base, folder, stem, ids, names=None):
    for place, modality in enumerate(("audio", "video")):
        path = base / modality / folder / f"{stem}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"features": [features(i)[place] for i in ids], "fps": [25.0] * len(ids),
                   "video_names": ids if names is None else names}
        path.write_bytes(pickle.dumps(content))


def ids_of(class_name, *numbers):
    return [f"v_{class_name}_g{number // 2:02d}_c{number:02d}" for number in numbers]


def make_archive(root):
    """The published layout in small, with its oddities: spelling that differs in case, bytes for
    names, class lists beside it, draws that share clips, a class too many in the test directory."""
    base = root / "features" / f"{SHOTS}-shot"
    draws = [(0, 1), (2, 3), (1, 4)]
    content = {
        "stage_1_train_base": dict.fromkeys(BASE, (0, 1, 2)),
        "stage_1_val_seen": dict.fromkeys(BASE, (3,)),
        "stage_1_train_novel": dict.fromkeys(NOVEL1, (0, 1)),
        "stage_1_val_novel": dict.fromkeys(NOVEL1, (2, 3)),
        "stage_2_test_seen": dict.fromkeys(BASE + NOVEL1, (7, 8)),
    }
    for suffix, shots in zip(("", "_1", "_2"), draws, strict=True):
        content[f"stage_2_train_novel{suffix}"] = dict.fromkeys(NOVEL2, shots)
        rest = tuple(number for number in range(6) if number not in shots)
        content[f"stage_2_test_novel{suffix}"] = dict.fromkeys(NOVEL2, rest)
    for folder, classes in content.items():
        for stem, numbers in classes.items():
            ids = ids_of(stem, *numbers)
            write_class(base, folder, stem, ids, [i.encode() for i in ids] if numbers == (7, 8)
                        else np.array(ids) if stem == "Bowling" else ids)
    write_class(base, "stage_2_test_novel", "Typing", ids_of("Typing", 0))
    lists = root / "class-split" / f"{SHOTS}-shot"
    lists.mkdir(parents=True)
    (root / "class-split" / "all_class.txt").write_text(
        "Archery\nBowling\nHandstandPushups\nTyping\nYoYo\nZumba\n")
    for name, classes in (("stage_1_base_train", BASE), ("stage_1_novel_train", NOVEL1),
                          ("stage_2_novel_train", NOVEL2), ("stage_2_base_train", BASE + NOVEL1)):
        (lists / f"{name}.txt").write_text("\n".join(classes) + "\n")
    (root / "class-split" / "ucf_w2v_class_names.csv").write_text(
        "original,manual\nArchery,Archery\nHandStandPushups,Handstand Pushups\nYoYo,Yo Yo\n"
        "Bowling,Bowling\n")
    (base / "text").mkdir()
    words = ["Yo Yo", "Handstand Pushups", "Bowling", "Archery", "Zumba"]
    np.save(base / "text" / "word_embeddings_ucf_normed.npy",
            {word: np.eye(5, dtype=np.float32)[i] for i, word in enumerate(words)})
    return root


@pytest.fixture
def archive(tmp_path):
    return make_archive(tmp_path / "UCF")


def test_official(archive, tmp_path):
    clips, source = read_official(archive, SHOTS)
    clips = list(clips)
    assert source.class_names == ["Archery", "Bowling", "HandstandPushups", "YoYo"]
    # rows of class text follow the names, through original,manual
    np.testing.assert_array_equal(source.class_text.argmax(1), [3, 2, 1, 0])
    by_id = {clip.clip_id: clip for clip in clips}
    assert len(by_id) == len(clips) == 2 * 4 + 4 + 3 * 2 + 6  # no copy is stored twice
    for clip_id, clip in by_id.items():
        for got, wanted in zip((clip.audio, clip.video), features(clip_id), strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert by_id["v_HandStandPushups_g00_c01"].class_name == "HandstandPushups"
    assert by_id["v_YoYo_g01_c03"].group == "v_YoYo_g01"
    assert source.notes == ["left out class 'Typing' of stage_2_test_novel, which the class lists "
                            "do not have there"]
    split = splits.finish(source.sets, source.classes, name="UCF", shots=SHOTS, seed=None,
                          by="official")
    assert split["classes"] == {"base1": ["Archery", "HandstandPushups"], "novel1": ["Bowling"],
                                "novel2": ["YoYo"]}
    assert split["counts"] == {
        "classes": {"all": 4, "base1": 2, "novel1": 1, "novel2": 1}, "train1_base": 6,
        "train1_novel": 2, "val_base": 2, "val_novel": 2, "train2_base": 12, "train2_novel": 2,
        "test_base": 6, "test_novel": 4}
    assert split["sets"]["train2_novel"][1] == {"YoYo": ids_of("YoYo", 2, 3)}
    assert split["sets"]["test_novel"][2] == {"YoYo": ids_of("YoYo", 0, 2, 3, 5)}


def test_official_joins_by_name_not_by_position(archive):
    """The video file lists the clips in another order."""
    path = archive / "features" / "2-shot" / "video" / "stage_1_train_base" / "Archery.pkl"
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({key: value[::-1] for key, value in content.items()}))
    for clip in read_official(archive, SHOTS)[0]:
        np.testing.assert_array_equal(clip.video, features(clip.clip_id)[1])


def test_official_without_class_lists(archive):
    import shutil
    shutil.rmtree(archive / "class-split" / "2-shot")
    os.remove(archive / "features/2-shot/audio/stage_2_test_novel/Typing.pkl")
    os.remove(archive / "features/2-shot/video/stage_2_test_novel/Typing.pkl")
    clips, source = read_official(archive, SHOTS)
    assert len(list(clips)) == 24 and not source.notes


def repickle(archive, place, change):
    path = archive / "features" / "2-shot" / place
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(content) or content))


def other_copy(content):
    content["features"][0] = content["features"][0] + 1


def without_last(content):
    for values in content.values():
        values.pop()


def shorter_names(content):
    content["video_names"] = content["video_names"][:-1]


def same_names(content):
    content["video_names"][1] = content["video_names"][0]


TRAIN = "stage_1_train_base/Archery.pkl"
DISAGREE = {
    "clips": (f"video/{TRAIN}", without_last,
              "has 3 clips and .* has 2, 'v_Archery_g01_c02' is in one of them only"),
    "names": (f"audio/{TRAIN}", shorter_names, "3 feature arrays and 2 video names"),
    "twice": (f"audio/{TRAIN}", same_names, "names the clip 'v_Archery_g00_c00' twice"),
    "copies": ("video/stage_2_train_novel_1/YoYo.pkl", other_copy, "differs from its copy"),
    "key": (f"audio/{TRAIN}", lambda c: {"features": []}, "no 'video_names' \\(it has features"),
    "list": (f"audio/{TRAIN}", lambda c: [1], "holds a list where a dict"),
    "no array": (f"audio/{TRAIN}", lambda c: c | {"features": [1, 2, 3]}, "a int for clip"),
    "code": (f"video/{TRAIN}", lambda c: c | {"fps": Calls(os.system, "exit 1")}, "posix.system"),
}


@pytest.mark.parametrize("place, change, sentence", DISAGREE.values(), ids=DISAGREE)
def test_official_files_that_disagree(archive, place, change, sentence):
    repickle(archive, place, change)
    with pytest.raises(UserError, match=sentence) as error:
        list(read_official(archive, SHOTS)[0])
    assert "\n" not in str(error.value) and ".pkl" in str(error.value)


def test_official_folders_that_disagree(archive):
    base = archive / "features" / "2-shot"
    with pytest.raises(UserError, match="no features for 5 shots but for 2: change --shots"):
        read_official(archive, 5)
    with pytest.raises(UserError, match="no folder 'features'"):
        read_official(base, SHOTS)
    (base / "audio/stage_1_val_seen/Archery.pkl").rename(base / "kept")
    with pytest.raises(UserError, match="1 classes in audio and 2 in video, 'Archery'"):
        read_official(archive, SHOTS)
    (base / "audio/stage_1_val_seen/Cooking.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"class 'Cooking', which .*all_class.txt does not list"):
        read_official(archive, SHOTS)
    os.remove(base / "audio/stage_1_val_seen/Cooking.pkl")
    (base / "kept").rename(base / "audio/stage_1_val_seen/Archery.pkl")
    (base / "video/stage_2_test_novel_2").rename(base / "away")
    with pytest.raises(UserError, match="stage_2_test_novel_2 does not exist"):
        read_official(archive, SHOTS)
    (base / "away").rename(base / "video/stage_2_test_novel_2")
    os.remove(base / "text/word_embeddings_ucf_normed.npy")
    with pytest.raises(UserError, match=r"has 0 files that end in '.npy' where 1 is needed"):
        read_official(archive, SHOTS)
