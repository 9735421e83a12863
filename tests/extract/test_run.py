"""Whole extractions of small clips by quick encoders: stores, reports, resuming, shards."""

import csv
import os
import threading

import numpy as np
import pytest

pytest.importorskip("av")

from avdiff_jax.data.class_text import ClassText
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.extract import pipeline, shards
from avdiff_jax.extract.collection import open_collection
from avdiff_jax.extract.encoders import Encoder
from avdiff_jax.extract.parts import Outcome, Parts
from avdiff_jax.extract.pipeline import Encoders, encode_clips
from avdiff_jax.extract.run import extract, list_troubles, report_path, survey
from avdiff_jax.extract.tokens import FramePlan, WavePlan, count_whole, spread
from tests.extract.clips import RATE, number_of, write_clip

SECONDS = {"long": 2.4, "short": 0.9, "brief": 0.3}


def encoders(audio=True, video=True, identity="1"):
    """Sound: its level each half second. Video: the numbers of two frames of each eight."""
    wave = WavePlan(RATE, RATE // 2, RATE // 2, 0, count_whole(RATE // 2, RATE // 2),
                    lambda window: np.float32([np.abs(window).mean()]))
    film = FramePlan(25.0, 8, spread(8, 2), 1, lambda image: np.full((1, 1, 3), number_of(image)))
    return Encoders(
        Encoder("level", "audio", 1, 5, wave, lambda level, *_: level, lambda x: x,
                f"level-{identity}") if audio else None,
        Encoder("number", "video", 2, 3, film, lambda frames, valid: frames[:, :, 0, 0, 0],
                lambda x: x.astype(np.float32), f"number-{identity}") if video else None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of three clips each, and what is none."""
    root = tmp_path_factory.mktemp("clips")
    for class_name, hertz in (("high", 880.0), ("low", 220.0)):
        (root / class_name).mkdir()
        for name, seconds in SECONDS.items():
            write_clip(root / class_name / f"{name}.avi", seconds, hertz=hertz)
    (root / "low" / "broken.avi").write_bytes(b"RIFF" + bytes(500))
    (root / "low" / "text.avi").write_text("hello")
    return root


def text(collection):
    return ClassText(np.eye(len(collection.class_names), dtype=np.float32), "text.npz")


def make(folder, out, chosen=None, **more):
    collection = open_collection(folder)
    return extract(collection, out, chosen or encoders(), "plain", text(collection), **more)


def rows_of(out):
    with open(report_path(out), newline="") as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}


def test_the_store(folder, tmp_path):
    done = make(folder, tmp_path / "x.h5")
    store = open_store(tmp_path / "x.h5")
    assert store.clip_ids.tolist() == [
        f"{class_name}/{name}" for class_name in ("high", "low")
        for name in ("brief", "long", "short")]
    assert store.class_names == ("high", "low") and store.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (store.audio.seconds, store.video.seconds) == (0.5, 0.32)
    assert store.audio.lengths.tolist() == [0, 4, 1] * 2
    assert store.video.lengths.tolist() == [1, 8, 3] * 2
    long = store.video.values[store.video.offsets[1] : store.video.offsets[2]]
    # Of 60 frames the third and the seventh of each eight; the last token has no seventh.
    assert long[:, 0].tolist() == [8 * i + 2 for i in range(8)]
    assert long[:, 1].tolist() == [8 * i + 6 for i in range(7)] + [0]
    np.testing.assert_allclose(store.audio.values, 0.25 * 2 / np.pi, rtol=0.02)
    assert store.provenance["extraction"] == {
        "recipe": "plain", "audio": "level-1", "video": "number-1", "missing": "keep",
        "shard": "1/1"}
    assert not (tmp_path / "x.h5.parts").exists()
    assert "4 ok, 2 incomplete, 2 failed" in str(done) and "real time" in str(done)


def test_the_report(folder, tmp_path):
    make(folder, tmp_path / "x.h5")
    rows = rows_of(tmp_path / "x.h5")
    assert len(rows) == 8
    assert rows["high/long"]["status"] == "ok" and rows["high/long"]["reason"] == ""
    assert float(rows["high/long"]["seconds"]) == pytest.approx(2.4, abs=0.05)
    assert (rows["high/long"]["audio_tokens"], rows["high/long"]["video_tokens"]) == ("4", "8")
    assert rows["low/brief"]["status"] == "incomplete"
    assert "too short for a token of audio (0.3" in rows["low/brief"]["reason"]
    assert rows["low/text"]["status"] == rows["low/broken"]["status"] == "failed"
    assert "no video or sound" in rows["low/text"]["reason"]


def test_clips_in_trouble_are_named(folder, tmp_path):
    lines = str(make(folder, tmp_path / "x.h5")).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("extracted  4 ok, 2 incom"))
    assert lines[start + 1].startswith("failed     low/broken: it is no ")
    assert lines[start + 2].startswith("failed     low/text: ")
    assert lines[start + 3].startswith("incomplete high/brief: it is too short for a")
    assert lines[start + 4].startswith("incomplete low/brief: ") and len(lines) == start + 5


def test_at_most_five_clips_in_trouble_are_named():
    outcomes = {"fine": Outcome("ok"), "short": Outcome("incomplete", "it ends early"),
                **{f"bad\n{i}": Outcome("failed", "it is empty") for i in range(6)}}
    assert list_troubles(outcomes) == [
        *(rf"failed     bad\n{i}: it is empty" for i in range(5)),
        "           and 2 more, which the report lists"]
    assert list_troubles({"fine": Outcome("ok")}) == []


def test_features_do_not_depend_on_threads_or_batches(folder, tmp_path):
    make(folder, tmp_path / "one.h5", threads=1)
    make(folder, tmp_path / "many.h5", threads=7)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()


def test_a_clip_without_sound(folder, tmp_path):
    (tmp_path / "a").mkdir()
    write_clip(tmp_path / "a" / "silent.avi", 1.0, audio=False)
    write_clip(tmp_path / "a" / "blind.avi", 1.0, video=False)
    write_clip(tmp_path / "a" / "whole.avi", 1.0)
    make(tmp_path, tmp_path / "keep.h5")
    store = open_store(tmp_path / "keep.h5")
    assert store.may_lack_modality
    assert store.audio.lengths.tolist() == [2, 0, 2] and store.video.lengths.tolist() == [0, 3, 3]
    rows = rows_of(tmp_path / "keep.h5")
    assert rows["a/silent"]["reason"] == "it has no audio track"
    assert rows["a/blind"]["reason"] == "it has no video track"
    os.remove(tmp_path / "keep.h5")
    os.remove(report_path(tmp_path / "keep.h5"))
    make(tmp_path, tmp_path / "skip.h5", missing="skip")
    assert open_store(tmp_path / "skip.h5").clip_ids.tolist() == ["a/whole"]
    assert not open_store(tmp_path / "skip.h5").may_lack_modality
    assert rows_of(tmp_path / "skip.h5")["a/silent"]["status"] == "skipped"


def test_too_short_for_a_modality_is_lacking_it(folder, tmp_path):
    make(folder, tmp_path / "x.h5", missing="skip")
    assert open_store(tmp_path / "x.h5").clip_ids.tolist() == [
        "high/long", "high/short", "low/long", "low/short"]
    row = rows_of(tmp_path / "x.h5")["low/brief"]
    assert row["status"] == "skipped" and "too short for a token of audio" in row["reason"]
    assert (row["audio_tokens"], row["video_tokens"]) == ("0", "0")


@pytest.mark.parametrize("chosen, lengths", [
    (dict(audio=False), ([0, 0, 0], [1, 8, 3])), (dict(video=False), ([4, 1], [0, 0]))])
def test_one_modality(chosen, lengths, folder, tmp_path):
    make(folder, tmp_path / "x.h5", encoders(**chosen))
    store = open_store(tmp_path / "x.h5")
    n = len(lengths[0])
    assert store.audio.lengths[:n].tolist() == lengths[0]
    assert store.video.lengths[:n].tolist() == lengths[1]


def test_none_at_all():
    with pytest.raises(UserError, match="neither audio nor video is to be encoded"):
        next(encode_clips([], Encoders(None, None)))


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on(folder, tmp_path, monkeypatch):
    """It ends after any number of parts; the clips that are done are not decoded again."""
    make(folder, tmp_path / "straight.h5")
    out, decoded, write = tmp_path / "x.h5", [], Parts.write
    of_clip = pipeline.Decoders._decode
    monkeypatch.setattr(pipeline.Decoders, "_decode", lambda self, number: (
        decoded.append(self._clips[number].clip_id), of_clip(self, number))[1])
    for _ in range(3):
        written = []

        def killing(self, clip, part, written=written):
            if len(written) == 2:
                raise Killed
            write(self, clip, part)
            written.append(clip)

        monkeypatch.setattr(Parts, "write", killing)
        try:
            make(folder, out)
        except Killed:
            assert not out.exists()
    monkeypatch.setattr(Parts, "write", write)
    if not out.exists():
        make(folder, out)
    assert out.read_bytes() == (tmp_path / "straight.h5").read_bytes()
    assert threading.active_count() < 4
    decoded.clear()
    monkeypatch.setattr(Parts, "remove", lambda self: None)
    make(folder, tmp_path / "y.h5")
    decoded.clear()
    assert make(folder, tmp_path / "y.h5").resumed == 6
    assert sorted(decoded) == ["low/broken", "low/text"]  # what gave nothing is tried again


def test_a_changed_clip_is_done_again(folder, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    clip = tmp_path / "a" / "clip.avi"
    write_clip(clip, 1.0)
    monkeypatch.setattr(Parts, "remove", lambda self: None)
    make(tmp_path / "a", tmp_path / "x.h5")
    assert make(tmp_path / "a", tmp_path / "x.h5").resumed == 1
    os.utime(clip, (1, 1))
    assert make(tmp_path / "a", tmp_path / "x.h5").resumed == 0
    for part in (tmp_path / "x.h5.parts").glob("*.npz"):
        part.write_bytes(b"spoilt")
    assert make(tmp_path / "a", tmp_path / "x.h5").resumed == 0


def test_parts_of_another_recipe(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Parts, "remove", lambda self: None)
    make(folder, tmp_path / "x.h5")
    with pytest.raises(UserError, match=r"x\.h5\.parts holds parts made with audio = level-1 where "
                                        r"this extraction has level-2"):
        make(folder, tmp_path / "x.h5", encoders(identity="2"))
    with pytest.raises(UserError, match="made with shard = 1/1 where this extraction has 1/2"):
        make(folder, tmp_path / "x.h5", shard=(1, 2))


def test_nothing_decodable(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("b", "c"):
        (tmp_path / "a" / f"{name}.mp4").write_text("nothing")
    with pytest.raises(UserError, match=r"none of the 2 clips of .* gives features; the first, "
                                        r".*b\.mp4, was failed: it is no video"):
        make(tmp_path, tmp_path / "x.h5")
    assert len(rows_of(tmp_path / "x.h5")) == 2
    assert not (tmp_path / "x.h5").exists()


def test_stop_on_error(folder, tmp_path):
    with pytest.raises(UserError, match=r"low/(broken|text)\.avi cannot be decoded: "):
        make(folder, tmp_path / "x.h5", on_error="stop")
    assert not (tmp_path / "x.h5").exists()


def test_features_that_are_no_numbers(folder, tmp_path):
    audio = encoders().audio
    spoilt = Encoder(**{**vars(audio), "finish": lambda x: np.full_like(x, np.nan)})
    with pytest.raises(UserError, match="none of the 3 clips"):
        make(folder / "high", tmp_path / "x.h5", Encoders(spoilt, None))
    assert rows_of(tmp_path / "x.h5")["long"]["reason"] == "its audio features are not finite"


def test_a_library_that_fails_in_its_own_way(folder, tmp_path, monkeypatch):
    def decode(path, *rest):
        if "short" in path:
            raise IndexError("unforeseen")
        yield from real(path, *rest)

    real = pipeline.decode
    monkeypatch.setattr(pipeline, "decode", decode)
    make(folder, tmp_path / "x.h5")
    assert rows_of(tmp_path / "x.h5")["low/short"]["reason"] == (
        "decoding failed (IndexError: unforeseen)")


@pytest.mark.parametrize("count", [2, 3, 8])
def test_merged_shards_are_one_run(count, folder, tmp_path):
    make(folder, tmp_path / "one.h5", name="set")
    made = []
    for number in range(1, count + 1):
        path = tmp_path / f"{number}.h5"
        try:
            make(folder, path, shard=(number, count), name="set")
            made.append(path)
        except UserError as error:  # a shard of a broken clip alone
            assert count == 8 and "none of the 1 clips" in str(error)
    report = shards.merge(made, tmp_path / "merged.h5")
    assert (tmp_path / "merged.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    lacking = [note for note in report.notes if "not among these" in note]
    assert bool(lacking) == (count == 8)


def test_what_cannot_be_merged(folder, tmp_path):
    make(folder, tmp_path / "1.h5", shard=(1, 2))
    make(folder, tmp_path / "other.h5", encoders(identity="2"), shard=(2, 2))
    make(folder, tmp_path / "third.h5", shard=(2, 3))
    for other, complaint in (("other", "differ in audio"), ("third", "the number of shards"),
                             ("1", "occurs twice")):
        with pytest.raises(UserError, match=complaint):
            shards.merge([tmp_path / "1.h5", tmp_path / f"{other}.h5"], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_a_survey(folder):
    there = survey(open_collection(folder))
    assert (there.clips, there.classes, there.unreadable) == (8, 2, 2)
    assert there.hours * 3600 == pytest.approx(2 * sum(SECONDS.values()), rel=0.1)
    assert there.file_bytes == sum(
        os.path.getsize(folder / c / f"{name}.avi") for c in ("high", "low") for name in SECONDS)


def test_clips_stream_without_a_store(folder):
    """What `predict` needs: features of clips one by one."""
    collection = open_collection(folder / "high")
    parts = {clip.clip_id: part for clip, part in encode_clips(collection.clips, encoders())}
    assert parts["long"].audio.shape == (4, 1) and parts["long"].video.shape == (8, 2)
    assert parts["brief"].audio is None
