"""The commands that use a finished run, as a user meets them."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from jax import export

from avdiff_jax.data import stream
from avdiff_jax.data.clip_source import of_store
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.splits import from_store, split_file
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.inference import export as exporting
from avdiff_jax.inference import model as models
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture
def refused(run, tmp_path):
    def call(complaint, script, *words):
        before = {*tmp_path.rglob("*")}
        code, _, err = run(script, *words)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and complaint in lines[0], err
        assert {*tmp_path.rglob("*")} == before

    return call


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def ungrouped(clip):
    return clip._replace(group=None)


# --- evaluate


def test_evaluate_gives_what_the_run_measured(run, finished, tmp_path):
    workdir, results, *_ = finished
    code, out, err = run("evaluate", "--model", workdir, "--out", "e")
    assert code == 0, err
    again = json.loads((tmp_path / "e" / "results.json").read_text())
    assert again["test"] == json.loads((workdir / "results.json").read_text())["test"]
    assert f"{results['test']['mean']['HM']:.2f}" in out
    for draw in range(3):  # to rounding: clips are in other batches
        with np.load(workdir / f"scores-draw{draw}.npz") as a, np.load(
                tmp_path / "e" / f"scores-draw{draw}.npz") as b:
            one, two = dict(a), dict(b)
            np.testing.assert_allclose(one.pop("scores"), two.pop("scores"), atol=1e-6)
            tiny.same(one, two)
    for path in (tmp_path / "e").rglob("*.csv"):
        if path.name.startswith(("classes", "confusion")):
            assert path.read_text() == (workdir / path.name).read_text(), path.name
    ours = {p.name for p in (tmp_path / "e" / "plots").iterdir()}
    theirs = {p.name for p in (workdir / "plots").iterdir() if "features" not in p.name}
    assert ours == theirs and "reliability-draw2.png" in ours


def test_centered_groups(run, finished, tmp_path):
    """Told as transductive, and what it looks at is no label."""
    workdir, results, *_ = finished
    code, out, err = run("evaluate", "--model", workdir, "--out", "e", "--center-groups")
    assert code == 0, err
    assert "Transductive: the unlabelled test clips" in out
    again = json.loads((tmp_path / "e" / "results.json").read_text())
    assert again["transductive"] == "center_groups" and "transductive" not in results
    with np.load(workdir / "scores-draw1.npz") as a, np.load(tmp_path / "e/scores-draw1.npz") as b:
        assert np.abs(a["scores"] - b["scores"]).max() > 1e-4
        store = open_store(tiny.world()[0])
        where = {clip: i for i, clip in enumerate(store.clip_ids.tolist())}
        groups = store.groups[[where[clip] for clip in a["clips"].tolist()]]
        for group in set(groups):  # all clips of a group alike
            moved = (b["scores"] - a["scores"])[groups == group]
            np.testing.assert_allclose(moved, moved[:1].repeat(len(moved), 0), atol=1e-6)
    words = ["--model", models.model_file(workdir, 1), "--store", store.path, "--top", 12]
    for name, more in (("p.csv", []), ("q.csv", ["--center-groups"])):
        code, _, err = run("predict", *words, *more, "--out", name)
        assert code == 0, err
    p, q = read(tmp_path / "p.csv"), read(tmp_path / "q.csv")
    assert [row[0] for row in p] == [row[0] for row in q] and p != q


def test_tables(finished):
    """By hand, from the scores."""
    workdir, results, *_ = finished
    gamma = results["chosen"]["gamma"]["value"]
    with np.load(workdir / "scores-draw0.npz") as file:
        scores, labels, is_base = file["scores"], file["labels"], file["is_base"]
        names = file["classes"].tolist()
    predicted = (scores - gamma * is_base[None]).argmax(1)
    head, *rows = read(workdir / "classes-draw0.csv")
    assert head == ["class", "kind", "clips", "accuracy", "taken_for", "times"]
    for label, (name, kind, clips, accuracy, taken_for, times) in enumerate(rows):
        mine = predicted[labels == label]
        assert name == names[label] and kind == ("base" if is_base[label] else "novel")
        assert int(clips) == len(mine)
        np.testing.assert_allclose(float(accuracy), 100 * np.mean(mine == label), rtol=1e-5)
        wrong = mine[mine != label]
        assert int(times) == (np.sum(wrong == names.index(taken_for)) if wrong.size else 0)
        assert not wrong.size or int(times) == np.bincount(wrong).max()
    trust = np.array(read(workdir / "reliability-draw0.csv")[1:], float)
    assert trust[:, 2].sum() == len(labels)
    np.testing.assert_allclose(
        trust[:, 1] @ trust[:, 2] / len(labels), 100 * np.mean(predicted == labels), rtol=1e-4)
    curve = np.array(read(workdir / "curve-draw0.csv")[1:], float)
    assert (np.diff(curve[:, 0]) > 0).all() and (np.diff(curve[:, 1]) <= 0).all()
    confusion = np.array([row[1:] for row in read(workdir / "confusion.csv")[1:]], int)
    assert confusion.sum() == sum(
        len(np.load(workdir / f"scores-draw{d}.npz")["labels"]) for d in range(3))


def test_evaluate_on_another_store(run, refused, finished, tmp_path):
    """All clips that were not trained on, in whatever order the store has clips and classes."""
    workdir = finished[0]
    store = open_store(tiny.world()[0])
    rng = np.random.default_rng(0)
    other = tiny.rewritten(
        store, tmp_path / "other.h5", rng.permutation(len(store)),
        rng.permutation(len(store.class_names)), change=ungrouped,
    )
    code, out, err = run("evaluate", "--model", models.model_file(workdir, 1), "--store",
                         "other.h5", "--out", "e")
    assert code == 0, err
    with np.load(workdir / "scores-draw1.npz") as a, np.load(tmp_path / "e/scores-draw1.npz") as b:
        ours = dict(zip(b["clips"].tolist(), b["scores"], strict=True))
        assert {*ours} == {*other.clip_ids} - {*models.load(workdir, 1).examples.clips}
        theirs = dict(zip(a["clips"].tolist(), a["scores"], strict=True))
        assert {*theirs} <= {*ours}
        for clip, scores in theirs.items():
            np.testing.assert_allclose(ours[clip], scores, atol=1e-6)
    code, out, _ = run("evaluate", "--model", workdir, "--draw", 1, "--gamma", 0.25, "--store",
                       tiny.world()[0], "--split", tiny.world()[1], "--out", "f")
    assert code == 0 and "gamma = 0.25" in out and out.count("draw ") == 1
    model = models.model_file(workdir, 0)
    refused("name the test clips with --clips, --store, --npz or --manifest too", "evaluate",
            "--model", model, "--out", "g")
    for draw in (-1, 3):
        refused("the split 'synthetic' has the draws 0..2", "evaluate", "--model", model, "--draw",
                draw, "--store", "other.h5", "--split", tiny.world()[1], "--out", "g")
    refused("does not exist: name the workdir of a run that has finished", "evaluate", "--model",
            tmp_path, "--out", "g")
    loaded = models.load(model)
    novel = [n for n, k in zip(loaded.info.classes, loaded.kinds, strict=True) if k == "novel"]
    keep = np.array([i for i, name in enumerate(store.class_names) if name not in novel])
    order = np.flatnonzero(np.isin(store.labels, keep))
    tiny.rewritten(store, tmp_path / "base.h5", order, keep)
    refused("there is no test clip in base.h5", "evaluate", "--model", model, "--store", "base.h5",
            "--out", "g")
    tiny.rewritten(store, tmp_path / "base.h5", order, keep, change=ungrouped)
    code, out, err = run("evaluate", "--model", model, "--store", "base.h5", "--out", "g")
    assert code == 0, err
    assert "No test clip is of a novel class: N, HM, FSL, AUSUC not measured." in out


def test_evaluate_of_a_run_wants_its_own_data(run, refused, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "w", ignore=shutil.ignore_patterns("checkpoints"))
    record = json.loads((tmp_path / "w" / "data.json").read_text())
    record["store"]["fingerprint"] = "of before"
    (tmp_path / "w" / "data.json").write_text(json.dumps(record))
    refused("tiny.h5 holds other data than when the run in w began (then of before, now",
            "evaluate", "--model", "w", "--out", "e")


# --- which clips count


@pytest.mark.slow
def test_clips_are_told_by_what_they_hold(run, finished, tmp_path):
    """Ids are made up anew, and some of them are those of training clips."""
    model, store = models.load(finished[0]), open_store(tiny.world()[0])
    turned = dict(zip(store.clip_ids, np.roll(store.clip_ids, 1), strict=True))
    tiny.rewritten(
        store, tmp_path / "turned.h5", change=lambda clip: clip._replace(
            clip_id=str(turned[clip.clip_id]), group=None),
    )
    code, _, err = run("evaluate", "--model", models.model_file(finished[0], 0), "--store",
                       "turned.h5", "--out", "e")
    assert code == 0, err
    new = {*store.clip_ids} - {*model.examples.clips}
    with np.load(tmp_path / "e" / "scores-draw0.npz") as file:
        assert {*file["clips"]} == {turned[clip] for clip in new}
    count = len(store) - len(new)
    assert f"{count} of {len(store)} clips of turned.h5 are left out: {count} hold what a " \
           "training clip of the model holds" in err


@pytest.mark.slow
def test_another_split_than_that_of_the_model(run, finished, tmp_path):
    """What it was trained on is left out, and the results name the split that was measured."""
    store, model = open_store(tiny.world()[0]), models.load(finished[0])
    ungrouped = tiny.rewritten(
        store, tmp_path / "ungrouped.h5", change=lambda clip: clip._replace(group=None))
    split = from_store.make_split(
        ungrouped, tiny.SHOTS, 5, base=6, novel1=3, novel2=3, by="clip", name="other")
    split_file.write(split, tmp_path / "other.json")
    words = ["--store", "ungrouped.h5", "--out"]
    code, _, err = run("evaluate", "--model", finished[0], "--draw", 0, "--split", "other.json",
                       *words, "e")
    assert code == 0 and "hold what a training clip of the model holds" in err, err
    with np.load(tmp_path / "e" / "scores-draw0.npz") as file:
        assert not {*file["clips"]} & {*model.examples.clips}
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["data"]["split"]["name"] == "other" and results["data"]["split"]["seed"] == 5
    assert results["config"]["data"]["split"] == "other.json"
    # Its own split with the shots of another draw, too, has clips that it was trained on.
    code, _, err = run("evaluate", "--model", models.model_file(finished[0], 0), "--draw", 1,
                       "--split", tiny.world()[1], *words, "f")
    assert code == 0 and re.search(r"left out: [1-6] hold what a training clip", err), err


def test_its_own_split_says_what_a_model_is_tested_on(run, finished, tmp_path):
    """Clips of a group that it was trained on too, as the public lists have them; a model file
    knows its draw."""
    code, _, err = run("evaluate", "--model", models.model_file(finished[0], 2), "--split",
                       tiny.world()[1], "--store", tiny.world()[0], "--out", "g")
    assert code == 0 and "left out" not in err, err
    measured = json.loads((tmp_path / "g" / "results.json").read_text())["test"]["draws"][0]
    assert measured == finished[1]["test"]["draws"][2]
    assert (tmp_path / "g" / "scores-draw2.npz").exists()


@pytest.mark.slow
def test_groups_that_were_trained_on_are_left_out(run, finished, mixed, tmp_path):
    """By `evaluate` and by `add_class`, of which the shots have groups too."""
    clip_of = dict(enumerate(open_store(tmp_path / "mixed.h5").clip_ids))
    group_of = {str(clip): f"g{i % 60}" for i, clip in clip_of.items()}
    grouped = tiny.rewritten(
        open_store(tmp_path / "mixed.h5"), tmp_path / "grouped.h5",
        change=lambda clip: clip._replace(group=group_of[clip.clip_id]))
    words = ["--store", "grouped.h5", "--out"]
    code, out, err = run("add_class", "--model", finished[0], *words, "b.npz", "--shots", 1)
    assert code == 0 and "are of a group that it was trained on" in err, err
    held_out = {line[:40].strip(): int(line[40:].split()[0]) for line in out.splitlines()[2:]}
    before, bigger = models.load(finished[0]), models.load("b.npz")
    shots = {*bigger.examples.clips} - {*before.examples.clips}
    assert {*bigger.trained_on.groups} == {*before.trained_on.groups} | {
        group_of[clip] for clip in shots}
    code, _, err = run("evaluate", "--model", "b.npz", *words, "e")
    assert code == 0 and "are of a group that it was trained on" in err, err
    with np.load(tmp_path / "e" / "scores-draw0.npz") as file:
        clips = {*file["clips"]}
    assert clips == {
        clip for clip in grouped.clip_ids
        if clip not in bigger.examples.clips and group_of[clip] not in bigger.trained_on.groups}
    assert held_out["new classes, against all"] == sum(
        name in mixed and clip in clips
        for clip, name in zip(grouped.clip_ids, of_store(grouped).names(), strict=True))


# --- predict


@pytest.fixture
def sources(tmp_path):
    """The tiny store's clips as a store, as an npz and as a manifest of .npy files."""
    store = open_store(tiny.world()[0])
    arrays = {"ids": store.clip_ids}
    for name in ("audio", "video"):
        part = getattr(store, name)
        arrays |= {f"{name}_flat": np.asarray(part.values), f"{name}_offsets": part.offsets}
    np.savez(tmp_path / "clips.npz", **arrays)
    lines = ["clip_id,video,remark,audio"]
    for i, clip in enumerate(of_store(store)):
        for name in ("audio", "video"):
            np.save(tmp_path / f"{i}-{name}.npy", getattr(clip, name))
        lines.append(f"{clip.clip_id},{i}-video.npy,,{i}-audio.npy")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    return {
        "store": ["--store", tiny.world()[0]], "manifest": ["--manifest", "clips.csv"],
        "npz": ["--npz", "clips.npz", "--audio-key", "audio", "--video-key", "video",
                "--id-key", "ids"],
    }


