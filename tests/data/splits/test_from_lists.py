"""Table 1 of the paper from the public lists; damaged lists are refused."""

import csv
import json
from itertools import product

import pytest

from avdiff_jax.data.splits import split_file
from avdiff_jax.data.splits.from_lists import make_split, source_video
from avdiff_jax.data.splits.sets import STAGE_1
from avdiff_jax.errors import UserError

TABLE_1 = {"ucf": "UCF", "activitynet": "ActivityNet"}  # key in the paper's tables -> lists folder


@pytest.mark.parametrize("key, folder", TABLE_1.items())
@pytest.mark.parametrize("seed", [0, 7])
def test_table_1_is_the_papers(shared, key, folder, seed):
    paper = json.loads((shared / "paper_tables.json").read_text())["table1_5shot"][key]
    split = make_split(shared / "lists" / folder, shots=5, seed=seed)
    assert split["counts"] == paper
    assert list(split["counts"]) == list(paper)
    numbers = [str(value) for name, value in paper.items() if name != "classes"]
    assert split_file.table(split).splitlines()[1].split()[-len(numbers) :] == numbers
    assert "/".join(map(str, paper["classes"].values())) in split_file.table(split)


@pytest.mark.parametrize("folder", TABLE_1.values())
@pytest.mark.parametrize("shots", [1, 10, 20])
def test_other_shots_only_move_clips(shared, folder, shots):
    five = make_split(shared / "lists" / folder, shots=5, seed=0)["counts"]
    split = make_split(shared / "lists" / folder, shots=shots, seed=0)
    other = split["counts"]
    assert other["train1_novel"] == shots * other["classes"]["novel1"]
    assert other["train2_novel"] == shots * other["classes"]["novel2"]
    for key in ("classes", "train1_base", "val_base", "train2_base", "test_base"):
        assert other[key] == five[key]
    assert other["train2_novel"] + other["test_novel"] == five["train2_novel"] + five["test_novel"]


def test_sets_hold_the_rows_of_the_lists(shared):
    """Clip by clip, read here by nothing but the csv module."""
    split = make_split(shared / "lists" / "UCF", shots=5, seed=0)

    def rows(stem):
        with open(shared / "lists" / "UCF" / f"{stem}.csv", newline="") as file:
            return {(row["filename"], row["label"].lower()) for row in csv.DictReader(file)}

    def pairs(*contents):
        return {(clip, name.lower()) for part in contents for name in part for clip in part[name]}

    sets = split["sets"]
    assert pairs(sets["train1_base"]) == rows("stage_1_train")
    assert pairs(sets["train1_novel"], sets["val_novel"]) == rows("stage_1_val_unseen")
    assert pairs(sets["test_base"]) == rows("stage_2_test_seen")
    assert pairs(*(sets[key] for key in STAGE_1)) == rows("stage_2_train")
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
    assert source_video(clip) == video


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
    split = make_split(write_lists(tmp_path / "VGGSound"), shots=5, seed=0)
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
        (_edit("stage_1_train.txt", "bird, singing", "PEOPLE sneezing"), "'PEOPLE sneezing', whic"),
        (_edit("stage_1_val_seen.txt", "bird, singing", ""), "no clip of class 'bird, singing'"),
        (_edit("stage_2_test_unseen.txt", "playing", "plying"), "0 clips of class 'plying the lu"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, damage, message):
    folder = write_lists(tmp_path / "lists")
    damage(folder)
    with pytest.raises(UserError, match=message):
        make_split(folder, shots=5, seed=0)


@pytest.mark.parametrize("shots, message", [(9, "exactly 9 shots"), (8, "in val_novel"), (0, "0 ")])
def test_more_shots_than_clips(tmp_path, shots, message):
    with pytest.raises(UserError, match=message):
        make_split(write_lists(tmp_path / "lists"), shots=shots, seed=0)
