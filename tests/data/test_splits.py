"""Splits: Table 1 from the public lists, own data held out by group, audits seen to refuse."""

import copy
import csv
import json
import os
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from avdiff_jax.data import splits
from avdiff_jax.errors import UserError

TABLE_1 = {"ucf": "UCF", "activitynet": "ActivityNet"}  # key in the paper's tables -> lists folder


def make_store(clips, name="made_up", order=None, class_order=None):
    """A store of (clip id, class, group) triples, as far as splits look at one.

    Args:
      order, class_order: seeds that shuffle clips and classes; None keeps them as they come.
    """
    names = list(dict.fromkeys(cls for _, cls, _ in clips))
    if class_order is not None:
        names = np.random.default_rng(class_order).permutation(names).tolist()
    if order is not None:
        clips = [clips[at] for at in np.random.default_rng(order).permutation(len(clips))]
    groups = [group for _, _, group in clips]
    return SimpleNamespace(
        name=name,
        clip_ids=np.array([clip for clip, _, _ in clips]),
        labels=np.array([names.index(cls) for _, cls, _ in clips], np.int32),
        groups=None if None in groups else np.array(groups),
        class_names=tuple(names),
    )


def by_subject(n_classes=8, n_subjects=8, repeats=4):
    """Every subject does everything a few times: UTD-MHAD in small."""
    return [
        (f"c{c}_s{s}_r{r}", f"class {c}", f"subject {s}")
        for c, s, r in product(range(n_classes), range(n_subjects), range(repeats))
    ]


def by_video(n_classes=8, n_videos=9, cuts=3):
    """Every video shows one class: UCF101 in small."""
    return [
        (f"v{c}_{v}_{cut}", f"class {c}", f"video {c}_{v}")
        for c, v, cut in product(range(n_classes), range(n_videos), range(cuts))
    ]


def ungrouped(**sizes):
    return [(f"c{c}_s{s}_r{r}", name, None) for (c, s, r), name in _names(**sizes)]


def _names(n_classes=8, n_subjects=8, repeats=4):
    cells = product(range(n_classes), range(n_subjects), range(repeats))
    return [(cell, f"class {cell[0]}") for cell in cells]


QUARTERS = {"base": 0.5, "novel1": 0.25, "novel2": 0.25}


def good_split(by="clip"):
    return splits.from_store(make_store(by_subject()), 5, 0, by=by, **QUARTERS)


def ids(content):
    return {clip for clips in content.values() for clip in clips}


# --- the public lists


@pytest.mark.parametrize("key, folder", TABLE_1.items())
@pytest.mark.parametrize("seed", [0, 7])
def test_table_1_is_the_papers(shared, key, folder, seed):
    paper = json.loads((shared / "paper_tables.json").read_text())["table1_5shot"][key]
    split = splits.from_lists(shared / "lists" / folder, shots=5, seed=seed)
    assert split["counts"] == paper
    assert list(split["counts"]) == list(paper)
    numbers = [str(value) for name, value in paper.items() if name != "classes"]
    assert splits.table(split).splitlines()[1].split()[-len(numbers) :] == numbers
    assert "/".join(map(str, paper["classes"].values())) in splits.table(split)


@pytest.mark.parametrize("folder", TABLE_1.values())
@pytest.mark.parametrize("shots", [1, 10, 20])
def test_other_shots_only_move_clips(shared, folder, shots):
    five = splits.from_lists(shared / "lists" / folder, shots=5, seed=0)["counts"]
    split = splits.from_lists(shared / "lists" / folder, shots=shots, seed=0)
    other = split["counts"]
    assert other["train1_novel"] == shots * other["classes"]["novel1"]
    assert other["train2_novel"] == shots * other["classes"]["novel2"]
    for key in ("classes", "train1_base", "val_base", "train2_base", "test_base"):
        assert other[key] == five[key]
    assert other["train2_novel"] + other["test_novel"] == five["train2_novel"] + five["test_novel"]


