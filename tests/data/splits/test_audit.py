"""Audits are seen to refuse a good split with one thing wrong."""

import json
from itertools import combinations

import pytest

from avdiff_jax.data.splits import split_file
from avdiff_jax.data.splits.sets import SINGLE
from avdiff_jax.errors import UserError
from tests.data.samples import good_split, ids


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
            lambda split, s: split["classes"]["novel1"].append(split["classes"]["base1"][0]),
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


def test_an_edited_file_cannot_leak_clips(tmp_path):
    split = good_split()
    _move(split["sets"], "train2_novel[0]", "test_novel[0]")
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split))
    with pytest.raises(UserError, match=r"split.json: .* in both train2_novel\[0\] and test_nov"):
        split_file.load(path)