def test_predict_from_every_source(run, finished, sources, tmp_path):
    workdir = finished[0]
    for name, words in sources.items():
        out_words = ["--top", 3, "--out", f"{name}.csv"]
        code, out, err = run("predict", "--model", workdir, *words, *out_words)
        assert code == 0, err
        assert "168 clips in" in out and "clips per second on 8 x cpu" in out
    head, *rows = read(tmp_path / "store.csv")
    assert head == ["clip_id", "kind", "class1", "probability1", "class2", "probability2",
                    "class3", "probability3"]
    assert rows == read(tmp_path / "npz.csv")[1:] == read(tmp_path / "manifest.csv")[1:]
    model, store = models.load(workdir), open_store(tiny.world()[0])
    assert [row[0] for row in rows] == store.clip_ids.tolist()
    clips = list(of_store(store))
    names, p = model.predict([c.audio for c in clips], [c.video for c in clips], 3)
    assert [row[2::2] for row in rows] == names.tolist()
    np.testing.assert_allclose(np.array([row[3::2] for row in rows], float), p, atol=6e-5)
    kinds = dict(zip(model.info.classes, model.kinds, strict=True))
    assert all(row[1] == kinds[row[2]] for row in rows)


def test_predict_leaves_nothing_half_written(refused, finished, sources, tmp_path):
    workdir = finished[0]
    (tmp_path / "7-audio.npy").unlink()
    words = ["predict", "--model", workdir, "--out", "out.csv"]
    refused("7-audio.npy cannot be read", *words, "--manifest", "clips.csv")
    np.save(tmp_path / "7-audio.npy", np.full((3, 8), np.inf))
    refused("NaN or infinite audio", *words, "--manifest", "clips.csv")
    (tmp_path / "bad.csv").write_text("clip,audio\n")
    refused("has the header 'clip,audio'", *words, "--manifest", "bad.csv")
    (tmp_path / "bad.csv").write_text("clip_id,audio,video\na,b\n")
    refused("line 2, has 2 cells", *words, "--manifest", "bad.csv")
    refused("--top=13 must lie in 1..12", *words, "--store", tiny.world()[0], "--top", 13)
    refused("mean nothing without --npz", *words, "--store", tiny.world()[0], "--id-key", "x")
    refused("has no array 'x_offsets'", *words, "--npz", "clips.npz", "--audio-key", "x")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    refused("has neither audio_flat and audio_offsets", *words, "--npz", "other.npz")
    refused("one of the arguments --clips --store --npz --manifest is required", *words)
    refused("unrecognized arguments: --tops=3", *words, "--store", "s", "--tops=3")