def test_sets_hold_the_rows_of_the_lists(shared):
    """Clip by clip, read here by nothing but the csv module."""
    split = splits.from_lists(shared / "lists" / "UCF", shots=5, seed=0)

    def rows(stem):
        with open(shared / "lists" / "UCF" / f"{stem}.csv", newline="") as file:
            return {(row["filename"], row["label"].lower()) for row in csv.DictReader(file)}

    def pairs(*contents):
        return {(clip, name.lower()) for part in contents for name in part for clip in part[name]}

    sets = split["sets"]
    assert pairs(sets["train1_base"]) == rows("stage_1_train")
    assert pairs(sets["train1_novel"], sets["val_novel"]) == rows("stage_1_val_unseen")
    assert pairs(sets["test_base"]) == rows("stage_2_test_seen")
    assert pairs(*(sets[key] for key in splits.STAGE_1)) == rows("stage_2_train")
    novel2 = {name.lower() for name in split["classes"]["novel2"]}
    listed = {row for row in rows("stage_2_test_unseen") if row[1] in novel2}
    for train, test in zip(sets["train2_novel"], sets["test_novel"], strict=True):
        assert pairs(train, test) == listed
    # all_class.txt spells this one otherwise than the lists do, and its spelling is the one kept.
    assert "HandstandPushups" in split["classes"]["base1"]
    assert any("422 clips of 3 classes" in note for note in split["notes"])
    assert sum("groups" in note for note in split["notes"]) == 4


@pytest.mark.parametrize(
    "clip, video",
    [
        ("v_HandStandPushups_g01_c02", "v_HandStandPushups_g01"),
        ("-IkL9Kq9zfQ_0", "-IkL9Kq9zfQ"),
        ("_a_b_c_d_e__12", "_a_b_c_d_e_"),
        ("0a1B2c3D4e5_000030", "0a1B2c3D4e5"),
        ("own clip", "own clip"),
    ],
)
def test_source_video(clip, video):
    assert splits.source_video(clip) == video


def write_lists(folder, clips=8):
    """Lists as those of VGGSound: no all_class.txt, YouTube ids, commas in class names."""
    kinds = {
        "stage_1_train": ["people sneezing", "bird, singing"],
        "stage_1_val_seen": ["People Sneezing", "bird, singing"],
        "stage_1_val_unseen": ["dog barking"],
        "stage_2_test_seen": ["people sneezing", "bird, singing", "Dog Barking"],
        "stage_2_test_unseen": ["playing the lute"],
    }
    folder.mkdir()
    for number, (stem, names) in enumerate(kinds.items()):
        (folder / f"{stem}.txt").write_text("\n".join(names) + "\n")
        # This list holds a class more than its .txt, as the published ones do.
        extra = ["snoring"] if stem == "stage_2_test_unseen" else []
        with open(folder / f"{stem}.csv", "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "label_code", "filename"])
            for name, at in product(names + extra, range(clips)):
                video = f"id{number}_{name[:3].lower()}{at // 2:04d}"
                writer.writerow([name.upper(), 0, f"{video}_{at:06d}"])
    return folder


def test_lists_without_all_class(tmp_path):
    split = splits.from_lists(write_lists(tmp_path / "VGGSound"), shots=5, seed=0)
    assert split["name"] == "VGGSound"
    assert split["by"] == "lists"
    assert split["classes"] == {
        "base1": ["bird, singing", "people sneezing"],  # as first seen, in stage_1_train.txt
        "novel1": ["dog barking"],
        "novel2": ["playing the lute"],
    }
    assert split["counts"] == {
        "classes": {"all": 4, "base1": 2, "novel1": 1, "novel2": 1},
        "train1_base": 16,
        "train1_novel": 5,
        "val_base": 16,
        "val_novel": 3,
        "train2_base": 40,
        "train2_novel": 5,
        "test_base": 24,
        "test_novel": 3,
    }
    assert "holds 8 clips of 1 classes" in split["notes"][0] and "SNORING" in split["notes"][0]
    # Two clips a video and five shots: at least one video is on both sides.
    assert any(note.startswith("stage 2 draw 2") for note in split["notes"])


def _edit(name, old, new):
    def edit(folder):
        path = folder / name
        path.write_text(path.read_text(encoding="utf-8-sig").replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "stage_2_test_seen.csv").unlink(), r"stage_2_test_seen.csv is missing; a"),
        (lambda f: (f / "stage_1_train.txt").unlink(), r"stage_1_train.txt is missing; a"),
        (lambda f: (f / "stage_1_train.txt").write_text("\n\n"), "stage_1_train.txt holds 0 cl"),
        (lambda f: (f / "stage_1_train.csv").write_bytes(b"\xff\xfe"), "csv is not UTF-8 text"),
        (lambda f: (f / "stage_1_train.csv").write_text(""), "the columns none but needs one"),
        (_edit("stage_1_val_unseen.csv", "filename", "file"), "needs one column 'filename'"),
        (_edit("stage_1_val_seen.csv", '"BIRD, SINGING"', "BIRD, SINGING"), "but needs 3 fields"),
        (_edit("stage_1_train.csv", "id0_peo0000_000000", ""), "a clip id in each"),
        (_edit("stage_1_train.csv", '"BIRD, SINGING"', '"BIRD, SINGING'), "not a CSV file"),
        (_edit("stage_1_train.csv", "id0_peo0000_000000", "id0_peo0000_000001"), "twice in train1"),
        (_edit("stage_1_train.csv", "id0_peo0000_000000", "id1_peo0000_000000"), "1 clips in both"),
        (_edit("stage_1_train.txt", "bird, singing", "PEOPLE sneezing"), "'people sneezing' twice"),
        (_edit("stage_1_val_seen.txt", "bird, singing", ""), "no clip of class 'bird, singing'"),
        (_edit("stage_2_test_unseen.txt", "playing", "plying"), "0 clips of class 'plying the lu"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, damage, message):
    folder = write_lists(tmp_path / "lists")
    damage(folder)
    with pytest.raises(UserError, match=message):
        splits.from_lists(folder, shots=5, seed=0)


