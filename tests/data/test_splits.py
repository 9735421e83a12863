"""A finished split: audits seen to refuse, the disk, the stages of training."""

import copy
import json
import os
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from avdiff_jax.data.splits import split_file, stages
from avdiff_jax.data.splits.sets import SINGLE, STAGE_1
from avdiff_jax.errors import UserError
from tests.data.samples import by_subject, good_split, ids, make_store

# --- audits: each is seen to refuse a good split with one thing wrong


def _first(content):
    return next(iter(content.values()))


def _move(sets, source, target):
    """The first clip of one set is in another one as well."""
    pick = lambda key: sets[key[:-3]][int(key[-2])] if key.endswith("]") else sets[key]  # noqa: E731
    source, target = pick(source), pick(target)
    # Clips of other classes are put under some class of the target.
    name = next((name for name in source if name in target), next(iter(target)))
    target[name][-1] = source.get(name, _first(source))[0]


PAIRS = list(combinations([*SINGLE, "train2_novel[1]", "test_novel[1]"], 2))


@pytest.mark.parametrize("source, target", PAIRS)
def test_a_clip_in_two_sets_is_refused(source, target):
    split = good_split()
    _move(split["sets"], source, target)
    with pytest.raises(UserError, match="1 clips in both") as refusal:
        split_file.audit(split, None)
    assert source in str(refusal.value) and target in str(refusal.value)


def test_draws_may_share_clips():
    """Draws are alternatives: a shot of one is a test clip of the others."""
    sets = good_split()["sets"]
    assert ids(sets["train2_novel"][0]) & ids(sets["test_novel"][1])


def _change(change):
    split = good_split()
    change(split, split["sets"])
    return split


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda split, s: _first(s["test_base"]).clear(), "no clip of class .* in test_base"),
        (lambda split, s: _first(s["test_novel"][2]).clear(), r"no clip .* in test_novel\[2\]"),
        (lambda split, s: s["val_base"].popitem(), "no clip of class .* in val_base"),
        (lambda split, s: s["val_novel"].popitem(), "no clip of class .* in val_novel"),
        (lambda split, s: s["train1_base"].popitem(), "no clip of class .* in train1_base"),
        (lambda split, s: _first(s["train1_novel"]).pop(), "has 4 clips .* exactly 5 shots"),
        (lambda split, s: _first(s["train2_novel"][1]).pop(), r"4 clips .* train2_novel\[1\]"),
        (lambda split, s: _first(s["train2_novel"][1]).append("x"), "has 6 clips .* exactly 5"),
        (lambda split, s: _first(s["val_base"]).append(_first(s["val_base"])[0]), "twice in val_b"),
        (lambda split, s: s["val_base"].update(extra=["x"]), "class 'extra' in val_base"),
        (lambda split, s: s["test_base"].update(s["test_novel"][0]), "test_base, which is for"),
        (lambda split, s: s["test_novel"].pop(), "3 draws of train2_novel and 2 of test_novel"),
        (lambda split, s: split["classes"].update(novel2=[]), "0 classes in novel2"),
        (
            lambda split, s: split["classes"]["novel1"].append(
                split["classes"]["base1"][0].upper()
            ),
            "in base1 and in novel1",
        ),
    ],
)
def test_audit_refuses(change, message):
    with pytest.raises(UserError, match=message) as refusal:
        split_file.audit(_change(change), None)
    assert "'made_up'" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "train, evaluation",
    [
        ("train1_base", "val_novel"),
        ("train1_novel", "val_base"),
        ("val_base", "test_base"),
        ("val_novel", "test_base"),
        ("train1_base", "test_novel[0]"),
        ("train2_novel[0]", "test_novel[0]"),
    ],
)
def test_a_group_on_both_sides_is_refused_by_group_and_reported_otherwise(train, evaluation):
    split = good_split("clip")
    sets = split["sets"]
    pick = lambda key: sets[key[:-3]][int(key[-2])] if key.endswith("]") else sets[key]  # noqa: E731
    groups = {_first(pick(train))[0]: "one speaker", _first(pick(evaluation))[-1]: "one speaker"}
    report = split_file.audit(split, groups)
    assert "one speaker" in report[0] and "on both sides, with 1 of" in report[0]
    with pytest.raises(UserError, match="group 'one speaker' in both") as refusal:
        split_file.audit({**split, "by": "group"}, groups)
    assert train in str(refusal.value) and evaluation in str(refusal.value)