def test_predict_streams(finished, monkeypatch):
    """Clips are asked for piece by piece: of an endless stream, a few pieces ahead."""
    model = models.load(finished[0])
    monkeypatch.setattr(stream, "PIECE_BATCHES", 1)
    asked = []

    def endless():
        clip = next(iter(known))
        while True:
            asked.append(1)
            yield clip

    known = of_store(open_store(tiny.world()[0]))
    found = model.scored(dataclasses.replace(known, read=lambda rows: endless()))
    for _ in range(4):
        next(found)
    batch = model.info.config.eval.batch
    assert 4 * batch <= len(asked) <= 6 * batch


# --- clips that are not like those of training


@pytest.mark.slow
def test_another_rate(run, refused, finished, mixed, tmp_path):
    """Refused by all commands, or resampled where that is asked for, which is said."""
    model, store = models.model_file(finished[0], 0), open_store(tiny.world()[0])

    def fine(clip):
        audio, video = (np.repeat(part, 4, 0) for part in (clip.audio, clip.video))
        return clip._replace(audio=audio, video=video, group=None)

    tiny.rewritten(store, tmp_path / "fine.h5", change=fine, rate=4)
    tiny.rewritten(open_store(tmp_path / "mixed.h5"), tmp_path / "new.h5", change=fine, rate=4)
    commands = {
        "predict": ["--store", "fine.h5", "--out", "fine.csv"],
        "evaluate": ["--store", "fine.h5", "--out", "e"],
        "add_class": ["--store", "new.h5", "--shots", 2, "--out", "b.npz"],
    }
    for command, words in commands.items():
        refused("has 0.24 s per audio token where the model was trained on 0.96 s", command,
                "--model", model, *words)
        code, _, err = run(command, "--model", model, *words, "--match-rate")
        said = "audio tokens of 0.24 s are resampled to the model's 0.96 s"
        assert code == 0 and said in err, err
        assert ("cannot be told by what they hold" in err) == (command != "predict")
    assert run("predict", "--model", model, "--store", store.path, "--out", "c.csv")[0] == 0
    assert read("fine.csv") == read("c.csv")


