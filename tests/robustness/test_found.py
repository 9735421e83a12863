"""Files that once ended in a traceback, in a hang or in too much memory, found by test_fuzz.py."""

import json
import os
import re
import zipfile

import numpy as np
import pytest

from avdiff_jax.data.importers import npz_manifest, text_vectors, word_vectors
from avdiff_jax.data.splits import from_lists, split_file
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.npy_npz import NpzFiles, read_npy
from avdiff_jax.results import results_json
from avdiff_jax.results.metrics_log import Writer, read_metrics
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.train import workdir
from tests import tiny
from tests.robustness import fuzz


def refused(match, function, *args, **more):
    with pytest.raises(UserError, match=match) as caught:
        function(*args, **more)
    assert str(caught.value).isprintable()


READERS = {
    "text": text_files.text_of, "npy": read_npy, "npz": lambda path: NpzFiles([path]),
    "store": open_store, "split": split_file.load,
    "words": lambda p: word_vectors.name_vectors(["a"], p),
    "results": results_json.read_results, "curves": lambda path: read_metrics(path.parent),
    "names": text_vectors.read_manual_names,
    "checkpoint": lambda path: Checkpoints(path.parent, keep=1),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_not_waited_for(reader, tmp_path):
    path = tmp_path / "metrics.jsonl"
    os.mkfifo(path)
    refused("is a pipe or a device", READERS[reader], path)
    path.unlink()
    path.symlink_to("/dev/zero")
    refused("is a pipe or a device", READERS[reader], path)


def npy(header):
    text = header.encode()
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + bytes(8)


@pytest.mark.parametrize("header", [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}\n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,\n",
    "('''\n",
])
def test_headers_of_arrays(header, tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(header))
    refused("no .npy array or is truncated", read_npy, tmp_path / "a.npy")


def test_an_archive_packed_by_another_method(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (8,)}\n"))
    refused("packed by method 14", NpzFiles([tmp_path / "a.npz"]).array, "x", "--key")


def test_a_small_archive_of_very_many_clips(tmp_path):
    """A hundred kilobytes that would unfold into millions of clip ids."""
    np.savez(tmp_path / "text.npz", dog=np.ones(2))
    n = 1 << 24
    np.savez_compressed(
        tmp_path / "in.npz", label=np.zeros(n, "u1"), names=np.array(["dog"]),
        a_flat=np.zeros((0, 2), "f4"), a_offsets=np.zeros(n + 1, "u1"),
    )
    assert (tmp_path / "in.npz").stat().st_size < 1 << 18
    refused(
        f"{n} clips where at most", npz_manifest.read_npz, [tmp_path / "in.npz"], audio_key="a",
        video_key=None, label_key="label", class_key="names", text=tmp_path / "text.npz",
    )


def test_word_vectors_parted_by_other_space(tmp_path):
    (tmp_path / "w.vec").write_bytes(b"dog 1 2\ncat 1 2\x0b3\n")
    refused("has 3 numbers where others have 2", word_vectors.name_vectors, ["DogCat"],
            tmp_path / "w.vec")


def test_names_that_cannot_be_printed(tmp_path):
    fuzz._make_lists(tmp_path)
    (tmp_path / "stage_1_train.csv").write_text('"a\nb\x1b[2J",label\n')
    refused(r"columns a\\nb\\x1b", from_lists.make_split, tmp_path, 2, 0)
    assert str(UserError("\ud800 \n")) == r"\ud800 \n"


def changed(tree, place, value):
    *path, last = (int(key) if key.isdigit() else key for key in re.findall(r"[^.[\]]+", place))
    node = tree
    for key in path:
        node = node[key]
    node[last] = value


@pytest.mark.parametrize("place, value", [
    ("config.model", "full"), ("config.shots", "5"), ("config.seed", None), ("config", []),
    ("test.mean.B", "50"), ("test.mean.N", None), ("test.draws", []), ("test.draws[0]", 1),
    ("test.std.B", None), ("test.mean_of_hm", [1]), ("timing", None), ("timing.stage1", "2"),
    ("chosen", [1]), ("chosen.gamma", 0.1), ("data.classes", "48"), ("config.model.x", [{"a": 1}]),
    ("test.draws[2].HM", 10**400), ("test.mean.FSL", float("nan")),
])
def test_results_that_no_run_writes(place, value, tmp_path):
    fuzz._make_results(tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    changed(found, place, value)
    (tmp_path / "results.json").write_text(json.dumps(found))
    complaint = rf"results.json: {re.escape(place)} is .*: run again$"
    refused(complaint, results_json.read_results, tmp_path)


@pytest.mark.parametrize("line", [
    '{"at": "1", "time": 1}', '{"at": 1, "time": 1, "loss": {}}', '{"at": true, "time": 1}',
    '{"at": 1, "time": 1, "text": "a"}', '{"at": 1, "time": 1, "image": 3, "file": "x"}',
    '{"at": 99999999999999999999, "time": 1}', '{"at": 1, "time": NaN}', "[]", "[" * 100_000,
    '{"at": 1, "time": 1, "hparams": {}, "metrics": []}', '{"at": 1, "time": 1, "loss": "high"}',
])
def test_lines_that_no_run_writes(line, tmp_path):
    sound = '{"at": 2, "time": 1, "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(line + "\n" + sound)
    refused("line 1 of .* is not one that a run writes", Writer.open_at, tmp_path, 2)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "null"])
def test_the_small_files_of_a_workdir(content, tmp_path):
    for name in ("config.json", "stage1.json"):
        (tmp_path / name).write_text(content)
    refused("config.json .*: choose another", workdir.claim, tmp_path, tiny.config(), True)
    refused("stage1.json .*: delete it and go on", workdir.read_record, tmp_path)