@pytest.mark.parametrize("shots, message", [(9, "exactly 9 shots"), (8, "in val_novel"), (0, "0 ")])
def test_more_shots_than_clips(tmp_path, shots, message):
    with pytest.raises(UserError, match=message):
        splits.from_lists(write_lists(tmp_path / "lists"), shots=shots, seed=0)


# --- own data


@pytest.mark.parametrize("clips, by", [(by_subject(), "group"), (ungrouped(), "clip")])
def test_seed_decides_and_nothing_else(clips, by):
    made = splits.from_store(make_store(clips), 5, 0, **QUARTERS)
    assert made["by"] == by
    for order in range(3):
        store = make_store(clips, order=order, class_order=order + 10)
        assert splits.from_store(store, 5, 0, **QUARTERS) == made
    other = splits.from_store(make_store(clips), 5, 1, **QUARTERS)
    assert other["classes"] != made["classes"]
    assert other["sets"]["train1_base"] != made["sets"]["train1_base"]


def test_draws_differ_and_fewer_shots_are_the_first_of_more():
    five = good_split()["sets"]["train2_novel"]
    one = splits.from_store(make_store(by_subject()), 1, 0, by="clip", **QUARTERS)
    for left, right in combinations(five, 2):
        assert left != right
    for draw, first in zip(five, one["sets"]["train2_novel"], strict=True):
        assert ids(first) < ids(draw)


@pytest.mark.parametrize("make", [by_subject, by_video])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_evaluated_that_was_trained_on(make, seed):
    store = make_store(make())
    split = splits.from_store(store, 5, seed, **QUARTERS)
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
        sets = splits.from_store(store, 5, seed, **QUARTERS)["sets"]
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


def test_small_classes_keep_a_clip_in_every_set():
    """A tenth of four clips is none, and yet one is validation and one is test."""
    store = make_store(ungrouped(n_subjects=1, repeats=4))
    counts = splits.from_store(store, 1, 0, **QUARTERS)["counts"]
    assert (counts["train1_base"], counts["val_base"], counts["test_base"]) == (8, 4, 6)
    assert (counts["train1_novel"], counts["val_novel"], counts["test_novel"]) == (2, 4, 6)


def test_clips_without_a_group_are_groups_of_their_own():
    clips = [(c, name, group if i % 2 else "") for i, (c, name, group) in enumerate(by_subject())]
    split = splits.from_store(make_store(clips), 5, 0, **QUARTERS)
    assert split["by"] == "group" and split["notes"] == []
    blank = make_store([(c, name, "") for c, name, _ in by_subject()])
    assert splits.from_store(blank, 5, 0, **QUARTERS)["by"] == "clip"


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
    split = splits.from_store(store, 5, 0, base=base, novel1=novel1, novel2=novel2)
    assert [len(names) for names in split["classes"].values()] == sizes
    if isinstance(base, list):
        assert split["classes"]["base1"] == ["class 0", "class 7"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"base": 7}, "novel1 asks for 2 classes but 1 of the 8"),
        ({"base": 0}, "base asks for 0 classes"),
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
        ({"shots": 17}, r"class 'class \d' \(novel1\) keeps 16 clips in its train groups but need"),
        ({"by": "clip", "shots": 40}, "has 29 clips of class .* exactly 40 shots"),
        ({"store": make_store(by_subject(n_subjects=2))}, "in 2 groups but .* needs 3 to be held"),
        ({"store": make_store(ungrouped(n_subjects=1, repeats=2)), "shots": 1}, "no clip of class"),
    ],
)
def test_requests_that_do_not_fit_are_refused(change, message):
    request = {"store": make_store(by_subject()), "shots": 5, "seed": 0, **QUARTERS, **change}
    with pytest.raises(UserError, match=message) as refusal:
        splits.from_store(
            request.pop("store"), request.pop("shots"), request.pop("seed"), **request
        )
    assert "\n" not in str(refusal.value)


