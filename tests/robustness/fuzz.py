"""Rubbish for everything that reads files or strings of a user: one reader, many cases.

    python -m tests.robustness.fuzz READER SEED FIRST-CASE CASES [FOLDER-FOR-FINDS]

A target is a folder of sound files and a function that reads them. A case changes one of the files,
by bytes or by what its kind is made of, and reads again. It may end in a sound result or in a
one-line UserError (a ValueError for the words of a configuration); anything else is a find: another
exception, code run, a file written, more than SECONDS or SPARE_BYTES, a crash of a library. Changes
that reach new lines of the package become material for further changes.

Prints one JSON object: how often each outcome came, and the finds. Dies of what kills it.
"""

import collections
import faulthandler
import io
import json
import os
import pathlib
import pickle
import pickletools
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import h5py
import numpy as np

import avdiff_jax
from avdiff_jax.data import store as stores
from avdiff_jax.data import store_writer
from avdiff_jax.data.importers import npz_manifest, official, text_vectors, word_vectors
from avdiff_jax.data.splits import from_lists, split_file
from avdiff_jax.errors import UserError
from avdiff_jax.io import subprocess_probe

SECONDS = 5
SPARE_BYTES = 2 << 30
CORPUS = 100  # kept changes of a file
PACKAGE = os.path.dirname(avdiff_jax.__file__)
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.",
             "ctypes.", "os.remove", "os.rename", "os.symlink", "shutil.", "os.chmod", "os.kill")


class Target(NamedTuple):
    """make: writes sound files into a folder; read: reads them and asserts that what it got is
    sound; writes: whether reading writes, too; files: pattern of those that are changed; strings:
    the files stand for strings of a command line."""

    make: Callable
    read: Callable
    writes: bool = False
    files: str = "**/*"
    strings: bool = False


class Late(BaseException):
    """A case took too long."""


# ---------------------------------------------------------------------------- changes of bytes


def _truncated(rng, data):
    return data[: rng.randrange(len(data) + 1)]


def _flipped(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwritten(rng, data):
    """A number that matters to somebody, at a random place."""
    number = rng.choice((0, 1, -1, 2**31 - 1, 2**32 - 1, 2**62, -(2**63), 255, 65536))
    piece = struct.pack("<q", number)[: rng.choice((1, 2, 4, 8))]
    at = rng.randrange(len(data) + 1)
    return data[:at] + piece + data[at + len(piece):]


def _spliced(rng, data):
    """A piece repeated, left out, moved or replaced by noise."""
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    stop = min(stop, start + 4096)
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(4)
    if kind == 0:
        return data[:stop] + data[start:]
    if kind == 1:
        return data[:start] + data[stop:]
    if kind == 2:
        return data[:at] + data[start:stop] + data[at:]
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


BYTES = (_truncated, _flipped, _overwritten, _spliced)

# ---------------------------------------------------------------------------- changes by kind

NAMES = ("", " ", "../../x", "/etc/passwd", "/dev/zero", "a\x00b", "a\nb", "\ud800", "x" * 5000,
         "é", "nan", "__class__", "%s{0}", "$(touch x)", "CON", ".", "..", "a/b", "dog", "🙂", "'",
         '"')


def _value(rng, depth=0):
    """Any JSON value, the odder the better."""
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice((0, 1, -1, 2**31, 2**63, -(2**70), 10**30))
    if kind == 2:
        return rng.choice((0.5, -0.0, 1e308, float("nan"), float("inf"), 1e-320))
    if kind < 6:
        return rng.choice(NAMES)
    if kind == 6:
        return str(rng.random())
    if kind == 7:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES): _value(rng, depth + 1) for _ in range(rng.randrange(4))}