def test_groups_are_audited_draw_by_draw():
    """A shot of draw 1 that is a test clip of draw 0, with the speaker of a test clip of both."""
    split = good_split("clip")
    shots, tests = split["sets"]["train2_novel"], split["sets"]["test_novel"]
    shot = min(ids(shots[1]) & ids(tests[0]) & ids(tests[2]))
    test = min(ids(tests[0]) & ids(tests[1]) & ids(tests[2]))
    report = split_file.audit(split, {shot: "one speaker", test: "one speaker"})
    assert [line.split(":")[0] for line in report] == ["stage 2 draw 1"]
    # A shot of draw 0 is a test clip of the others, here with the speaker of a training clip.
    shot = min(ids(shots[0]) & ids(tests[1]) & ids(tests[2]))
    train = min(ids(split["sets"]["train1_base"]))
    report = split_file.audit(split, {shot: "one speaker", train: "one speaker"})
    assert [line.split(":")[0] for line in report] == ["stage 2 draw 1", "stage 2 draw 2"]


def test_finish_audits():
    split = _change(lambda split, s: s["val_base"].popitem())
    with pytest.raises(UserError, match="no clip of class"):
        split_file.finish(split["sets"], split["classes"], name="x", shots=5, seed=0, by="clip")


# --- on disk


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

    for module, name in ((os, "replace"), (Path, "write_text")):
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
        (lambda split: [split], "a JSON list but a split is an object"),
        (lambda split: {**split, "schema": "other"}, "schema is 'other' but this program reads"),
        (lambda split: {**split, "version": 2}, "version is 2 but this program reads 1"),
        (lambda split: {k: v for k, v in split.items() if k != "shots"}, "'shots' is missing"),
        (lambda split: {k: v for k, v in split.items() if k != "counts"}, "'counts' is missing"),
        (lambda split: {**split, "shots": "5"}, """'shots' is "5", of the wrong type"""),
        (lambda split: {**split, "shots": True}, "'shots' is true, of the wrong type"),
        (lambda split: {**split, "shots": 0}, "shots is 0 but must be at least 1"),
        (lambda split: {**split, "shots": 4}, "5 clips .* exactly 4 shots"),
        (lambda split: {**split, "seed": "a"}, "'seed' is"),
        (lambda split: {**split, "by": "week"}, "by is 'week' but must be one of lists"),
        (lambda split: {**split, "sets": []}, "'sets' is"),
        (lambda split: {**split, "sets": {}}, "sets has .* but must have"),
        (lambda split: _put(split, "classes", "base1", "abc"), r'classes.base1 is "abc" but must'),
        (lambda split: _put(split, "classes", "base3", []), "classes has .*base3"),
        (lambda split: _put(split, "sets", "val_base", [{}]), "must be an object of classes"),
        (lambda split: _put(split, "sets", "val_base", {"a": [1]}), "class names to lists of cl"),
        (lambda split: _put(split, "sets", "val_base", {"a": "b"}), "class names to lists of clip"),
        (lambda split: _put(split, "sets", "test_novel", {}), "must be a list of draws"),
        (lambda split: _put(split, "sets", "test_novel", [3]), "class names to lists of clip ids"),
        (lambda split: _put(split, "sets", "test_novel", []), "and 0 of test_novel but needs 3"),
        (lambda split: _put(split, "counts", "val_base", 1), "counts says .* but the sets hold"),
        (lambda split: {**split, "notes": "x"}, "'notes' is"),
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
    with pytest.raises(UserError, match=r"nothing\.json is missing; make it with"):
        split_file.load(tmp_path / "nothing.json")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
        split_file.load(tmp_path)


def test_an_edited_file_cannot_leak_clips(tmp_path):
    split = good_split()
    _move(split["sets"], "train2_novel[0]", "test_novel[0]")
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split))
    with pytest.raises(UserError, match=r"split.json: .* in both train2_novel\[0\] and test_nov"):
        split_file.load(path)