def test_a_class_without_clips_is_never_chosen():
    store = make_store(ungrouped())
    store.class_names = (*store.class_names, "class 8")
    split = splits.from_store(store, 5, 0, **QUARTERS)
    assert split["counts"]["classes"]["all"] == 8
    with pytest.raises(UserError, match="'class 8', which has 0 clips"):
        splits.from_store(store, 5, 0, base=4, novel1=2, novel2=["class 8"])


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
    split = splits.from_store(store, 5, seed, **QUARTERS)
    assert split["by"] == "group" and split["counts"]["classes"]["all"] == classes
    group_of = dict(zip(store.clip_ids.tolist(), store.groups.tolist(), strict=True))
    stage = splits.stage(split, store, 2)
    trained = np.concatenate([stage.base.clips, *(novel.clips for novel in stage.novel)])
    tested = np.concatenate([stage.eval_base.clips, *(novel.clips for novel in stage.eval_novel)])
    assert not set(store.groups[trained]) & set(store.groups[tested])
    assert splits.audit(split, group_of) == []


def test_published_split_of_utd_mhad(shared):
    """Ready-made sets go through `finish` too; what they share is reported, not refused."""
    path = shared / "real" / "utd_mhad" / "published.json"
    if not path.exists():
        pytest.skip("no shared real data sets")
    published = json.loads(path.read_text())["split"]
    sets = published["splits"]
    numbered = ("", "_1", "_2")
    split = splits.finish(
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


PAIRS = list(combinations([*splits.SINGLE, "train2_novel[1]", "test_novel[1]"], 2))


@pytest.mark.parametrize("source, target", PAIRS)
def test_a_clip_in_two_sets_is_refused(source, target):
    split = good_split()
    _move(split["sets"], source, target)
    with pytest.raises(UserError, match="1 clips in both") as refusal:
        splits.audit(split, None)
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
        splits.audit(_change(change), None)
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
    report = splits.audit(split, groups)
    assert "one speaker" in report[0] and "on both sides, with 1 of" in report[0]
    with pytest.raises(UserError, match="group 'one speaker' in both") as refusal:
        splits.audit({**split, "by": "group"}, groups)
    assert train in str(refusal.value) and evaluation in str(refusal.value)


def test_groups_are_audited_draw_by_draw():
    """A shot of draw 1 that is a test clip of draw 0, with the speaker of a test clip of both."""
    split = good_split("clip")
    shots, tests = split["sets"]["train2_novel"], split["sets"]["test_novel"]
    shot = min(ids(shots[1]) & ids(tests[0]) & ids(tests[2]))
    test = min(ids(tests[0]) & ids(tests[1]) & ids(tests[2]))
    report = splits.audit(split, {shot: "one speaker", test: "one speaker"})
    assert [line.split(":")[0] for line in report] == ["stage 2 draw 1"]
    # A shot of draw 0 is a test clip of the others, here with the speaker of a training clip.
    shot = min(ids(shots[0]) & ids(tests[1]) & ids(tests[2]))
    train = min(ids(split["sets"]["train1_base"]))
    report = splits.audit(split, {shot: "one speaker", train: "one speaker"})
    assert [line.split(":")[0] for line in report] == ["stage 2 draw 1", "stage 2 draw 2"]


def test_finish_audits():
    split = _change(lambda split, s: s["val_base"].popitem())
    with pytest.raises(UserError, match="no clip of class"):
        splits.finish(split["sets"], split["classes"], name="x", shots=5, seed=0, by="clip")


# --- on disk


def test_a_split_survives_the_disk(tmp_path):
    split = good_split()
    path = tmp_path / "new folder" / "split.json"
    splits.write(split, path)
    assert splits.load(path) == split
    assert os.listdir(path.parent) == ["split.json"]
    text = path.read_bytes()
    splits.write(splits.load(path), path)
    assert path.read_bytes() == text


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "split.json"
    path.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for module, name in ((os, "replace"), (Path, "write_text")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(UserError, match=r"split.json cannot be written: No space left"):
                splits.write(good_split(), path)
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["split.json"]
    with pytest.raises(UserError, match="cannot be written"):
        splits.write(good_split(), path / "below a file.json")


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
        splits.load(path)
    assert "split.json" in str(refusal.value) and "\n" not in str(refusal.value)


def _put(split, field, key, value):
    split = copy.deepcopy(split)
    split[field][key] = value
    return split


def test_files_that_are_no_json_are_refused(tmp_path):
    for name, content in {"cut": b'{"schema": ', "bytes": b"\x89HDF\r\n\x1a\n\xff"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not JSON"):
            splits.load(tmp_path / name)
    with pytest.raises(UserError, match=r"nothing\.json is missing; make it with"):
        splits.load(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        splits.load(tmp_path)


def test_an_edited_file_cannot_leak_clips(tmp_path):
    split = good_split()
    _move(split["sets"], "train2_novel[0]", "test_novel[0]")
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split))
    with pytest.raises(UserError, match=r"split.json: .* in both train2_novel\[0\] and test_nov"):
        splits.load(path)


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

    one, two = splits.stage(split, store, 1), splits.stage(split, store, 2)
    assert one.class_names == tuple(sorted(classes["base1"] + classes["novel1"]))
    assert set(np.array(one.class_names)[one.is_base]) == set(classes["base1"])
    assert named(one.base, one, store) == listed(sets["train1_base"])
    assert [named(m, one, store) for m in one.novel] == [listed(sets["train1_novel"])]
    assert named(one.eval_base, one, store) == listed(sets["val_base"])
    assert [named(m, one, store) for m in one.eval_novel] == [listed(sets["val_novel"])]

    assert two.class_names == tuple(sorted(name for names in classes.values() for name in names))
    assert set(np.array(two.class_names)[~two.is_base]) == set(classes["novel2"])
    assert named(two.base, two, store) == listed(*(sets[key] for key in splits.STAGE_1))
    assert len(two.base.clips) == split["counts"]["train2_base"]
    assert [named(m, two, store) for m in two.novel] == list(map(listed, sets["train2_novel"]))
    assert named(two.eval_base, two, store) == listed(sets["test_base"])
    assert [named(m, two, store) for m in two.eval_novel] == list(map(listed, sets["test_novel"]))
    assert two.base.clips.dtype == np.int64 and two.base.labels.dtype == np.int32
    with pytest.raises(ValueError, match="stages 1 and 2, not 3"):
        splits.stage(split, store, 3)


@pytest.mark.parametrize("number", [1, 2])
def test_order_of_the_store_changes_no_stage(number):
    split = good_split()
    stores = [make_store(by_subject()), make_store(by_subject(), order=3, class_order=4)]
    one, other = (splits.stage(split, store, number) for store in stores)
    assert one.class_names == other.class_names
    for left, right in zip(_members(one), _members(other), strict=True):
        assert named(left, one, stores[0]) == named(right, other, stores[1])


def _members(stage):
    return [stage.base, *stage.novel, stage.eval_base, *stage.eval_novel]


def test_letter_case_of_a_class_does_not_matter_but_another_class_does():
    store, split = make_store(by_subject()), good_split()
    store.class_names = tuple(name.upper() for name in store.class_names)
    assert splits.stage(split, store, 1).class_names[0].islower()
    clip = _first(split["sets"]["train1_base"])[0]
    at = store.clip_ids.tolist().index(clip)
    store.labels[at] = (store.labels[at] + 1) % 8
    with pytest.raises(UserError, match=rf"clip '{clip}' is of class 'CLASS \d' in store 'made_u"):
        splits.stage(split, store, 1)


def test_a_store_that_lacks_clips_is_refused():
    split = good_split()
    gone = sorted(ids(split["sets"]["val_base"]))[:5]
    store = make_store([clip for clip in by_subject() if clip[0] not in gone])
    total = split["counts"]["val_base"]
    examples = ", ".join(gone[:3])
    with pytest.raises(UserError, match=rf"'made_up' lacks 5 of {total} clips .*\({examples}, .."):
        splits.stage(split, store, 1)


def test_shuffled_labels_are_a_permutation():
    members = splits.stage(good_split(), make_store(by_subject()), 1).base
    control = splits.shuffled(members, 0)
    np.testing.assert_array_equal(control.clips, members.clips)
    assert control.labels.dtype == np.int32
    assert Counter(control.labels.tolist()) == Counter(members.labels.tolist())
    assert np.mean(control.labels == members.labels) < 0.5  # 4 classes: 1 in 4 by chance
    np.testing.assert_array_equal(splits.shuffled(members, 0).labels, control.labels)
    assert (splits.shuffled(members, 1).labels != control.labels).any()
