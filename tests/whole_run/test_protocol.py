"""The whole protocol on the tiny world: parts, refusals, controls, what reads what."""

import json

import numpy as np
import pytest

from avdiff_jax.cli import choices
from avdiff_jax.data import of_config
from avdiff_jax.data.splits import stages
from avdiff_jax.errors import UserError
from avdiff_jax.runtime.progress import Progress
from avdiff_jax.train import protocol, substage
from configs import common
from configs import synthetic as synthetic_config
from tests import ROOT, tiny
from tests.programs import Recorded
from tests.results.test_metrics_log import events, hparams

pytestmark = pytest.mark.usefixtures("small_programs")


def test_results(finished):
    workdir, results, states, _ = finished
    assert json.loads((workdir / "results.json").read_text())["test"] == results["test"]
    draws = results["test"]["draws"]
    assert len(draws) == len(states) == 3
    for name in ("B", "N", "FSL"):
        np.testing.assert_allclose(
            results["test"]["mean"][name], np.mean([d[name] for d in draws]))
    assert {d["gamma"] for d in draws} == {results["chosen"]["gamma"]["value"]}
    assert all("Val of stage 1" in c["on"] for c in results["chosen"].values())
    assert results["config"]["train"]["batch"] == 8
    assert len(results["generator"]) == 3
    for quality in results["generator"]:
        assert {"norm_real", "norm_synthetic", "recognised", "chance", "overlap",
                "noise_loss_novel"} <= {*quality}
    names = {path.name for path in (workdir / "plots").iterdir()}
    of_draws = {f"{k}-draw{d}.png" for k in ("curve", "features") for d in range(3)}
    assert names >= {"confusion.png", "overview.png", *of_draws}


def test_the_data_are_named(finished):
    split = {"name": "synthetic", "by": "clip", "sizes": [6, 3, 3], "seed": 0}
    assert json.loads((finished[0] / "results.json").read_text())["data"] == {
        "store": "synthetic", "classes": 12, "made_up": True, "split": split,
    }


def test_tensorboard_opens_on_the_curves_and_the_test(finished):
    workdir, results, *_ = finished
    shown = events(workdir)
    tags = {value.tag for _, value in shown if not value.tag.startswith("_hparams_")}
    groups = sorted({tag.partition("/")[0] for tag in tags})
    assert groups == ["loss", "results", "test", "training", "val", "views"] and len(tags) < 40
    assert {tag for tag in tags if tag.startswith("loss/")} == {
        f"loss/stage{stage}_{role}" for stage in (1, 2) for role in ("base", "novel")
    }
    for group in ("val", "test"):
        assert {f"{group}/{name}" for name in ("B", "N", "HM", "FSL", "AUSUC")} <= tags
    told = {value.tag: value.simple_value for _, value in shown if value.tag.startswith("test/")}
    means = {f"test/{name}": value for name, value in results["test"]["mean"].items()}
    assert told == pytest.approx(means)
    batches = results["config"]["train"]["batches"]
    first, second, *_ = [step for step, value in shown if value.tag == "loss/stage1_base"]
    assert (first, second) == (batches, 2 * batches)
    assert [step for step, value in shown if value.tag == "views/curve"] == [0, 1, 2]


def test_hparams_are_the_row_and_what_departs_from_its_file(finished):
    fields = hparams(finished[0])
    assert fields["method"] == "avdiff" and fields["shots"] == 2 and fields["seed"] == 42
    assert fields["data set"] == "synthetic" and fields["train.batches"] == 4
    assert "train.weight_decay" not in fields and "data.store" not in fields


def test_draws_differ(finished):
    _, _, states, _ = finished
    for a, b in ((0, 1), (1, 2)):
        assert tiny.differ(states[a].vars.params["cls"], states[b].vars.params["cls"])
        tiny.same(states[a].vars.params["fusion"], states[b].vars.params["fusion"])


def test_scores_on_disk_give_the_numbers(finished):
    """B recomputed by hand from the scores, the labels and gamma."""
    workdir, results, *_ = finished
    for draw, told in enumerate(results["test"]["draws"]):
        with np.load(workdir / f"scores-draw{draw}.npz") as file:
            scores, labels, is_base = file["scores"], file["labels"], file["is_base"]
            assert len({*file["clips"]}) == len(labels)
        predicted = (scores - told["gamma"] * is_base[None]).argmax(1)
        right = [np.mean(predicted[labels == c] == c) for c in np.flatnonzero(is_base)]
        np.testing.assert_allclose(told["B"], 100 * np.mean(right))


