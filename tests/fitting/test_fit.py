"""From clips to a table: whole fits of made-up features, killed ones and other ones."""

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import avdiff_jax
from avdiff_jax.data.importers import text_encoders
from avdiff_jax.errors import UserError
from avdiff_jax.fitting import fit as fitting
from avdiff_jax.inference import model as models
from avdiff_jax.results.results_json import read_results
from avdiff_jax.train import workdir as workdirs
from tests import ROOT, tiny

COUNTS = {"ant": 14, "bee": 12, "cat": 12, "dog": 11, "eel": 6, "fox": 1}
SMALL = [f"--config.{field}" for field in (
    "model.dim=16", "model.heads=2", "model.head_dim=8", "model.mlp=16", "model.enc_hidden=16",
    "model.code=8", "model.depth=2", "model.switch=1", "model.proj_hidden=16", "model.width=8",
    "diffusion.steps=5", "diffusion.hidden=16", "diffusion.few_steps=2", "train.batch=8",
    "train.batches=4", "train.epochs1=2", "train.epochs2=2")]


def made_up():
    """Clips of classes that differ in their mean: [(audio, video)] and class names."""
    rng = np.random.default_rng(0)
    means = {name: (3 * rng.standard_normal(6), 3 * rng.standard_normal(8)) for name in COUNTS}
    clips, classes = [], []
    for name, count in COUNTS.items():
        for _ in range(count):
            clips.append(tuple(
                np.float32(mean + rng.standard_normal((rng.integers(2, 5), len(mean))))
                for mean in means[name]))
            classes.append(name)
    return clips, classes


def write_features(folder):
    for i, ((audio, video), name) in enumerate(zip(*made_up(), strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        np.save(folder / name / f"{i}.audio.npy", audio)
        np.save(folder / name / f"{i}.video.npy", video)
    return folder


def run_fit(out, **more):
    """A fit whose method costs as little as its controls."""
    clips, classes = made_up()
    more = {"method": "ncm", "audio_seconds": 1.0, "video_seconds": 1.0} | more
    return fitting.fit(clips, classes, out=out, **more)


@pytest.fixture(autouse=True)
def without_text(monkeypatch):
    monkeypatch.setattr(text_encoders, "PACKAGE", "not_there")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with tiny.small_programs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_encoders, "PACKAGE", "not_there")
        return run_fit(tmp_path_factory.mktemp("fit") / "mine")


def test_what_a_fit_leaves(made):
    assert {path.name for path in made.folder.iterdir()} == {
        "arrays.h5", "split.json", "fit.json", "ncm", "linear", "results.md"}
    assert set(made.runs) == {"ncm", "linear"} and set(made.minutes) == {"features", *made.runs}
    assert made.split["classes"]["novel2"] == ["eel", "fox"]
    assert made.split["untested"] == ["fox"] and made.split["shots"] == 1
    for name, run in made.runs.items():
        assert run.config["method"] == name and run.config["dataset"] == "own"
        assert made.model(name).info.classes == tuple(COUNTS)
    assert made.best.info.config.method == made.comparison.best.config["method"]


def test_what_it_says(made):
    text = str(made)
    rows = {line.split()[0]: line for line in text.splitlines() if line and line[0] != " "}
    for name, run in made.runs.items():
        hm = run.results["test"]["mean"]["HM"]
        assert f"{hm:.2f} ±" in rows[name]
    joined = " ".join(text.split())
    assert "5 clips of 1 novel class; one clip weighs up to 12.5 of B and 20.0 of N." in joined
    assert "Chance of FSL: 50.0." in joined
    assert "Not measured, for all clips were needed for training: fox." in text
    assert "ONLY 1 SHOT, because 'fox' has 1 clip: no novel class (2 in all) is" in joined
    assert re.search(r"On your clips (ncm|linear) (is ahead of|and) (ncm|linear)", text)
    assert f"Classify other clips, with {made.comparison.best.config['method']}:" in text
    assert "the mean of the draws' own HM is" in joined
    assert f"launch/predict.py --model {made.comparison.best.workdir} --clips FOLDER" in text
    assert "add_class" not in text  # neither of them can
    assert (made.folder / "results.md").read_text().startswith("**own-arrays, 1-shot: test")
    assert len(repr(made)) < 200 and "4 base and 2 novel classes, ncm, linear" in repr(made)


@pytest.mark.usefixtures("small_programs")
def test_the_same_fit_again_reads_what_is_there(made, monkeypatch, capsys):
    def fail(*_, **__):
        raise AssertionError("done already")

    monkeypatch.setattr("avdiff_jax.train.protocol.run", fail)
    again = run_fit(made.folder)
    assert again.comparison.sentence == made.comparison.sentence and not again.minutes
    assert "classes    6" not in capsys.readouterr().out


def test_the_command_tells_the_minutes_of_what_was_done(made, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("launch_fit", ROOT / "launch" / "fit.py")
    launch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch)
    monkeypatch.setattr(launch.devices, "configure", lambda: None)
    for minutes, told in (({"ncm": 0.2}, "minutes: ncm 0.2"), ({}, "all of it was done before")):
        done = dataclasses.replace(made, minutes=minutes)
        monkeypatch.setattr(launch, "fit", lambda *_, done=done, **__: done)
        launch.main(["--clips=x", "--out=y"])
        assert capsys.readouterr().out.splitlines()[-1] == f"{told}; written to y"


@pytest.mark.parametrize("change, complaint", [
    ({"seed": 1}, "the seed is another now"),
    ({"shots": 3}, "shots was None and is 3"),
    ({"novel": ["ant"]}, r"novel was None and is \['ant'\]"),
    ({"audio_seconds": 2.0}, "audio_seconds was 1.0 and is 2.0"),
    ({"by": "clip"}, "by was None and is clip"),
])
def test_another_fit_is_refused(change, complaint, made):
    with pytest.raises(UserError, match=f"mine holds a fit that was begun otherwise .{complaint}"):
        run_fit(made.folder, **change)


def test_other_clips_are_refused(made):
    clips, classes = made_up()
    clips[0][0][0, 0] += 1
    with pytest.raises(UserError, match="the clips are others now"):
        fitting.fit(clips, classes, out=made.folder, audio_seconds=1.0, video_seconds=1.0)


@pytest.mark.usefixtures("small_programs")
def test_another_configuration_is_refused(made):
    with pytest.raises(UserError, match=r"ncm was run with eval.batch=64, now 32 is asked for"):
        run_fit(made.folder, overrides=["--config.eval.batch=32"])


@pytest.mark.usefixtures("small_programs")
def test_what_was_refused_binds_nobody(tmp_path, capsys, monkeypatch):
    with pytest.raises(UserError, match="token lasts: add --audio-seconds S, in Python"):
        run_fit(tmp_path / "x", audio_seconds=None)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "check_wishes", lambda *_, **__: None)  # as of clips that are broken
        with pytest.raises(UserError, match="shots is 9 but class 'fox' has 1 clip"):
            run_fit(tmp_path / "x", shots=9)
    store = (tmp_path / "x" / "arrays.h5").stat()
    with pytest.raises(UserError, match="the clips are others now"):
        clips, classes = made_up()
        fitting.fit(clips[1:], classes[1:], out=tmp_path / "x", audio_seconds=1.0,
                    video_seconds=1.0)
    assert run_fit(tmp_path / "x", shots=1).split["shots"] == 1
    said = capsys.readouterr().out  # what the test rests on is said before anything is trained
    assert 0 < said.index("5 clips of 1 novel class; one clip weighs") < said.index("\nncm: ")
    assert (tmp_path / "x" / "arrays.h5").stat().st_mtime_ns == store.st_mtime_ns