def test_the_rate_of_arrays_is_what_the_flags_say(run, refused, finished, sources):
    words = ["predict", "--model", finished[0], "--out", "out.csv"]
    for name in ("npz", "manifest"):
        refused("has 0.5 s per video token where the model was trained on", *words, *sources[name],
                "--video-seconds", 0.5)
        refused("has 0.0 seconds per audio token, which must be", *words, *sources[name],
                "--audio-seconds", 0)
    refused("mean nothing with --store", *words, *sources["store"], "--audio-seconds", 1)


@pytest.mark.slow
def test_another_scale(run, refused, finished, mixed, tmp_path):
    """Refused by all commands, or accepted where that is asked for."""
    model, store = models.model_file(finished[0], 0), open_store(tiny.world()[0])

    def raw(clip):
        return clip._replace(audio=clip.audio / np.float32(255), group=None)

    tiny.rewritten(store, tmp_path / "raw.h5", change=raw)
    tiny.rewritten(open_store(tmp_path / "mixed.h5"), tmp_path / "new.h5", change=raw)
    for command, words in {
        "predict": ["--store", "raw.h5", "--out", "raw.csv"],
        "evaluate": ["--store", "raw.h5", "--out", "e"],
        "add_class": ["--store", "new.h5", "--shots", 2, "--out", "b.npz"],
    }.items():
        refused("where the model was trained on 0 to 255", command, "--model", model, *words)
        code, _, err = run(command, "--model", model, *words, "--accept-values")
        assert code == 0 and ".h5 has audio values of 0 to 1 " in err, err