def test_lines_never_fall_and_the_test_comes_last(finished):
    lines = tiny.lines(finished[0])
    at = [line["at"] for line in lines]
    assert at == sorted(at)
    test = [i for i, line in enumerate(lines) if any(k.startswith("draw") and "/" in k
                                                     for k in line)]
    assert len(test) == 3 and min(test) > max(i for i, line in enumerate(lines) if "epoch" in line)


@pytest.mark.slow
def test_parts_equal_the_whole(finished, tmp_path):
    workdir, results, states, _ = finished
    c = tiny.config()
    assert protocol.run(c, tmp_path / "w", "stage1") is None
    assert not (tmp_path / "w" / "results.json").exists()
    _, again = tiny.finish(c, tmp_path / "w", "stage2")
    tiny.same(again, states)
    assert tiny.outcome(tmp_path / "w") == tiny.outcome(workdir)
    assert tiny.lines(tmp_path / "w") == tiny.lines(workdir)
    (tmp_path / "w" / "results.json").unlink()
    found, again = tiny.finish(c, tmp_path / "w", "evaluate")
    tiny.same(again, states)
    assert found["test"] == results["test"]
    assert tiny.lines(tmp_path / "w") == tiny.lines(workdir)


@pytest.mark.slow
def test_labels_of_the_test_set_are_read_by_evaluation_alone(finished, tmp_path, monkeypatch):
    """Permuted, they change the results and nothing that comes before."""
    workdir, results, states, _ = finished
    stage = stages.stage

    def permuted(split, store, number):
        made = stage(split, store, number)
        if number == 1:
            return made
        return made._replace(
            eval_base=made.eval_base._replace(labels=made.eval_base.labels[::-1].copy()),
            eval_novel=tuple(m._replace(labels=np.roll(m.labels, 5)) for m in made.eval_novel),
        )

    monkeypatch.setattr(stages, "stage", permuted)
    found, again = tiny.finish(tiny.config(), tmp_path / "w")
    tiny.same(again, states)
    ours, theirs = (
        json.loads((w / "stage1.json").read_text()) for w in (tmp_path / "w", workdir)
    )
    for part in (ours, theirs):
        for number in (1, 2):
            part[f"substage{number}"].pop("seconds")
    assert ours == theirs
    epochs = [[x for x in tiny.lines(w) if "epoch" in x] for w in (tmp_path / "w", workdir)]
    assert epochs[0] == epochs[1]
    assert found["test"]["draws"] != results["test"]["draws"]


