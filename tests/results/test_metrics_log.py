"""metrics.jsonl and the event files, read back with nothing but the framing of TFRecord."""

import json
import struct
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from avdiff_jax.errors import UserError
from avdiff_jax.results.metrics_log import Writer, flatten, read_metrics
from avdiff_jax.results.tensorboard import tag_of


def events(workdir: Path) -> list[tuple[int, object]]:
    """(step, summary value) for everything that TensorBoard would read, file after file.

    A record is its length (uint64), a checksum (4 bytes), the event and another checksum.
    """
    found = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            found += [(event.step, value) for value in event.summary.value]
            place += 12 + length + 4
        assert place == len(data)
    return found


def curve(workdir: Path, tag: str) -> list[tuple[int, float]]:
    return [(step, value.simple_value) for step, value in events(workdir) if value.tag == tag]


def hparams(workdir: Path) -> dict:
    """The configuration that the HParams tab shows; there must be one only."""
    shown = [
        plugin_hparams_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for _, value in events(workdir)
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    ((start, experiment, end),) = [
        [[p for p in shown if p.HasField(field)] for field in fields]
        for fields in [("session_start_info", "experiment", "session_end_info")]
    ]
    assert len(start) == len(experiment) == len(end) == 1
    values = start[0].session_start_info.hparams
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in values.items()}