@pytest.mark.slow
def test_labelled_clips_from_every_source(run, refused, finished, sources, tmp_path):
    """`evaluate` gives the same numbers for a store, for arrays and for a manifest."""
    store = open_store(tiny.world()[0])
    names = np.array(store.class_names)[store.labels]
    with np.load("clips.npz") as file:
        np.savez("labelled.npz", **file, names=names)
    head, *lines = (tmp_path / "clips.csv").read_text().splitlines()
    rows = [f"{line},{name}" for line, name in zip(lines, names, strict=True)]
    (tmp_path / "labelled.csv").write_text("\n".join([head + ",class", *rows]))
    words = {
        "store": sources["store"], "manifest": ["--manifest", "labelled.csv"],
        "npz": ["--npz", "labelled.npz", *sources["npz"][2:], "--label-key", "names"],
    }
    tests = {}
    for name, source in words.items():
        code, _, err = run("evaluate", "--model", finished[0], "--split", tiny.world()[1],
                           *source, "--out", name)
        assert code == 0, err
        tests[name] = json.loads((tmp_path / name / "results.json").read_text())["test"]
    assert tests["store"] == tests["npz"] == tests["manifest"]
    refused("does not say of which class its clips are", "evaluate", "--model", finished[0],
            *sources["manifest"], "--out", "e")


