"""Video files and feature files for a trained model: the commands, and the same from Python."""

import csv
import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("av")

from avdiff_jax.data import clip_source
from avdiff_jax.data.importers import text_encoders
from avdiff_jax.data.origin import Origin
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import Note, UserError
from avdiff_jax.extract import encoders
from avdiff_jax.fitting.fit import fit
from avdiff_jax.inference import extracted
from avdiff_jax.inference.model import load, model_file
from launch import add_class
from tests import tiny
from tests.extract import test_run as quick
from tests.extract.clips import write_clip

# Class -> pitch, which the encoder of sound hears no more of than its level, and seconds.
CLASSES = {"a": 1.1, "b": 1.7, "c": 2.3, "d": 2.9}


def write_clips(folder, count, first=0):
    """Clips of classes that differ in length."""
    for name, seconds in CLASSES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            write_clip(folder / name / f"{number}.avi", seconds + number / 25)
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick_encoders():
    """Encoders that cost nothing, and no class text."""
    with pytest.MonkeyPatch.context() as patch, tiny.small_programs():
        patch.setattr(text_encoders, "PACKAGE", "not_there")
        patch.setattr(encoders, "make", lambda name, modality, *_: getattr(
            quick.encoders(), modality))
        yield patch


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick_encoders):
    """A fit of four classes of six clips, and the folder of these."""
    root = tmp_path_factory.mktemp("made")
    clips = write_clips(root / "clips", 6)
    return fit(clips, out=root / "fit", method="ncm"), clips


def test_a_model_remembers_where_its_features_came_from(made, tmp_path):
    model = made[0].model("ncm")
    assert model.origin == Origin("none", "plain", "level-1", "number-1")
    model.save(tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").origin == model.origin
    dataclasses.replace(model, origin=None).save(tmp_path / "n.npz")
    assert load(tmp_path / "n.npz").origin is None


def test_video_files_become_what_the_model_was_trained_on(made):
    fitted, clips = made
    source, store = fitted.model("ncm").open(clips), open_store(fitted.folder / "clips.h5")
    wanted = clip_source.of_store(store)
    assert source.clip_ids.tolist() == wanted.clip_ids.tolist() and source.place == str(clips)
    assert source.class_names == wanted.class_names and source.seconds == wanted.seconds
    for ours, theirs in zip(source, wanted, strict=True):
        np.testing.assert_array_equal(ours.audio, theirs.audio)
        np.testing.assert_array_equal(ours.video, theirs.video)
    model = fitted.model("ncm")
    np.testing.assert_array_equal(model.scores(source), model.score_all(wanted))
    assert repr(source) == f"ClipSource({clips}: 24 clips, 4 classes)"
    assert repr(model) == "Trained(ncm, classes: 3 base, 1 novel)"


def test_predict(made, run, tmp_path):
    write_clips(tmp_path / "new", 2, first=7)
    code, out, err = run("predict", "--model", made[0].folder / "ncm", "--clips", "new",
                         "--out", "x.csv", "--plot", "x.png")
    assert code == 0, err
    assert "8 clips in" in out and "plot       x.png" in out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with open("x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip_id"] for row in rows] == [f"{c}/{i}" for c in CLASSES for i in (7, 8)]
    model = made[0].model("ncm")
    names, p = model.predict(model.open("new"))
    assert [row["class1"] for row in rows] == names[:, 0].tolist()
    np.testing.assert_allclose([float(row["probability1"]) for row in rows], p[:, 0], atol=6e-5)


def test_clips_without_classes_and_broken_ones(made, run, tmp_path):
    (tmp_path / "new").mkdir()
    write_clip(tmp_path / "new" / "x.avi", 1.5)
    (tmp_path / "new" / "y.avi").write_text("no clip")
    words = ["--model", made[0].folder / "ncm", "--clips", "new", "--out"]
    code, _, err = run("predict", *words, "x.csv")
    assert code == 0 and "note: 1 of 2 clips gave no features and are left out: 'y': " in err
    assert (tmp_path / "x.csv").read_text().count("\n") == 2
    code, _, err = run("evaluate", *words, "e")
    assert code == 2 and "new does not say of which class its clips are" in err
    os.remove(tmp_path / "new" / "x.avi")
    code, _, err = run("predict", *words, "y.csv")
    assert code == 2 and "none of the 1 clips of new gives features" in err


def test_evaluate(made, run, tmp_path):
    write_clips(tmp_path / "new", 3, first=7)
    code, out, err = run("evaluate", "--model", made[0].folder / "ncm", "--clips", "new",
                         "--out", "e")
    assert code == 0, err
    assert "own-new" in out and (tmp_path / "e" / "results.json").exists()


def test_feature_files(made, run, tmp_path):
    """As a fit takes them: folders and manifests, of one rate with the model's."""
    fitted, clips = made
    store = open_store(fitted.folder / "clips.h5")
    lines = ["clip_id,audio,video"]
    for clip in clip_source.of_store(store):
        folder, name = tmp_path / "new" / clip.clip_id.split("/")[0], clip.clip_id.split("/")[1]
        folder.mkdir(parents=True, exist_ok=True)
        for modality in ("audio", "video"):
            np.save(folder / f"{name}.{modality}.npy", getattr(clip, modality))
        lines.append(f"{clip.clip_id},{folder}/{name}.audio.npy,{folder}/{name}.video.npy")
    (tmp_path / "new.csv").write_text("\n".join(lines))
    model = ["--model", fitted.folder / "ncm"]
    for name, words in {
        "folder": ["--clips", "new"], "manifest": ["--clips", "new.csv"],
        "store": ["--store", fitted.folder / "clips.h5"], "videos": ["--clips", clips],
    }.items():
        code, _, err = run("predict", *model, *words, "--out", f"{name}.csv")
        assert code == 0, err
    texts = {path.read_text() for path in tmp_path.glob("[fmsv]*.csv")}
    assert len(texts) == 1 and texts.pop().count("\n") == 25
    code, _, err = run("predict", *model, "--clips", "new", "--audio-seconds", 9, "--out", "z.csv")
    assert code == 2 and "new has 9 s per audio token where the model was trained on 0.5 s" in err
    code, _, err = run("predict", *model, "--clips", clips, "--audio-seconds", 0.5, "--out", "z")
    assert code == 2 and "mean nothing with video files" in err
    code, _, err = run("predict", *model, "--store", "x", "--audio-weights", "w", "--out", "z")
    assert code == 2 and "mean nothing without --clips" in err