def test_scalars_reach_both_records(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": jnp.float32(0.5)}, "base", step=30, stage=1, substage=1, epoch=1)
        writer.scalars(2, {"loss": 0.25, "lr": np.float64(1e-4)}, "base", step=60, stage=1)
    first, second = read_metrics(tmp_path)
    del first["time"], second["time"]
    assert first == dict(at=1, step=30, stage=1, substage=1, epoch=1, **{"base/loss": 0.5})
    assert second == dict(at=2, step=60, stage=1, **{"base/loss": 0.25, "base/lr": 1e-4})
    assert curve(tmp_path, "base/loss") == [(30, 0.5), (60, 0.25)]
    assert curve(tmp_path, "base/lr") == [(60, pytest.approx(1e-4))]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(0, {"loss": 1.0})
        assert len(read_metrics(tmp_path)) == 1


@pytest.mark.parametrize(
    "at, values, place, complaint",
    [
        (3, {"loss": float("nan")}, {"draw": 1}, r"x/loss is nan at 3 .*draw.*1"),
        (3, {"loss": float("-inf")}, {}, "x/loss is -inf"),
        (1, {"loss": 1.0}, {}, "at 1 comes after one at 2"),
        (3, {"loss": 1.0}, {"fold": 1}, "no field .*fold"),
    ],
)
def test_what_a_line_refuses(tmp_path, at, values, place, complaint):
    with Writer(tmp_path) as writer:
        writer.scalars(2, {"loss": 1.0}, "x")
        with pytest.raises(ValueError, match=complaint):
            writer.scalars(at, values, "x", **place)
    assert len(read_metrics(tmp_path)) == 1


def test_a_scalar_cannot_take_the_name_of_a_field(tmp_path):
    with Writer(tmp_path) as writer, pytest.raises(ValueError, match="'epoch'"):
        writer.scalars(1, {"epoch": 1.0})


def test_a_resumed_run_has_no_gap_and_no_doubled_step(tmp_path):
    with Writer(tmp_path) as writer:
        for at in range(1, 6):
            writer.scalars(at, {"loss": at}, step=10 * at)
    # The process died while writing, two epochs after its last checkpoint.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"at": 6, "st')
    with Writer.open_at(tmp_path, 3) as writer:
        for at in range(4, 8):
            writer.scalars(at, {"loss": -at}, step=10 * at)
    expected = [(10, 1), (20, 2), (30, 3), (40, -4), (50, -5), (60, -6), (70, -7)]
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == expected
    assert curve(tmp_path, "loss") == expected
    assert len(list(tmp_path.glob("events.out.*"))) == 1


def test_a_rebuilt_event_file_keeps_the_times(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
    line = {**read_metrics(tmp_path)[0], "time": 1234.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    Writer(tmp_path, resume=True).close()
    (path,) = tmp_path.glob("events.out.*")
    data, times, place = path.read_bytes(), [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        times.append(event_pb2.Event.FromString(data[place + 12 : place + 12 + length]).wall_time)
        place += 16 + length
    assert times[1:] == [1234.5]  # the first event is the file's own header


def test_resume_without_a_run_starts_one(tmp_path):
    with Writer(tmp_path / "new", resume=True) as writer:
        writer.scalars(1, {"loss": 1.0})
    assert curve(tmp_path / "new", "loss") == [(1, 1.0)]


def test_another_run_is_not_written_over(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
    with pytest.raises(UserError, match=r"metrics.jsonl already holds .*--resume.*--workdir"):
        Writer(tmp_path)
    assert curve(tmp_path, "loss") == [(1, 1.0)]


@pytest.mark.parametrize("damage", ["{half\n", "[1]\n", '{"loss": 1}\n'])
def test_damage_in_the_middle_is_named(tmp_path, damage):
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + damage + path.read_text())
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl"):
        Writer(tmp_path, resume=True)


def test_no_two_writers_share_the_name_of_an_event_file(tmp_path):
    """tensorboardX names a file by host and second alone, and opens it for writing."""
    names = set()
    for _ in range(3):
        Writer(tmp_path, resume=True).close()
        names |= {path.name for path in tmp_path.glob("events.out.*")}
    assert len(names) == 3


def test_images_and_texts_survive_a_rebuild(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[0, 0] = 255
    with Writer(tmp_path) as writer:
        writer.text(0, "config", "**depth** 3")
        writer.image(1, "test/confusion, draw 0", picture)
        writer.image(2, "again", tmp_path / "plots" / "test-confusion-draw-0.png")
        writer.image(3, "late", picture)
    with Writer.open_at(tmp_path, 2) as writer:
        writer.scalars(3, {"loss": 1.0})
    shown = {value.tag: (step, value) for step, value in events(tmp_path)}
    assert "views/late" not in shown
    step, value = shown["views/again"]
    assert (step, value.image.height, value.image.width) == (2, 4, 6)
    assert value.image.encoded_image_string.startswith(b"\x89PNG")
    assert shown["views/test/confusion, draw 0"][1].image == value.image
    assert shown["config/text_summary"][1].tensor.string_val == [b"**depth** 3"]
    assert read_metrics(tmp_path)[0]["loss"] == 1.0


def test_an_image_that_was_tidied_away_does_not_stop_a_resume(tmp_path):
    with Writer(tmp_path) as writer:
        writer.image(1, "a", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "plots" / "a.png").unlink()
    Writer(tmp_path, resume=True).close()
    assert events(tmp_path) == []


def test_an_image_from_elsewhere_is_refused(tmp_path):
    with Writer(tmp_path / "run") as writer, pytest.raises(ValueError, match=r"elsewhere\.png"):
        writer.image(1, "a", tmp_path / "elsewhere.png")


@pytest.mark.parametrize(
    "name, tag",
    [
        ("stage1-substage1/base/main/loss", "loss/stage1_base"),
        ("stage2-substage2-draw0/novel/main/loss", "loss/stage2_novel"),
        ("stage2-substage2-draws/draw0/novel/main/loss", "loss/stage2_novel"),
        ("stage2-substage2-draws/draw1/novel/main/loss", None),
        ("stage2-substage2-draws/learning_rate", "training/learning_rate"),
        ("stage2-substage1/base/critic/loss", "training/loss_base_critic"),
        ("stage2-substage1/base/critic/gap", None),
        ("stage1-substage2-trial1/novel/main/ce_real", "training/ce_real_novel"),
        ("stage1-substage1/base/main/accuracy", "training/accuracy_base"),
        ("stage2-substage1/learning_rate", "training/learning_rate"),
        ("stage1-substage2/val/HM", "val/HM"),
        ("stage1-substage2/score", None),
        ("stage2-substage2-draw1/base/main/loss", None),
        ("stage1-substage2-trial2/val/HM", None),
        ("draw0/test/HM", None),
        ("test/HM", "test/HM"),
    ],
)
def test_what_tensorboard_calls_a_number(name, tag):
    assert tag_of(name) == tag


def test_a_hidden_number_stays_in_the_record(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"HM": 1.0}, "draw1/test")
    assert events(tmp_path) == [] and read_metrics(tmp_path)[0]["draw1/test/HM"] == 1.0


def test_event_files_of_earlier_code_are_replaced(tmp_path):
    """They lay one folder deeper, which became part of the run's name."""
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1.host").touch()
    Writer(tmp_path, resume=True).close()
    assert not (tmp_path / "tensorboard").exists() and curve(tmp_path, "loss") == [(1, 1.0)]


def test_pictures_of_several_steps_share_a_name(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    with Writer(tmp_path) as writer:
        for draw in range(3):
            writer.image(7, "curve", picture, step=draw)
    assert [(step, value.tag) for step, value in events(tmp_path)] == [
        (draw, "views/curve") for draw in range(3)
    ]


def test_hparams_once_and_the_last_ones(tmp_path):
    config = ConfigDict({"method": "avdiff", "model": {"depth": 3, "sizes": (1, 2)}, "on": True})
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.hparams(1, config, {"final/HM": 10.0})
        config.model.depth = 4
        writer.hparams(2, config, {"final/HM": np.float32(20.0)})
    expected = {"method": "avdiff", "model.depth": 4.0, "model.sizes": "[1, 2]", "on": True}
    for _ in range(2):
        assert hparams(tmp_path) == expected
        assert curve(tmp_path, "final/HM") == [(2, 20.0)]
        Writer(tmp_path, resume=True).close()
    assert Counter(value.tag for _, value in events(tmp_path))["loss"] == 1


def test_hparams_refuse_nan(tmp_path):
    with Writer(tmp_path) as writer, pytest.raises(ValueError, match=r"metrics\.HM is nan"):
        writer.hparams(1, {}, {"HM": float("nan")})


def test_flatten():
    config = {"a": {"b": {"c": 1}, "d": None}, "e": "x", "f": np.arange(2), "g": np.float32(0.5)}
    assert flatten(config) == {"a.b.c": 1, "a.d": "null", "e": "x", "f": "[0, 1]", "g": 0.5}


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with Writer(tmp_path / "run") as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.image(1, "a", np.zeros((4, 6, 3), np.uint8))
        writer.text(1, "a", "b")
        writer.hparams(1, {}, {})
        writer.truncate(0)
        writer.flush()
    assert not (tmp_path / "run").exists()