def _json(rng, data):
    """One node of the tree replaced, left out, renamed or repeated."""
    node = tree = json.loads(data)
    if rng.random() < 0.05:
        return b"[" * 100_000 + b"]" * 100_000
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[rng.choice(NAMES)] = node.pop(key)
        elif kind == 2 and isinstance(node, list):
            node.append(node[key])
        else:
            node[key] = _value(rng)
        break
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def _lines(rng, data):
    """One line of JSON lines, or one cell of a table, made odd."""
    rows = data.decode("utf-8", "replace").splitlines()
    at = rng.randrange(len(rows)) if rows else 0
    if rows and rows[at].startswith("{"):
        rows[at] = _json(rng, rows[at].encode()).decode("utf-8", "replace")
    elif rows:
        cells = rows[at].split(",")
        cells[rng.randrange(len(cells))] = rng.choice((*NAMES, "1e999", "-1", '"', "a,b", "1_0"))
        rows[at] = ",".join(cells)
    if rng.random() < 0.2 and rows:
        rows.insert(rng.randrange(len(rows)), rng.choice((rows[at], "", ",", "\ufeff")))
    return ("\n".join(rows) + "\n").encode("utf-8", "replace")


def _array(rng):
    """An array of an odd shape or type."""
    shape = rng.choice(((), (0,), (1,), (5,), (6,), (0, 3), (5, 3), (5, 0), (2, 2, 2), (9, 4)))
    kind = rng.choice(("f4", "f8", "i8", "u1", "?", "S3", "U3", "c8", "M8[s]", "f2", ">i4", "V4"))
    noise = rng.randbytes(int(np.prod(shape)) * np.dtype(kind).itemsize)
    made = np.frombuffer(noise, kind).reshape(shape) if noise else np.zeros(shape, kind)
    return np.zeros(shape, kind) if kind == "U3" else made


def _header(rng, data):
    """An .npy that declares something else than it holds."""
    shape = rng.choice(((2**40,), (2**62, 2**62), (-1,), (2**31, 3), (True,), (0,) * 40, ("a",)))
    kind = rng.choice(("<f4", "|O", "|V0", "<U999999999", [("a", "<f4")], "__import__('os')"))
    fields = {"descr": kind, "fortran_order": rng.random() < 0.5, "shape": shape}
    head = (repr(fields) + " " * rng.choice((0, 70000))).encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(head)) + head + data[-64:]


def _npy(rng, data):
    if rng.random() < 0.5:
        return _header(rng, data)
    out = io.BytesIO()
    np.save(out, _array(rng), allow_pickle=False)
    return out.getvalue()