def test_a_fit_and_a_run_share_no_folder(made, tmp_path):
    with pytest.raises(UserError, match=r"holds a fit, whose runs lie in it: choose another"):
        workdirs.claim(made.folder, tiny.config(), resume=False)
    with pytest.raises(UserError, match=r"one of .*mine/linear, .*mine/ncm$"):
        models.load(made.folder)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a run of launch/main\.py: choose another"):
        run_fit(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_wishes_are_looked_at_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match="shots is 5 but class 'fox' has 1 clip: ask for at most 1"):
        run_fit(tmp_path / "out", shots=5)
    with pytest.raises(UserError, match="there are 0 classes to be base ones"):
        run_fit(tmp_path / "out", groups=made_up()[1])  # a group a class
    for kind in ("novel", "base"):
        with pytest.raises(UserError, match=rf"no clip has a class named 'eal'.* of the 2 {kind}"):
            run_fit(tmp_path / "out", **{kind: ["eal", "fox"]})
    assert not (tmp_path / "out").exists()


def test_the_public_name():
    assert avdiff_jax.fit is fitting.fit


@pytest.mark.slow
def test_a_whole_fit_that_is_killed(tmp_path):
    """AV-Diff+ and its controls from .npy files by the command, killed twice; then the table."""
    write_features(tmp_path / "pets")
    (tmp_path / "novel.txt").write_text("eel\n")
    out = tmp_path / "runs" / "pets"
    command = [
        sys.executable, str(ROOT / "launch" / "fit.py"), "--clips", str(tmp_path / "pets"),
        "--novel", str(tmp_path / "novel.txt"), "--audio-seconds=1", "--video-seconds=1",
        "--out", str(out), *SMALL]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True)

    for wanted in ("avdiff_plus/config.json", "avdiff_plus/stage1.json"):
        process = start()
        while process.poll() is None and not (out / wanted).exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start()
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "Not measured, for all clips were needed for training: fox." in said
    assert "Learn more classes, from a few clips of each, with avdiff_plus:" in said
    assert f"launch/add_class.py --model {out}/avdiff_plus --clips FOLDER --out bigger.npz" in said
    assert re.search(r"^minutes: avdiff_plus [\d.]+, linear [\d.]+, ncm", said, re.M)
    for name in ("avdiff_plus", "linear", "ncm"):
        assert re.search(rf"^{name} +\d+\.\d\d ± ", said, re.M), said
        assert read_results(out / name)["config"]["method"] == name
    assert os.listdir(out / "avdiff_plus" / "plots")