def test_every_field_is_read(finished, tmp_path, monkeypatch):
    """By the run above; the rest by cached features, the made-up set and the command."""
    read = set(finished[3])
    own = Recorded(synthetic_config.get_config(), read)
    monkeypatch.setattr(of_config.synthetic, "synthesize", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        of_config.open_data(own, tmp_path)
    of_config.find_store(own)
    main = (ROOT / "launch" / "main.py").read_text()
    assert "config.device.deterministic" in main
    every = {name for name, _ in choices.fields(common.base())}
    assert every - read == {"device.deterministic", "train.crops"}


def test_a_run_is_not_overwritten(finished):
    workdir = finished[0]
    before = tiny.lines(workdir)
    with pytest.raises(UserError, match=r"already holds a run: add --resume .* --workdir"):
        protocol.run(tiny.config(), workdir)
    with pytest.raises(UserError) as caught:
        protocol.run(tiny.config(train__batch=4), workdir, resume=True)
    assert "was begun with train.batch=8, now it is 4" in str(caught.value)
    assert tiny.lines(workdir) == before


@pytest.mark.parametrize("what", ["all", "stage2", "evaluate"])
def test_nothing_to_go_on_with(what, tmp_path):
    with pytest.raises(UserError, match="holds no run to go on with: begin one without --resume"):
        protocol.run(tiny.config("method=ncm"), tmp_path / "deep" / "w", what, True)
    assert not (tmp_path / "deep").exists()


def test_parts_out_of_order(tmp_path):
    c = tiny.config("method=ncm")
    protocol.run(c, tmp_path / "w", "stage1")
    with pytest.raises(UserError, match=r"no finished training: run stage 2 first"):
        protocol.run(c, tmp_path / "w", "evaluate")
    (tmp_path / "w" / "stage1.json").unlink()
    with pytest.raises(UserError, match="run stage 1 first"):
        protocol.run(c, tmp_path / "w", "stage2")


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"data__store": "none.h5"}, "none.h5 does not exist: make it with"),
        ({"data__split": "none.json"}, "none.json does not exist: make it with"),
        ({"shots": 5}, "holds 2 shots but the configuration asks for 5"),
        ({"train__batch": 7, "devices": 2}, "train.batch=7 does not divide by the 2 devices"),
        ({"eval__batch": 5, "devices": 2}, "eval.batch=5 does not divide by the 2 devices"),
        ({"method": "ncn"}, "unknown method=ncn; known: avdiff"),
        ({"model__attention": "half"}, "--config.model.attention=half must be one of full"),
        ({"generator": "none", "method": "ncm"}, "means nothing to method=ncm"),
    ],
)
def test_refusals_write_nothing(changes, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count = changes.pop("devices", 1) if "devices" in changes else 1
    monkeypatch.setattr(protocol.devices, "mesh", lambda: tiny.mesh(count))
    with pytest.raises(UserError) as caught:
        protocol.run(tiny.config(**changes), tmp_path / "runs" / "w")
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_split_of_another_store_writes_nothing(tmp_path):
    text = tiny.world()[1].read_text().replace("c003_07", "c003_99")
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match="lacks"):
        protocol.run(tiny.config(data__split=str(tmp_path / "other.json")), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_too_many_shots_of_the_made_up_set_write_nothing(tmp_path):
    c = synthetic_config.get_config("500shot")
    with c.unlocked():
        s = c.data.synthetic
        s.classes, s.clips_per_class, s.audio_dim, s.video_dim, s.text_dim = 8, 10, 6, 6, 14
    with pytest.raises(UserError, match="500"):
        protocol.run(c, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="500"):
        protocol.run(c, tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["notes.txt"]


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot write to --workdir"):
        protocol.run(tiny.config("method=ncm"), tmp_path / "file")
    with pytest.raises(UserError, match="cannot write to --workdir"):
        protocol.run(tiny.config("method=ncm"), tmp_path / "file" / "w")
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.slow
def test_ncm_and_shuffled_labels(tmp_path, monkeypatch):
    """A method without training runs the same protocol; shuffled labels teach it nothing."""
    bars = []

    class Bar(Progress):
        def __exit__(self, *error):
            super().__exit__(*error)
            bars.append((self.n, self.total))

    monkeypatch.setattr(substage, "Progress", Bar)
    results = protocol.run(tiny.config("method=ncm"), tmp_path / "true")
    true = results["test"]
    assert bars == [(1, 1)] * 6  # each phase ends at 100 %
    phases = {name: of for name, of in results["timing"].items() if name != "wall_seconds"}
    assert len(phases) == 5 and all(seconds > 0 for seconds in phases.values())
    assert {*results["chosen"]} == {"gamma"}  # there are no epochs to choose
    c = tiny.config("method=ncm", data__shuffle_labels=True)
    control = protocol.run(c, tmp_path / "control")["test"]
    assert true["mean"]["FSL"] > 60 and true["mean_of_hm"] > 2 * control["mean_of_hm"]
    again = protocol.run(tiny.config("method=ncm"), tmp_path / "true", "evaluate")["test"]
    assert again == true


def test_shuffled_labels_touch_training_only():
    c = tiny.config(data__shuffle_labels=True)
    store, split = of_config.open_data(c, None)
    for number in (1, 2):
        true = stages.stage(split, store, number)
        control = protocol.choose_stage(c, split, store, number)
        assert tiny.differ(true.base.labels, control.base.labels)
        tiny.same(np.sort(true.base.labels), np.sort(control.base.labels))
        tiny.same(true.base.clips, control.base.clips)
        tiny.same((true.eval_base, true.eval_novel), (control.eval_base, control.eval_novel))
