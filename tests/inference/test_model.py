"""A trained model as one file: what it says equals what the run measured."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.data import stream
from avdiff_jax.data.clip_source import of_store
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import Note, UserError
from avdiff_jax.inference import model as models
from avdiff_jax.inference.export import scoring_function
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture(scope="module")
def store():
    return open_store(tiny.world()[0])


@pytest.fixture(scope="module")
def model(finished):
    return models.load(finished[0], draw=1)


def clips_of(store, ids):
    where = {str(clip): i for i, clip in enumerate(store.clip_ids)}
    found = list(of_store(store, [where[str(clip)] for clip in ids]))
    return [clip.audio for clip in found], [clip.video for clip in found]


def test_scores_are_those_of_the_run(finished, model, store):
    """Of the same clips, though in other batches, from lists of arrays."""
    with np.load(finished[0] / "scores-draw1.npz") as file:
        clips, scores, classes = file["clips"], file["scores"], file["classes"]
    audio, video = clips_of(store, clips)
    np.testing.assert_allclose(model.scores(audio, video), scores, atol=1e-6)
    assert model.info.classes == tuple(classes)
    assert model.gamma == finished[1]["test"]["draws"][1]["gamma"]
    tiny.same(jax.device_get(model.vars), finished[2][1].vars)
    first, p = model.predict(audio[:5], video[:5], top=2)
    calibrated = scores - model.gamma * model.info.is_base[None]
    assert first[:, 0].tolist() == classes[calibrated[:5].argmax(1)].tolist()
    assert (p[:, 0] >= p[:, 1]).all() and (p.sum(1) < 1).all()


def test_pieces_do_not_matter(model, store, monkeypatch):
    """Clips that come in other pieces are scored alike and in order."""
    clips = of_store(store)
    whole = list(model.scored(clips))
    monkeypatch.setattr(stream, "PIECE_BATCHES", 1)
    parts = list(model.scored(clips))
    assert len(whole) == 1 and len(parts) > 5
    assert [i for ids, _ in parts for i in ids] == whole[0][0] == clips.clip_ids.tolist()
    np.testing.assert_allclose(np.concatenate([s for _, s in parts]), whole[0][1], atol=1e-6)


def test_examples_are_the_training_clips(finished, model, store):
    split = json.loads(tiny.world()[1].read_text())
    wanted = {clip for key in ("train1_base", "train1_novel", "val_base", "val_novel")
              for ids in split["sets"][key].values() for clip in ids}
    wanted |= {clip for ids in split["sets"]["train2_novel"][1].values() for clip in ids}
    assert {*map(str, model.examples.clips)} == wanted
    label_of = dict(zip(map(str, store.clip_ids), store.labels, strict=True))
    theirs = [store.class_names[label_of[str(c)]] for c in model.examples.clips]
    assert [model.info.classes[label] for label in model.examples.labels] == theirs
    scores = model.method.scores(model.info, model.vars, jnp.asarray(model.examples.features))
    audio, video = clips_of(store, model.examples.clips)
    np.testing.assert_allclose(scores, model.scores(audio, video), atol=1e-6)


def test_saved_and_loaded(model, tmp_path):
    path = tmp_path / "deep" / "model.npz"
    dataclasses.replace(model, examples=None, temperature=None).save(path)
    again = models.load(path)
    tiny.same(jax.device_get(again.vars), jax.device_get(model.vars))
    for name in ("text", "is_base", "audio_shift", "audio_scale"):
        np.testing.assert_array_equal(getattr(again.info, name), getattr(model.info, name))
    assert again.info.config.to_dict() == model.info.config.to_dict()
    assert again.examples is None and again.temperature is None
    tiny.same(again.trained_on, model.trained_on)
    for field in ("kinds", "gamma", "seconds", "lengths", "epochs", "cuts", "limits"):
        assert getattr(again, field) == getattr(model, field)
    with np.load(path, allow_pickle=False) as file:
        assert all(not file[name].dtype.hasobject for name in file.files)


def test_a_file_of_version_0_1_is_read(finished, model, tmp_path):
    """Its configuration lacks what came later, and names no sizes of the method."""
    with np.load(models.model_file(finished[0], 1)) as file:
        arrays = dict(file)
    header = json.loads(arrays["header"].tobytes())
    assert header["config"]["train"].pop("draws") == "auto"
    header.pop("trained_on")
    path = tmp_path / "old.npz"
    np.savez(path, **arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    with pytest.warns(Note, match="does not describe its training clips"):
        again = models.load(path)
    assert again.trained_on is None and again.usual.values is None
    assert again.info.config.to_dict() == model.info.config.to_dict()
    # TCaF on UCF had depth 6, whatever its file says.
    header["config"] |= {"dataset": "ucf", "method": "tcaf"}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="lacks params/aux"):  # of TCaF, in a file of AV-Diff
        models.load(path)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda a: a.pop("header"), "no model file, it has no header"),
        (lambda a: a.update(header=a["header"][:40]), "model.npz is not JSON"),
        (lambda a: a.update(header=np.frombuffer(b'{"schema": "x"}', np.uint8)), "schema 'x' ver"),
        (lambda a: a.update(header=np.frombuffer(
            b'{"schema": "avdiff_jax.model", "version": 1}', np.uint8)), "classes is missing"),
        (lambda a: a.update(header=np.frombuffer(
            b'{"schema": "avdiff_jax.model", "version": 2}', np.uint8)), "version 2 where schema"),
        (lambda a: a.pop("params/cls/bias"), "lacks params/cls/bias, which method=avdiff has"),
        (lambda a: a.update({"params/cls/bias": np.zeros(7, np.float32)}),
         "params/cls/bias of shape (7,) where the configuration and 12 classes ask for (12,)"),
        (lambda a: a.update({"params/more": np.zeros(7, np.float32)}), "params/more, which method"),
        (lambda a: a.update(text=a["text"][1:]), "has 12 classes, 12 kinds"),
        (lambda a: a["params/cls/bias"].fill(np.nan), "holds NaN or infinity in params/cls/bias"),
        (lambda a: a.pop("trained_on/prints"), "has no array 'trained_on/prints'"),
        (lambda a: a.update({"trained_on/prints": np.zeros(3)}), "fingerprints of type float64"),
    ],
)
def test_damaged_files(change, complaint, finished, tmp_path):
    with np.load(models.model_file(finished[0], 0)) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(UserError) as caught:
        models.load(tmp_path / "model.npz")
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_no_such_model(finished, tmp_path):
    with pytest.raises(UserError, match=r"--draw=7: .* has the models of 3 draws; name one"):
        models.load(finished[0], draw=7)
    with pytest.raises(UserError, match=r"none.npz does not exist: name the workdir"):
        models.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match=r"is no \.npz file or is truncated: name the workdir"):
        models.load(tmp_path / "text.npz")


@pytest.mark.parametrize(
    "audio, video, complaint",
    [
        ([np.ones((3, 8))], [], "1 audio and 0 video arrays"),
        ([np.ones((3, 9))], [np.ones((2, 12))], r"clip '0' has audio features of shape \(3, 9\)"),
        ([np.ones((1, 3, 8))], [np.ones((2, 12))], r"of shape \(1, 3, 8\)"),
        ([np.ones((3, 8))], [np.full((2, 12), np.nan)], "clip '0' has NaN or infinite video"),
        ([None], [None], "clip '0' has neither audio nor video"),
    ],
)
def test_arrays_that_do_not_fit(model, audio, video, complaint):
    with pytest.raises(UserError, match=complaint):
        model.scores(audio, video)


def test_a_clip_may_lack_a_modality(model):
    scores = model.scores([None, np.full((3, 8), 128)], [np.ones((2, 12)), None])
    assert scores.shape == (2, 12) and np.isfinite(scores).all()
    assert model.scores([], []).shape == (0, 12)


def test_rungs():
    rungs = [stream.rung(n) for n in range(1, 50)]
    assert sorted({*rungs}) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(n <= r < 1.5 * n + 1 for n, r in enumerate(rungs, 1))


def test_a_function_of_too_many_tokens_is_refused(model):
    with pytest.raises(UserError, match="1000000000 audio and 5 video tokens takes more than"):
        scoring_function(model, 10**9, 5)