# --- add_class


@pytest.fixture
def mixed(tmp_path):
    """The tiny store with two of its novel classes under other names, and a split of it."""
    store, split = open_store(tiny.world()[0]), json.loads(tiny.world()[1].read_text())
    new = {name: f"new {name}" for name in split["classes"]["novel2"][:2]}
    clips = [
        Clip(clip.clip_id, new.get(name, name), None, clip.audio, clip.video)
        for clip, name in zip(
            of_store(store), np.array(store.class_names)[store.labels], strict=True)
    ]
    write_store(
        tmp_path / "mixed.h5", name="mixed", clips=clips, provenance={},
        class_names=[new.get(name, name) for name in store.class_names],
        class_text=store.class_text, audio_seconds=store.audio.seconds,
        video_seconds=store.video.seconds,
    )
    text = tiny.world()[1].read_text()
    for name, other in new.items():
        text = text.replace(json.dumps(name), json.dumps(other))
    (tmp_path / "mixed.json").write_text(text)
    return [*new.values()]


@pytest.mark.slow
def test_add_class(run, refused, finished, mixed, tmp_path):
    workdir = finished[0]
    words = ["add_class", "--model", workdir, "--store", "mixed.h5", "--out", "b.npz"]
    refused("means nothing with --split", *words, "--split", "mixed.json", "--shots", 3)
    refused("'nobody', but mixed.h5 has no clip of it", *words, "--classes", f"{mixed[0]},nobody")
    (tmp_path / "names.txt").write_text(f"{mixed[1]}\nnobody at all, or one\n")
    for flags in (["--classes", "names.txt"],
                  ["--classes", mixed[0], "--classes", "nobody at all, or one"]):
        refused("but mixed.h5 has no clip of it", *words, *flags)
    refused("shots is 0 but", *words, "--shots", 0)
    refused("knows all 12 classes", "add_class", "--model", workdir, "--store", tiny.world()[0],
            "--out", "b.npz")
    refused("is none of the novel classes of", *words, "--split", tiny.world()[1])
    refused("does not end in .npz", *words[:-1], "b")

    code, out, err = run(*words, "--split", "mixed.json", "--draw", 1)
    assert code == 0, err
    assert "added 2 to 12 classes, from 4 clips in" in out
    split = json.loads((tmp_path / "mixed.json").read_text())
    model = models.load("b.npz")
    assert model.info.classes[12:] == tuple(mixed) and model.kinds[12:] == ("added",) * 2
    shots = {c for name in mixed for c in split["sets"]["train2_novel"][1][name]}
    assert {*model.examples.clips} - {*models.load(workdir, 1).examples.clips} <= shots
    tested = sum(map(len, split["sets"]["test_base"].values()))
    held_out = sum(len(split["sets"]["test_novel"][1][name]) for name in mixed)
    lines = {line[:40].strip(): line[40:].split() for line in out.splitlines()[2:]}
    assert lines["B: base classes, against all"][0] == str(tested)
    assert lines["new classes, against all"][0] == str(held_out)

    code, out, err = run(*words, "--classes", mixed[1], "--shots", 3, "--seed", 4, "--no-text",
                         "--overwrite")
    assert code == 0 and "added 1 to 12 classes, from 3 clips" in out, err
    assert f"new classes, against all{'':16s}     11" in out  # 14 - 3
    code, out, err = run("predict", "--model", "b.npz", "--store", "mixed.h5", "--out", "c.csv")
    assert code == 0 and {row[1] for row in read("c.csv")[1:]} <= {"base", "novel", "added"}
    code, out, err = run("evaluate", "--model", "b.npz", "--store", "mixed.h5", "--out", "e")
    assert code == 2 and f"does not know {mixed[0]!r}" in err

    keep_class("mixed.h5", mixed[1], "only.h5")
    code, out, err = run("evaluate", "--model", "b.npz", "--store", "only.h5", "--out", "e")
    assert code == 0, err
    assert "No test clip is of a base class: B, HM, AUSUC not measured." in out
    told = json.loads((tmp_path / "e" / "results.json").read_text())["test"]
    rows = {row[0]: row for row in read("e/classes-draw0.csv")}
    assert told["draws"][0]["N"] == told["mean"]["N"] == pytest.approx(
        float(rows[mixed[1]][3]), abs=1e-4) and rows[mixed[1]][2] == "11"
    assert told["mean"]["FSL"] >= told["mean"]["N"] and {*told["mean"]} == {"N", "FSL"}
    assert not [*(tmp_path / "e").rglob("*curve*")]