# --- for training


def named(members, stage, store):
    """Members as (class name, clip id), which any order of the store leaves alone."""
    return [
        (stage.class_names[label], str(store.clip_ids[clip]))
        for clip, label in zip(members.clips, members.labels, strict=True)
    ]


def test_stages_are_the_sets():
    store, split = make_store(by_subject()), good_split()
    sets, classes = split["sets"], split["classes"]

    def listed(*contents):
        return sorted((name, clip) for part in contents for name in part for clip in part[name])

    one, two = stages.stage(split, store, 1), stages.stage(split, store, 2)
    assert one.class_names == tuple(sorted(classes["base1"] + classes["novel1"]))
    assert set(np.array(one.class_names)[one.is_base]) == set(classes["base1"])
    assert named(one.base, one, store) == listed(sets["train1_base"])
    assert [named(m, one, store) for m in one.novel] == [listed(sets["train1_novel"])]
    assert named(one.eval_base, one, store) == listed(sets["val_base"])
    assert [named(m, one, store) for m in one.eval_novel] == [listed(sets["val_novel"])]

    assert two.class_names == tuple(sorted(name for names in classes.values() for name in names))
    assert set(np.array(two.class_names)[~two.is_base]) == set(classes["novel2"])
    assert named(two.base, two, store) == listed(*(sets[key] for key in STAGE_1))
    assert len(two.base.clips) == split["counts"]["train2_base"]
    assert [named(m, two, store) for m in two.novel] == list(map(listed, sets["train2_novel"]))
    assert named(two.eval_base, two, store) == listed(sets["test_base"])
    assert [named(m, two, store) for m in two.eval_novel] == list(map(listed, sets["test_novel"]))
    assert two.base.clips.dtype == np.int64 and two.base.labels.dtype == np.int32
    with pytest.raises(ValueError, match="stages 1 and 2, not 3"):
        stages.stage(split, store, 3)


@pytest.mark.parametrize("number", [1, 2])
def test_order_of_the_store_changes_no_stage(number):
    split = good_split()
    stores = [make_store(by_subject()), make_store(by_subject(), order=3, class_order=4)]
    one, other = (stages.stage(split, store, number) for store in stores)
    assert one.class_names == other.class_names
    for left, right in zip(_members(one), _members(other), strict=True):
        assert named(left, one, stores[0]) == named(right, other, stores[1])


def _members(stage):
    return [stage.base, *stage.novel, stage.eval_base, *stage.eval_novel]


def test_letter_case_of_a_class_does_not_matter_but_another_class_does():
    store, split = make_store(by_subject()), good_split()
    store.class_names = tuple(name.upper() for name in store.class_names)
    assert stages.stage(split, store, 1).class_names[0].islower()
    clip = _first(split["sets"]["train1_base"])[0]
    at = store.clip_ids.tolist().index(clip)
    store.labels[at] = (store.labels[at] + 1) % 8
    with pytest.raises(UserError, match=rf"clip '{clip}' is of class 'CLASS \d' in store 'made_u"):
        stages.stage(split, store, 1)


def test_a_store_that_lacks_clips_is_refused():
    split = good_split()
    gone = sorted(ids(split["sets"]["val_base"]))[:5]
    store = make_store([clip for clip in by_subject() if clip[0] not in gone])
    total = split["counts"]["val_base"]
    examples = ", ".join(gone[:3])
    with pytest.raises(UserError, match=rf"'made_up' lacks 5 of {total} clips .*\({examples}, .."):
        stages.stage(split, store, 1)


def test_shuffled_labels_are_a_permutation():
    members = stages.stage(good_split(), make_store(by_subject()), 1).base
    control = stages.shuffled(members, 0)
    np.testing.assert_array_equal(control.clips, members.clips)
    assert control.labels.dtype == np.int32
    assert Counter(control.labels.tolist()) == Counter(members.labels.tolist())
    assert np.mean(control.labels == members.labels) < 0.5  # 4 classes: 1 in 4 by chance
    np.testing.assert_array_equal(stages.shuffled(members, 0).labels, control.labels)
    assert (stages.shuffled(members, 1).labels != control.labels).any()
