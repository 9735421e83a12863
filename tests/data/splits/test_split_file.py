"""A split on the disk."""

import copy
import json
import os
from pathlib import Path

import pytest

from avdiff_jax.data.splits import split_file
from avdiff_jax.errors import UserError
from tests.data.samples import good_split


def test_a_split_survives_the_disk(tmp_path):
    split = good_split()
    path = tmp_path / "new folder" / "split.json"
    split_file.write(split, path)
    assert split_file.load(path) == split
    assert os.listdir(path.parent) == ["split.json"]
    text = path.read_bytes()
    split_file.write(split_file.load(path), path)
    assert path.read_bytes() == text


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "split.json"
    path.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for module, name in ((os, "replace"), (Path, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(UserError, match=r"cannot write .*split.json: No space left"):
                split_file.write(good_split(), path)
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["split.json"]
    with pytest.raises(UserError, match="cannot write"):
        split_file.write(good_split(), path / "below a file.json")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda split: [split], "holds a list where a split is an object"),
        (lambda split: {**split, "schema": "other"}, r"schema 'other' version 1 where .*\.split'"),
        (lambda split: {**split, "version": 2}, "version 2 where .* version 1 is read: use the co"),
        (lambda split: {k: v for k, v in split.items() if k != "shots"}, "shots is missing"),
        (lambda split: {k: v for k, v in split.items() if k != "counts"}, "counts is missing"),
        (lambda split: {**split, "shots": "5"}, 'shots is "5" but must be a whole number: make it'),
        (lambda split: {**split, "shots": True}, "shots is true but must be a whole number"),
        (lambda split: {**split, "shots": 0}, "shots is 0 but must be at least 1"),
        (lambda split: {**split, "shots": 4}, "5 clips .* exactly 4 shots"),
        (lambda split: {**split, "seed": "a"}, 'seed is "a" but must be a whole number or null'),
        (lambda split: {**split, "by": "week"}, 'by is "week" but must be one of lists, group, '),
        (lambda split: {**split, "sets": []}, "sets is a list but must be an object"),
        (lambda split: {**split, "sets": {}}, "sets.test_base is missing"),
        (lambda split: _put(split, "classes", "base1", "abc"), r'classes.base1 is "abc" but must'),
        (lambda split: _put(split, "classes", "base3", []), "classes has 'base3' but may"),
        (lambda split: _put(split, "sets", "val_base", [{}]), "val_base is a list but must be"),
        (lambda split: _put(split, "sets", "val_base", {"a": [1]}), r"val_base.a\[0\] is 1 but"),
        (lambda split: _put(split, "sets", "val_base", {"a": "b"}), 'val_base.a is "b" but must'),
        (lambda split: _put(split, "sets", "test_novel", {}), "test_novel is an object but"),
        (lambda split: _put(split, "sets", "test_novel", [3]), r"test_novel\[0\] is 3 but"),
        (lambda split: _put(split, "sets", "test_novel", []), "and 0 of test_novel but needs 3"),
        (lambda split: _put(split, "counts", "val_base", 1), "counts says .* but the sets hold"),
        (lambda split: {**split, "notes": "x"}, 'notes is "x" but must be a list, each'),
    ],
)
def test_malformed_files_are_refused(tmp_path, change, message):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(change(good_split())))
    with pytest.raises(UserError, match=message) as refusal:
        split_file.load(path)
    assert "split.json" in str(refusal.value) and "\n" not in str(refusal.value)


def _put(split, field, key, value):
    split = copy.deepcopy(split)
    split[field][key] = value
    return split


def test_files_that_are_no_json_are_refused(tmp_path):
    files = {"cut": (b'{"schema": ', "JSON"), "bytes": (b"\x89HDF\r\n\x1a\n\xff", "UTF-8 text")}
    for name, (content, kind) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not {kind}"):
            split_file.load(tmp_path / name)
    with pytest.raises(UserError, match=r"nothing\.json does not exist: make it ag"):
        split_file.load(tmp_path / "nothing.json")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
        split_file.load(tmp_path)
