"""Own data into splits: held out by group, shares by clip, requests that do not fit."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from avdiff_jax.data.splits import split_file, stages
from avdiff_jax.data.splits.from_store import make_split
from avdiff_jax.errors import UserError
from tests.data.samples import (
    QUARTERS,
    by_subject,
    by_video,
    good_split,
    ids,
    make_store,
    ungrouped,
)


@pytest.mark.parametrize("clips, by", [(by_subject(), "group"), (ungrouped(), "clip")])
def test_seed_decides_and_nothing_else(clips, by):
    made = make_split(make_store(clips), 5, 0, **QUARTERS)
    assert made["by"] == by
    for order in range(3):
        store = make_store(clips, order=order, class_order=order + 10)
        assert make_split(store, 5, 0, **QUARTERS) == made
    other = make_split(make_store(clips), 5, 1, **QUARTERS)
    assert other["classes"] != made["classes"]
    assert other["sets"]["train1_base"] != made["sets"]["train1_base"]


def test_classes_in_no_set_are_named():
    store = make_store(by_subject())
    count = len(store.class_names)
    split = make_split(store, 5, 0, base=0.5, novel1=0.25, novel2=1)
    used = {name for names in split["classes"].values() for name in names}
    left = sorted({*map(str, store.class_names)} - used)
    assert left and split["notes"][0].startswith(
        f"{len(left)} of {count} classes are in no set: {left[0]}")
    assert not any("in no set" in note for note in make_split(store, 5, 0, **QUARTERS)["notes"])


def test_draws_differ_and_fewer_shots_are_the_first_of_more():
    five = good_split()["sets"]["train2_novel"]
    one = make_split(make_store(by_subject()), 1, 0, by="clip", **QUARTERS)
    for left, right in combinations(five, 2):
        assert left != right
    for draw, first in zip(five, one["sets"]["train2_novel"], strict=True):
        assert ids(first) < ids(draw)


@pytest.mark.parametrize("make", [by_subject, by_video])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_evaluated_that_was_trained_on(make, seed):
    store = make_store(make())
    split = make_split(store, 5, seed, **QUARTERS)
    sets = split["sets"]
    group = dict(zip(store.clip_ids.tolist(), store.groups.tolist(), strict=True))

    def groups(*contents):
        return {group[clip] for content in contents for clip in ids(content)}

    train1 = groups(sets["train1_base"], sets["train1_novel"])
    val = groups(sets["val_base"], sets["val_novel"])
    assert train1 and val and not train1 & val
    for draw in range(3):
        train2 = train1 | val | groups(sets["train2_novel"][draw])
        assert not train2 & groups(sets["test_base"], sets["test_novel"][draw])
    assert split["notes"] == []
    # The clips of base classes are all used, in about the shares asked for.
    sizes = [len(ids(sets[key])) for key in ("train1_base", "val_base")]
    test = sum(len(sets["test_base"][name]) for name in split["classes"]["base1"])
    total = sum(name in split["classes"]["base1"] for _, name, _ in make())
    assert sum(sizes) + test == total
    np.testing.assert_allclose(np.array([*sizes, test]) / total, [0.5, 0.25, 0.25], atol=0.08)


def test_shots_of_stage_2_come_from_training_and_validation_groups():
    """Both are trained on in stage 2; with shots from half the groups only, some would be idle."""
    store = make_store(by_subject())
    group = dict(zip(store.clip_ids.tolist(), store.groups.tolist(), strict=True))
    seen = set()
    for seed in range(10):
        sets = make_split(store, 5, seed, **QUARTERS)["sets"]
        val = {group[clip] for clip in ids(sets["val_base"])}
        seen |= {group[clip] in val for draw in sets["train2_novel"] for clip in ids(draw)}
    assert seen == {True, False}


def test_split_by_clip_has_the_shares_of_table_1():
    """32 clips a class: a tenth test, a tenth of the rest validation."""
    split = good_split("clip")
    counts = split["counts"]
    assert counts["classes"] == {"all": 8, "base1": 4, "novel1": 2, "novel2": 2}
    assert counts["test_base"] == 6 * 3
    assert counts["val_base"] == 4 * 3
    assert counts["train1_base"] == 4 * 26
    assert (counts["train1_novel"], counts["val_novel"]) == (2 * 5, 2 * 24)
    assert (counts["train2_novel"], counts["test_novel"]) == (2 * 5, 2 * 27)
    assert all("on both sides" in note for note in split["notes"]) and len(split["notes"]) == 4


@pytest.mark.parametrize("by, sizes", [("clip", [14, 2, 16]), ("group", [12, 4, 16])])
def test_validation_and_test_have_their_own_shares(by, sizes):
    """An eighth of validation, a half of test: by clip of what is not test, by group of all."""
    store = make_store(by_subject())  # 32 clips a class, in 8 groups of 4
    split = make_split(store, 2, 0, by=by, val=0.125, test=0.5, **QUARTERS)
    for name in split["classes"]["base1"]:
        sets = ("train1_base", "val_base", "test_base")
        assert [len(split["sets"][key][name]) for key in sets] == sizes


def test_small_classes_keep_a_clip_in_every_set():
    """A tenth of four clips is none, and yet one is validation and one is test."""
    store = make_store(ungrouped(n_subjects=1, repeats=4))
    counts = make_split(store, 1, 0, **QUARTERS)["counts"]
    assert (counts["train1_base"], counts["val_base"], counts["test_base"]) == (8, 4, 6)
    assert (counts["train1_novel"], counts["val_novel"], counts["test_novel"]) == (2, 4, 6)


def test_clips_without_a_group_are_groups_of_their_own():
    clips = [(c, name, group if i % 2 else "") for i, (c, name, group) in enumerate(by_subject())]
    split = make_split(make_store(clips), 5, 0, **QUARTERS)
    assert split["by"] == "group" and split["notes"] == []
    alone = {clip for clip, _, group in clips if not group}
    for key in ("train1_base", "val_base", "test_base"):
        assert ids(split["sets"][key]) & alone
    blank = make_store([(c, name, "") for c, name, _ in by_subject()])
    assert make_split(blank, 5, 0, **QUARTERS)["by"] == "clip"


@pytest.mark.parametrize(
    "base, novel1, novel2, sizes",
    [
        (4, 2, 1, [4, 2, 1]),
        (0.5, 0.25, 0.25, [4, 2, 2]),
        (0.4, 0.3, 0.3, [3, 3, 2]),
        (0.5, 2, 2, [4, 2, 2]),
        (["class 7", "CLASS 0"], 2, 0.5, [2, 2, 4]),
    ],
)
def test_classes_by_count_fraction_and_list(base, novel1, novel2, sizes):
    store = make_store(ungrouped())
    split = make_split(store, 5, 0, base=base, novel1=novel1, novel2=novel2)
    assert [len(names) for names in split["classes"].values()] == sizes
    if isinstance(base, list):
        assert split["classes"]["base1"] == ["class 0", "class 7"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"base": 7}, "novel1=0.25 asks for 2 classes but 1 of the 8"),
        ({"base": 0}, "base=0 asks for 0 classes"),
        ({"base": 0.8}, "novel1 is 0.25 and the fractions before it sum to 0.8"),
        ({"base": 1.0}, "write a count without a point"),
        ({"base": "class 1"}, "base is the text 'class 1'"),
        ({"base": None}, "base is None"),
        ({"base": True}, "base is True"),
        ({"base": ["class 99"]}, r"base lists class 'class 99' but store 'made_up' has 8 other"),
        ({"base": ["class 1"], "novel1": ["class 1"]}, "'class 1' in base1 and in novel1"),
        ({"base": ["class 1", "class 1"]}, "'class 1' in base1 and in base1"),
        ({"by": "week"}, "by is 'week'"),
        ({"by": "group", "store": make_store(ungrouped())}, "'made_up' has no groups"),
        ({"val": 0.5, "test": 0.5}, "are 0.5 and 0.5 but"),
        ({"val": 0.0}, "are 0.0 and 0.25 but"),
        ({"seed": -1}, "seed is -1"),
        ({"shots": 0}, "shots is 0"),
        ({"shots": 25}, r"\(novel1\) .* keeps at most 24 in its train groups, .* needs 25"),
        ({"shots": 25}, "hold out clips instead of groups with --by clip"),
        ({"by": "clip", "shots": 40}, "has 29 clips of class .* exactly 40 shots"),
        ({"store": make_store(by_subject(n_subjects=2))}, "in 2 groups but needs 3 to be held"),
        ({"store": make_store(ungrouped(n_subjects=1, repeats=2)), "shots": 1}, "no clip of class"),
    ],
)
def test_requests_that_do_not_fit_are_refused(change, message):
    request = {"store": make_store(by_subject()), "shots": 5, "seed": 0, **QUARTERS, **change}
    with pytest.raises(UserError, match=message) as refusal:
        make_split(
            request.pop("store"), request.pop("shots"), request.pop("seed"), **request
        )
    assert "\n" not in str(refusal.value)


def test_a_class_without_clips_is_never_chosen():
    store = make_store(ungrouped())
    store.class_names = (*store.class_names, "class 8")
    split = make_split(store, 5, 0, **QUARTERS)
    assert split["counts"]["classes"]["all"] == 8
    with pytest.raises(UserError, match="'class 8', which has 0 clips"):
        make_split(store, 5, 0, base=4, novel1=2, novel2=["class 8"])


@pytest.mark.parametrize(
    "folder, group, classes", [("utd_mhad", "subject", 27), ("auslan", "session", 95)]
)
@pytest.mark.parametrize("seed", range(3))
def test_real_sets_are_held_out_by_group(shared, folder, group, classes, seed):
    path = shared / "real" / folder / f"{folder}.npz"
    if not path.exists():
        pytest.skip("no shared real data sets")
    with np.load(path, allow_pickle=False) as archive:
        store = SimpleNamespace(
            name=folder,
            clip_ids=archive["sample_id"],
            labels=archive["label"],
            groups=archive[group].astype(str),
            class_names=tuple(archive["class_names"].tolist()),
        )
    split = make_split(store, 5, seed, **QUARTERS)
    assert split["by"] == "group" and split["counts"]["classes"]["all"] == classes
    group_of = dict(zip(store.clip_ids.tolist(), store.groups.tolist(), strict=True))
    stage = stages.stage(split, store, 2)
    trained = np.concatenate([stage.base.clips, *(novel.clips for novel in stage.novel)])
    tested = np.concatenate([stage.eval_base.clips, *(novel.clips for novel in stage.eval_novel)])
    assert not set(store.groups[trained]) & set(store.groups[tested])
    assert split_file.audit(split, group_of) == []


def test_published_split_of_utd_mhad(shared):
    """Ready-made sets go through `finish` too; what they share is reported, not refused."""
    path = shared / "real" / "utd_mhad" / "published.json"
    if not path.exists():
        pytest.skip("no shared real data sets")
    published = json.loads(path.read_text())["split"]
    sets = published["splits"]
    numbered = ("", "_1", "_2")
    split = split_file.finish(
        {
            "train1_base": sets["stage_1_train_base"],
            "train1_novel": sets["stage_1_train_novel"],
            "val_base": sets["stage_1_val_seen"],
            "val_novel": sets["stage_1_val_novel"],
            "train2_novel": [sets[f"stage_2_train_novel{end}"] for end in numbered],
            "test_base": sets["stage_2_test_seen"],
            "test_novel": [sets[f"stage_2_test_novel{end}"] for end in numbered],
        },
        {kind: [cls["name"] for cls in listed] for kind, listed in published["classes"].items()},
        name="utd_mhad",
        shots=5,
        seed=None,
        by="official",
        groups={c: c.split("_")[1] for part in sets.values() for c in ids(part)},
    )
    assert split["counts"]["classes"] == {"all": 27, "base1": 14, "novel1": 7, "novel2": 6}
    assert split["counts"]["test_novel"] == 95
    assert [note.split(":")[0] for note in split["notes"]] == [
        "stage 1",
        "stage 2 draw 0",
        "stage 2 draw 1",
        "stage 2 draw 2",
    ]


def rare(clips, name, count):
    """The clips, but of one class so many only."""
    kept = [clip for clip in clips if clip[1] == name][:count]
    return [clip for clip in clips if clip[1] != name] + kept


NAMED = {"base": ["class 0", "class 1", "class 2", "class 3"], "novel1": ["class 4", "class 5"],
         "novel2": ["class 6", "class 7"]}


@pytest.mark.parametrize("clips", [ungrouped(), by_video()])
def test_a_class_all_of_whose_clips_are_shots(clips):
    """It is trained, and others are measured; unless it is named, it is refused."""
    store = make_store(rare(clips, "class 7", 3))
    split = make_split(store, 3, 0, **NAMED, untested=["class 7"])
    assert split["untested"] == ["class 7"]
    for shots, tested in zip(
            split["sets"]["train2_novel"], split["sets"]["test_novel"], strict=True):
        assert len(shots["class 7"]) == 3 and "class 7" not in tested and tested["class 6"]
    with pytest.raises(UserError, match="class 7"):
        make_split(store, 3, 0, **NAMED)
    with pytest.raises(UserError, match=r"no clip of class 'class 7' in test_novel\[0\]"):
        make_split(store, 3, 0, **NAMED | {"novel2": ["class 7"]}, untested=["class 7"])


def test_untested_classes_are_kept_by_the_file(tmp_path):
    store = make_store(rare(ungrouped(), "class 7", 3))
    split = make_split(store, 3, 0, **NAMED, untested=["class 7"])
    split_file.write(split, tmp_path / "s.json")
    assert split_file.load(tmp_path / "s.json") == split
    del split["untested"]
    split_file.write(split, tmp_path / "t.json")
    with pytest.raises(UserError, match="no clip of class 'class 7' in test_novel"):
        split_file.load(tmp_path / "t.json")


def test_classes_are_listed_as_they_are_spelled():
    """Exactly where two differ in case alone, else in any case."""
    store = make_store(by_subject())
    first, second, *others = sorted(store.class_names)
    store.class_names = tuple(
        first.upper() if name == second else name for name in store.class_names)
    wishes = dict(novel1=others[:2], novel2=others[2:4])
    split = make_split(store, 1, 0, base=[first, first.upper()], **wishes)
    assert split["classes"]["base1"] == sorted([first, first.upper()])
    split = make_split(store, 1, 0, base=[first], **wishes)
    assert split["classes"]["base1"] == [first]
    with pytest.raises(UserError, match=f"{first.title()!r} but .* has .*: spell it as the store"):
        make_split(store, 1, 0, base=[first.title()], **wishes)
    assert make_split(
        store, 1, 0, base=[first], novel1=others[:2], novel2=[n.title() for n in others[2:4]]
    )["classes"]["novel2"] == others[2:4]