def _npz(rng, data):
    """One member of an archive made odd, named oddly, packed oddly or repeated."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(
            out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    ) as new:
        names = old.namelist()
        chosen = rng.choice(names) if names else None
        for name in names:
            content, kind = old.read(name), rng.randrange(5)
            if name == chosen and kind == 0:
                continue
            if name == chosen and kind == 1:
                content = _npy(rng, content)
            elif name == chosen and kind == 2:
                name = rng.choice(NAMES).encode("utf-8", "replace").decode() + ".npy"
            elif name == chosen and kind == 3:
                content = rng.choice(BYTES)(rng, content)
            new.writestr(name or "x", content)
    return out.getvalue()


class Calls:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _pickle(rng, data):
    """A hostile pickle, or a stream of random instructions."""
    if rng.random() < 0.3:
        bad = Calls(rng.choice((os.system, eval, exec, open, getattr, __import__)), "true")
        spot = rng.choice((bad, [bad], {"features": [bad], "video_names": ["a"]}, {"x": (bad,)},
                           {"features": np.array([bad], object), "video_names": ["a"]}))
        return pickle.dumps(spot, protocol=rng.randrange(6))
    if rng.random() < 0.2:
        value = _value(rng)
        return pickle.dumps({"features": value, "video_names": _value(rng)}, rng.randrange(6))
    stream = bytearray(b"\x80" + bytes([rng.randrange(6)]))
    known = (b"numpy", b"dtype", b"ndarray", b"numpy.core.multiarray", b"_reconstruct", b"scalar",
             b"builtins", b"bytes", b"os", b"system", b"_codecs", b"encode", b"latin1", b"f4")
    for _ in range(rng.randrange(1, 40)):
        code = rng.choice(pickletools.opcodes)
        stream += code.code.encode("latin1")
        if code.arg is None:
            continue
        word, size = rng.choice(known), rng.choice((0, 3, 255, 2**31 - 1))
        if code.arg.n == pickletools.UP_TO_NEWLINE:
            stream += word + b"\n" + (rng.choice(known) + b"\n" if code.name == "GLOBAL" else b"")
        elif code.arg.n > 0:
            stream += rng.choice((rng.randbytes(code.arg.n), bytes(code.arg.n)))
        else:  # a length before the bytes
            width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
            length = rng.choice((len(word), len(word), size))
            stream += length.to_bytes(9, "little")[: width.get(code.arg.n, 4)] + word
    return bytes(stream) + b"."


def _hdf5(rng, data):
    """One object or attribute replaced, left out or led astray."""
    with tempfile.NamedTemporaryFile() as place:
        place.write(data)
        place.flush()
        try:
            with h5py.File(place.name, "r+") as file:
                _change_hdf5(rng, file)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError):
            return rng.choice(BYTES)(rng, data)
        return pathlib.Path(place.name).read_bytes()


def _change_hdf5(rng, file):
    names = []
    file.visit(names.append)
    name = rng.choice(names)
    kind = rng.randrange(10)
    if kind == 0:
        owner = rng.choice((file, file["audio"], file["video"]))
        key = rng.choice(("schema", "version", "name", "may_lack_modality", "seconds"))
        owner.attrs[key] = rng.choice((_array(rng), rng.choice(NAMES), -1, 2.5, float("nan"), 2))
        return
    old = file[name][...] if isinstance(file[name], h5py.Dataset) else None
    del file[name]
    if kind == 1 or old is None:
        return
    if kind == 2:
        file[name] = h5py.SoftLink(rng.choice(("/labels", "/nowhere", name)))
    elif kind == 3:
        file[name] = h5py.ExternalLink(rng.choice(("/etc/passwd", "x.h5")), "/labels")
    elif kind == 4:
        file.create_dataset(name, data=old, chunks=True, compression="gzip") if old.ndim else None
    elif kind == 5:
        file.create_dataset(name, old.shape, old.dtype, external=[("/etc/passwd", 0, old.nbytes)])
    elif kind == 6:
        file.create_dataset(name, (2**40, *old.shape[1:]), old.dtype)
    elif kind == 7:
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[...] = h5py.VirtualSource("/nowhere.h5", "x", old.shape)
        file.create_virtual_dataset(name, layout)
    elif kind == 8:
        file.create_group(name)
    else:
        file[name] = rng.choice((_array(rng), old[::-1], old[:-1], old.astype("f8")
                                 if old.dtype.kind in "iuf" else old))


KINDS = {".json": _json, ".jsonl": _lines, ".csv": _lines, ".txt": _lines, ".npy": _npy,
         ".npz": _npz, ".pkl": _pickle, ".h5": _hdf5}


def _astray(rng, path):
    """Something else than a file of that name."""
    path.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        places = ("/dev/zero", "/etc/passwd", "/nowhere", path, "/proc/self/mem")
        path.symlink_to(rng.choice(places))
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.touch()


# ---------------------------------------------------------------------------- targets


def _make_pickle(folder):
    names = ["a", "b", "c"]
    values = [np.ones((2, 3), "f4"), np.zeros((1, 3), "f8"), np.ones((4, 3), "u1")]
    for protocol in range(6):
        content = {"features": values, "video_names": names if protocol % 2 else np.array(names)}
        (folder / f"{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))


def _read_pickle(folder):
    for path in sorted(folder.iterdir()):
        for name, values in official._read_class(path).items():
            assert type(name) is str and type(values) is np.ndarray
            assert values.dtype.kind in "biufSU"


def _make_npz(folder):
    rng = np.random.default_rng(0)
    made = {"a_flat": rng.random((10, 3), "f4"), "a_offsets": np.arange(0, 11, 2),
            "v_flat": rng.integers(0, 9, (5, 2)).astype("u1"), "v_offsets": np.arange(6),
            "label": np.arange(5) % 2, "names": np.array(["dog", "cat"]),
            "id": np.array(list("vwxyz"))}
    np.savez(folder / "in.npz", **made)
    np.savez(folder / "text.npz", dog=np.ones(4), cat=np.zeros(4))


def _read_npz(folder):
    clips, source = npz_manifest.read_npz(
        [folder / "in.npz"], audio_key="a", video_key="v", label_key="label", class_key="names",
        id_key="id", text=folder / "text.npz")
    count = _check_clips(clips, source)
    assert count == source.total


def _check_clips(clips, source):
    assert len(source.text.vectors) == len(source.class_names)
    count = 0
    for clip in clips:
        count += 1
        assert clip.class_name in source.class_names
        for values in (clip.audio, clip.video):
            assert values is None or values.nbytes < 1 << 30
    return count


def _make_manifest(folder):
    rows = ["clip_id,class,group,audio,video"]
    for number in range(4):
        np.save(folder / f"a{number}.npy", np.ones((2, 3), "f4"))
        np.save(folder / f"v{number}.npy", np.ones((3, 2), "f8"))
        rows.append(f"c{number},{'dog' if number % 2 else 'cat'},g,a{number}.npy,v{number}.npy")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    (folder / "text.csv").write_text("dog,1,2\ncat,3,4\n")


def _read_manifest(folder):
    _check_clips(*npz_manifest.read_manifest(folder / "clips.csv", text=folder / "text.csv"))


def _make_store(folder):
    clips = [store_writer.Clip(f"c{n}", "dog" if n % 2 else "cat", f"g{n // 2}",
                         np.full((2 + n, 3), n), np.ones((3, 2), "f4") * n) for n in range(6)]
    store_writer.write_store(
        folder / "s.h5", name="pets", clips=clips, class_names=["dog", "cat"],
        class_text=np.eye(2, 4), audio_seconds=1, video_seconds=0.5, provenance={"a": 1})


def _read_store(folder):
    store = stores.open_store(folder / "s.h5")
    n = len(store.clip_ids)
    assert len(set(store.clip_ids)) == n == len(store.labels) > 0
    assert 0 <= store.labels.min() <= store.labels.max() < len(store.class_names)
    assert np.isfinite(store.class_text).all() and len(store.class_text) == len(store.class_names)
    for part in (store.audio, store.video):
        assert part.offsets[0] == 0 and part.offsets[-1] == len(part.values)
        assert (part.lengths >= 0).all() and part.lengths.shape == (n,)
        np.asarray(part.values).sum(dtype=float)  # every page is there


def _make_split(folder):
    made = {}
    for kind, classes in (("base1", "ab"), ("novel1", "cd"), ("novel2", "ef")):
        made[kind] = {name: [f"{name}{n}" for n in range(8)] for name in classes}

    def of(kind, start, stop):
        return {name: ids[start:stop] for name, ids in made[kind].items()}

    sets = {
        "train1_base": of("base1", 0, 4), "val_base": of("base1", 4, 6),
        "train1_novel": of("novel1", 0, 2), "val_novel": of("novel1", 2, 5),
        "test_base": of("base1", 6, 8) | of("novel1", 5, 8),
        "train2_novel": [of("novel2", d, d + 2) for d in range(3)],
        "test_novel": [of("novel2", 5, 8)] * 3,
    }
    classes = {kind: list(content) for kind, content in made.items()}
    split = split_file.finish(sets, classes, name="x", shots=2, seed=0, by="clip")
    split_file.write(split, folder / "split.json")


def _read_split(folder):
    split = split_file.load(folder / "split.json")
    flat = [c for key in ("train1_base", "train1_novel", "val_base", "val_novel", "test_base")
            for ids in split["sets"][key].values() for c in ids]
    assert len(set(flat)) == len(flat)
    assert split["counts"] == split_file.counts(split)
    assert split_file.table(split)


def _make_text(folder):
    vectors = {"dog": np.ones(3, "f4"), "cat": np.zeros(3, "f4")}
    np.save(folder / "t.npy", vectors)
    np.savez(folder / "t.npz", names=list(vectors), emb=np.stack(list(vectors.values())))
    (folder / "t.csv").write_text("name,a,b,c\ndog,1,2,3\ncat,3,4,5\n")
    (folder / "map.txt").write_text("original,manual\nDog,dog\nCat,cat\n")


def _read_text(folder):
    manual = text_vectors.read_manual_names(folder / "map.txt")
    assert all(type(x) is str for pair in manual.items() for x in pair)
    for kind in (".npy", ".npz", ".csv"):
        vectors = text_vectors.read_text(folder / f"t{kind}")
        assert {(v.dtype.name, v.ndim) for v in vectors.values()} == {("float32", 1)}
        assert len({len(v) for v in vectors.values()}) == 1
        assert all(type(name) is str for name in vectors)


def _make_words(folder):
    lines = [f"{word} {n} 0.5 -1e-3\n" for n, word in enumerate(("dog", "cat", "a", "b", "é"))]
    (folder / "w.vec").write_text("5 3\n" + "".join(lines))


def _read_words(folder):
    found = word_vectors.name_vectors(["DogCat", "dog"], folder / "w.vec")
    assert found.vectors.dtype == np.float32 and len(found.vectors) == 2
    assert np.isfinite(found.vectors).all()


def _make_lists(folder):
    content = {"stage_1_train": "ab", "stage_1_val_seen": "ab", "stage_1_val_unseen": "cd",
               "stage_2_test_seen": "abcd", "stage_2_test_unseen": "ef"}
    for number, (stem, classes) in enumerate(content.items()):
        (folder / f"{stem}.txt").write_text("\n".join(classes) + "\n")
        rows = [f"{name}{number}{n},{name}" for name in classes for n in range(4)]
        (folder / f"{stem}.csv").write_text("\n".join(["filename,label", *rows]) + "\n")


def _read_lists(folder):
    split = from_lists.make_split(folder, 2, 0)
    assert split["counts"] == split_file.counts(split)


def _make_results(folder):
    from avdiff_jax.results import results_json

    draw = {"B": 50.0, "N": 40.0, "HM": 44.4, "FSL": 60.0, "AUSUC": 30.0, "gamma": 0.1}
    mean = {k: v for k, v in draw.items() if k != "gamma"}
    results_json.write_results(folder, results_json.results_json(
        test={"mean": mean, "std": dict.fromkeys(mean, 1.0), "mean_of_hm": 44.0,
              "draws": [draw] * 3},
        validation={}, chosen={"gamma": {"value": 0.1, "on": "Val"}}, device="cpu",
        config={"dataset": "ucf", "shots": 5, "method": "avdiff", "seed": 1,
                "model": {"attention": "full", "modality": "both"}, "generator": "diffusion"},
        timing={"wall_seconds": 3.0, "stage1": 2.0}, data={"store": "x", "classes": 48}))


def _read_results(folder):
    from avdiff_jax.results import results_json, run_table, runs

    found = results_json.read_results(folder)
    assert run_table.markdown(found)
    for members in runs.group(runs.find([folder])).values():
        assert runs.summary(members).runs == 1


def _make_curves(folder):
    from avdiff_jax.results.metrics_log import Writer

    with Writer(folder) as writer:
        for at in range(1, 5):
            writer.scalars(at, {"loss": 1.0 / at}, "stage1", step=at, epoch=at)
        writer.text(4, "note", "hello")
        writer.hparams(4, {"a": {"b": 1}}, {"B": 2.0})


def _read_curves(folder):
    from avdiff_jax.results.metrics_log import Writer, read_metrics

    read_metrics(folder)
    with Writer.open_at(folder, 3) as writer:
        writer.scalars(4, {"loss": 1.0})
    found = [line["at"] for line in read_metrics(folder)]
    assert found == sorted(found) and max(found) == 4


def _make_workdir(folder):
    from avdiff_jax.train import run_data, workdir
    from avdiff_jax.train.records import Stage1Record
    from tests import tiny

    workdir.claim(folder, tiny.config(), False)
    run_data.hold_data(tiny.config(), folder)
    part = {"epochs": 2, "cuts": [1], "measured": {"val/B": 3.0}, "seconds": 1.0}
    trial = {"filled": {"model.head": "linear"}, "ausuc": 50.0}
    workdir.write_record(folder, Stage1Record.from_json({
        "substage1": part, "substage2": part, "gamma": 0.1, "at": 4, "trials": [trial],
    }))


def _read_workdir(folder):
    from avdiff_jax.train import run_data, workdir
    from tests import tiny

    workdir.claim(folder, tiny.config(), (folder / "config.json").exists())
    run_data.open_run_data(tiny.config(), folder)
    found = workdir.read_record(folder)
    assert found is None or found.substage1.epochs >= 0


def _state():
    return {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros((), "i4")}


def _make_checkpoint(folder):
    from avdiff_jax.runtime.checkpoint import Checkpoints

    with Checkpoints(folder / "c", keep=2) as checkpoints:
        for number in (1, 2):
            checkpoints.save(number, _state(), {"at": number, "finished": True})


def _read_checkpoint(folder):
    from avdiff_jax.runtime.checkpoint import Checkpoints

    with Checkpoints(folder / "c", keep=2) as checkpoints:
        number = checkpoints.latest()
        if number is not None:
            assert isinstance(checkpoints.metadata(number), dict)
            state = checkpoints.restore(number, _state())
            assert all(np.array_equal(state[key], value) for key, value in _state().items())


def _make_config(folder):
    (folder / "words.txt").write_text("5shot,method=avdiff,attention=full,condition=prototype\n")
    (folder / "fields.json").write_text(json.dumps({
        "train.batch": 8, "model.attention": "full", "diffusion.steps": 5, "model.switch": 1,
        "train.learning_rate": 0.1, "model.dropout_enc": 0.5, "data.split": "", "method": "avdiff",
    }))


def _read_config(folder):
    from avdiff_jax import methods
    from avdiff_jax.cli import choices
    from configs import synthetic

    text = (folder / "words.txt").read_text(errors="surrogateescape")
    config = synthetic.get_config(text.strip())
    try:
        changes = json.loads((folder / "fields.json").read_bytes())
    except RecursionError as error:
        raise ValueError("of no flag") from error
    for name, value in changes.items():
        *groups, leaf = name.split(".")
        part = config
        for group in groups:
            part = part[group]
        part[leaf] = value  # a wrong name or type is refused here, as by a flag
    choices.check_values(config)
    methods.method(config.method)
    methods.check(config)
    assert config.shots > 0 and config.train.batch > 0


TARGETS = {
    "official pickles": Target(_make_pickle, _read_pickle),
    "npz": Target(_make_npz, _read_npz),
    "manifest": Target(_make_manifest, _read_manifest),
    "store": Target(_make_store, _read_store),
    "split": Target(_make_split, _read_split),
    "text vectors": Target(_make_text, _read_text),
    "word vectors": Target(_make_words, _read_words),
    "class-split lists": Target(_make_lists, _read_lists),
    "results.json": Target(_make_results, _read_results),
    "metrics.jsonl": Target(_make_curves, _read_curves, writes=True, files="metrics.jsonl"),
    "workdir": Target(_make_workdir, _read_workdir, writes=True),
    "checkpoint": Target(_make_checkpoint, _read_checkpoint, writes=True),
    "configuration": Target(_make_config, _read_config, strings=True),
}
# How a flag refuses a wrong name or type of a field, and a configuration file a wrong word.
REFUSALS = {"configuration": (ValueError, TypeError, KeyError, AttributeError)}

# ---------------------------------------------------------------------------- cases


def _watch(target, folder):
    """Reports what no reading may do."""
    found = []

    def hook(event, args):
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if not target.writes and (event.startswith(FORBIDDEN) or writes):
            found.append(f"{event} {args[:1]}")

    sys.addaudithook(hook)
    return found


def run(name: str, seed: int, first: int, cases: int, keep: pathlib.Path | None = None) -> dict:
    """Outcomes of so many cases from number `first` on; what is found is kept below `keep`."""
    target, counts, finds, corpus = TARGETS[name], collections.Counter(), [], {}
    refusals = (UserError, *REFUSALS.get(name, ()))
    with tempfile.TemporaryDirectory(prefix="avdiff_jax-fuzz-") as place:
        sound, folder = pathlib.Path(place, "sound"), pathlib.Path(place, "case")
        sound.mkdir()
        target.make(sound)
        subprocess_probe.try_apart = lambda *_: None  # we are a child ourselves
        shutil.copytree(sound, folder)
        target.read(folder)  # also imports all that there is to import
        lines, reached = set(), set()

        def trace(frame, event, _):
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            reached.add((frame.f_code.co_filename, frame.f_lineno))
            return trace

        def late(*_):
            raise Late

        signal.signal(signal.SIGALRM, late)
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        done = _watch(target, folder)
        files = sorted(p.relative_to(sound) for p in sound.glob(target.files) if p.is_file())
        for number in range(first, first + cases):
            rng = random.Random(f"{name} {seed} {number}")
            print(number, file=sys.stderr, flush=True)  # which case it was, should we die of it
            if target.writes or number == first:
                shutil.rmtree(folder)
                shutil.copytree(sound, folder)
            file = rng.choice(files)
            path, how = folder / file, "astray"
            material = rng.choice([(sound / file).read_bytes(), *corpus.get(file, [])])
            if not target.strings and rng.random() < 0.04:
                _astray(rng, path)
            else:
                change = rng.choice((*BYTES, KINDS.get(file.suffix, _spliced)))
                try:
                    material = change(rng, material)
                except (ValueError, KeyError, zipfile.BadZipFile, OSError, AttributeError,
                        RuntimeError, RecursionError, NotImplementedError, EOFError, MemoryError):
                    material = rng.choice(BYTES)(rng, material)  # too odd already
                how = change.__name__
                path.write_bytes(material)
            done.clear()
            reached.clear()
            signal.alarm(SECONDS)
            # A library that never comes back sees no signal: this ends the process.
            faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
            sys.settrace(trace)
            try:
                target.read(folder)
                outcome = "read"
            except refusals as error:
                outcome = "refused"
                if isinstance(error, UserError) and not str(error).isprintable():
                    outcome = f"a sentence that cannot be printed: {error!r}"
            except Late:
                outcome = f"took more than {SECONDS} s"
            except Exception as error:  # what we are looking for
                last = error.__traceback__
                while last.tb_next:
                    last = last.tb_next
                spot = f"{os.path.basename(last.tb_frame.f_code.co_filename)}:{last.tb_lineno}"
                outcome = f"{type(error).__name__}: {str(error)[:150]} ({spot})"
            finally:
                sys.settrace(None)
                signal.alarm(0)
                faulthandler.cancel_dump_traceback_later()
            if done:
                outcome = f"did {done[0]}"
            if outcome in ("read", "refused"):
                counts[outcome] += 1
            else:
                counts["found"] += 1
                finds.append({"case": number, "file": str(file), "how": how, "outcome": outcome})
                if keep is not None and how != "astray":
                    keep.mkdir(parents=True, exist_ok=True)
                    label = f"{name.replace(' ', '-')}-{seed}-{number}-{file.name}"
                    (keep / label).write_bytes(material)
            if reached - lines and how != "astray" and len(corpus.get(file, ())) < CORPUS:
                lines |= reached
                corpus.setdefault(file, []).append(material)
            if not target.writes:
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                path.unlink(missing_ok=True)
                shutil.copy(sound / file, path)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {"reader": name, "cases": cases, **counts, "finds": finds, "lines": len(lines),
            "seconds": round(spent.ru_utime + spent.ru_stime, 1), "MiB": spent.ru_maxrss >> 10}


if __name__ == "__main__":
    keep = pathlib.Path(sys.argv[5]) if len(sys.argv) > 5 else None
    print(json.dumps(run(sys.argv[1], *map(int, sys.argv[2:5]), keep)))