def test_single_clips_and_vectors(made):
    model = made[0].model("ncm")
    clips = list(clip_source.of_store(open_store(made[0].folder / "clips.h5")))
    audio, video = [c.audio for c in clips], [c.video for c in clips]
    scores = model.scores(audio, video)
    np.testing.assert_allclose(model.scores(audio[3], video[3]), scores[3:4], atol=1e-6)
    one, none = model.scores(audio[3][0], None), model.scores([audio[3][:1]], [None])
    np.testing.assert_array_equal(one, none)
    np.testing.assert_array_equal(
        model.scores(None, video), model.scores([None] * len(video), video))
    with pytest.raises(UserError, match="24 audio and 1 video arrays"):
        model.scores(audio, video[:1])


# --- from Python


def test_text_of_added_classes_is_made_as_the_models_was(made, monkeypatch):
    _, clips = made
    origin = Origin("wordllama-1", "plain", "level-1", "number-1")
    assert extracted.extract_clips(clips, origin).text == {}  # it is not installed
    monkeypatch.setattr(text_encoders, "is_installed", lambda: True)
    monkeypatch.setattr(text_encoders, "identify", lambda: "wordllama-1")
    monkeypatch.setattr(text_encoders, "encode_names", lambda names: np.eye(len(names), 7))
    text = extracted.extract_clips(clips, origin).text
    assert {*text} == {*CLASSES} and text["b"].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert extracted.extract_clips(clips, origin._replace(text="text.npz")).text == {}


def test_names_are_encoded_for_clips_without_text(monkeypatch):
    """Of .npy files or a store too, as those of the model were."""
    monkeypatch.setattr(text_encoders, "is_installed", lambda: True)
    monkeypatch.setattr(text_encoders, "identify", lambda: "wordllama-1")
    monkeypatch.setattr(text_encoders, "encode_names", lambda names: np.eye(len(names), 7))
    arrays = [np.ones((2, 3))] * 2
    source = clip_source.of_arrays(arrays, arrays, labels=np.arange(2), class_names=("a", "b"))
    model = SimpleNamespace(origin=Origin("wordllama-1", "", "", ""))
    asked = SimpleNamespace(no_text=False)
    text = add_class.choose_text(asked, model, source)
    assert text["b"].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert add_class.choose_text(SimpleNamespace(no_text=True), model, source) is None
    model.origin = Origin("text.npz", "", "", "")
    with pytest.warns(Note, match="no class text, so prototypes"):
        assert add_class.choose_text(asked, model, source) is None


@pytest.mark.parametrize("origin, complaint", [
    (None, "were not made of video files here, so those of .*clips cannot be made alike"),
    (Origin("none"), "were not made of video files here"),
    (Origin("none", "plain", "level-2", "number-1"),
     "the audio features were made by level-2 and would be made by level-1 now: use the weights"),
    (Origin("none", "plain", "onnx-x-1", "number-1"), "give that model's file as the audio weigh"),
    (Origin("none", "plane", "level-1", "number-1"), "the recipe 'plane' is none of plain"),
])
def test_features_that_cannot_be_made_alike(origin, complaint, made):
    with pytest.raises(UserError, match=complaint):
        extracted.extract_clips(made[1], origin)


def test_failures_are_told_once_and_not_all(tmp_path, made):
    (tmp_path / "new").mkdir()
    write_clip(tmp_path / "new" / "ok.avi", 1.5)
    for number in range(22):
        (tmp_path / "new" / f"{number:02}.avi").write_text("no clip")
    with pytest.warns(Note, match="22 of 23 clips gave no .* '19' and 2 more: it is no"):
        made[0].model("ncm").open(tmp_path / "new")


@pytest.mark.slow
def test_add_class(run, tmp_path):
    """A class that was left out is learnt from its video files."""
    write_clips(tmp_path / "clips", 6)
    os.rename(tmp_path / "clips" / "d", tmp_path / "d")
    (tmp_path / "later").mkdir()
    os.rename(tmp_path / "d", tmp_path / "later" / "d")
    made = fit(tmp_path / "clips", out=tmp_path / "fit", method="mbt", overrides=[
        f"--config.{field}" for field in (
            "model.dim=16", "model.heads=2", "model.head_dim=8", "model.enc_hidden=16",
            "model.proj_hidden=16", "model.width=8", "model.code=8", "model.depth=2",
            "model.mlp=16", "model.switch=1",
            "train.batch=8", "train.batches=4", "train.epochs1=2", "train.epochs2=1")])
    assert "add_class.py --model" in str(made)
    code, out, err = run("add_class", "--model", model_file(made.folder / "mbt", 0),
                         "--clips", "later", "--shots", 4, "--out", "b.npz")
    assert code == 0, err
    assert "added 1 to 3 classes, from 4 clips" in out and "no class text, so prototypes" in err
    assert load("b.npz").info.classes == ("a", "b", "c", "d")