def keep_class(path, name, target):
    """Writes the clips of one class of a store into another."""
    store = open_store(path)
    number = [*store.class_names].index(name)
    tiny.rewritten(store, target, np.flatnonzero(store.labels == number), np.array([number]))


@pytest.mark.parametrize("script, words", [
    ("evaluate", ["--gamma", "nan"]), ("evaluate", ["--gamma", "x"]),
    ("evaluate", ["--gamma", "inf"]), ("add_class", ["--seed", "-1"]),
    ("add_class", ["--seed", "1e3"]), ("add_class", ["--seed", "nan"]),
    ("add_class", ["--seed", str(2**32)]), ("predict", ["--audio-seconds", "inf"]),
])
def test_numbers_that_are_none(refused, script, words, finished):
    flag, value = words
    refused(f"argument {flag}: {value!r} must be a ", script, "--model", finished[0], "--store",
            tiny.world()[0], "--out", "o.npz", f"{flag}={value}")


@pytest.mark.slow
def test_names_that_differ_in_case_alone(run, finished, mixed, tmp_path):
    """A class of the run and one that is added: each clip counts as what it is."""
    store = open_store(tmp_path / "mixed.h5")
    model = models.load(finished[0])
    known = next(name for name in model.info.classes if name in store.class_names)
    names = [known.upper() if name == mixed[0] else name for name in store.class_names]
    clips = [
        Clip(clip.clip_id, names[label], None, clip.audio, clip.video)
        for clip, label in zip(of_store(store), store.labels, strict=True)
        if store.class_names[label] != mixed[1]
    ]
    names.remove(mixed[1])
    write_store(
        tmp_path / "case.h5", name="case", clips=clips, provenance={}, class_names=names,
        class_text=store.class_text[:-1], audio_seconds=store.audio.seconds,
        video_seconds=store.video.seconds)
    words = ["--store", "case.h5", "--out"]
    code, _, err = run("evaluate", "--model", finished[0], "--draw", 0, *words, "e")
    assert code == 2 and f"does not know {known.upper()!r}" in err
    code, _, err = run("add_class", "--model", finished[0], "--shots", 2, *words, "b.npz")
    assert code == 0 and f"{known.upper()!r} is added beside {known!r}" in err, err
    code, _, err = run("evaluate", "--model", "b.npz", *words, "e")
    assert code == 0, err
    of_clip = dict(zip(open_store("case.h5").clip_ids, (c.class_name for c in clips), strict=True))
    with np.load(tmp_path / "e" / "scores-draw0.npz") as file:
        counted = file["classes"][file["labels"]].tolist()
        assert counted == [of_clip[clip] for clip in file["clips"]]
    assert {known, known.upper()} <= {*counted}


# --- export


def test_exported_function(run, refused, finished, tmp_path):
    """Any number of clips, whatever is in the padding, the same scores."""
    pytest.importorskip("flatbuffers", reason="jax.export writes files by it")
    workdir = finished[0]
    code, out, err = run("export", "--model", workdir, "--draw", 2, "--audio-tokens", 9, "--out",
                         "f.stablehlo")
    assert code == 0, err
    assert "of up to 9 audio and 9 video tokens, any number of clips, on cpu and cuda" in out
    function = export.deserialize(bytearray((tmp_path / "f.stablehlo").read_bytes()))
    assert function.platforms == ("cpu", "cuda")
    model, clips = models.load(workdir, 2), list(of_store(open_store(tiny.world()[0])))
    rng = np.random.default_rng(0)
    for some in (clips[:1], clips[40:47]):
        arrays, counts = [], []
        for name, most in (("audio", 9), ("video", 9)):
            rows = [np.asarray(getattr(clip, name), np.float32)[:most] for clip in some]
            padded = rng.random((len(some), most, rows[0].shape[1]), np.float32)
            for place, row in zip(padded, rows, strict=True):
                place[: len(row)] = row
            arrays.append(padded)
            counts.append(np.array([len(row) for row in rows], np.int32))
        scores = function.call(*arrays, *counts)
        cut = [[row[:n] for row, n in zip(*pair, strict=True)] for pair in zip(
            arrays, counts, strict=True)]
        np.testing.assert_allclose(scores, model.scores(*cut), atol=1e-6)
    refused("tokens mean nothing for parameters", "export", "--model", workdir, "--out", "p.npz",
            "--audio-tokens", 3)


def test_without_flatbuffers(refused, finished, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(exporting, "scoring_function", lambda *args: None)
    refused("f.stablehlo needs flatbuffers, which is not installed: pip install flatbuffers",
            "export", "--model", finished[0], "--out", "f.stablehlo")


def test_exported_parameters(run, refused, finished, mixed, tmp_path):
    workdir = finished[0]
    code, out, err = run("export", "--model", workdir, "--out", "p.npz")
    assert code == 0 and "12 classes" in out, err
    small, model = models.load("p.npz"), models.load(workdir)
    tiny.same(small.vars, model.vars)
    assert small.examples is None
    tiny.same(small.trained_on, model.trained_on)
    assert (tmp_path / "p.npz").stat().st_size < models.model_file(workdir, 0).stat().st_size
    refused("holds parameters alone", "add_class", "--model", "p.npz", "--store", "mixed.h5",
            "--out", "b.npz")
