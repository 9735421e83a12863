"""launch/benchmark.py: many runs, their tables, comparisons."""

import json
import re
import signal
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from avdiff_jax.results import benchmark, jobs
from tests import ROOT
from tests.results.finished import OWN, UCF, FakeMain, call, finish, own, rows, small_grid

# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_own_data_sets_go_by_their_stores(tmp_path, capsys):
    for store in ("utd", "auslan"):
        for method in ("avdiff", "ncm"):
            own(tmp_path / store / method, f"data/{store}.h5", method)
    code, out, _ = call(capsys, "tables", tmp_path)
    assert code == 0 and "data.store" not in out
    for name in ("own-auslan", "own-utd"):
        assert any(row.startswith(f"{name} 5 ncm 1 x 2") for row in rows(out))
    words = ("compare", "avdiff", "ncm", f"--root={tmp_path}")
    code, out, _ = call(capsys, *words)
    assert code == 0 and "2 data sets; --dataset=own-auslan shows one of them." in out
    assert "own-auslan, 5-shot: A" in out and "own-utd, 5-shot: A" in out
    code, out, _ = call(capsys, *words, "--dataset=own-utd")
    assert code == 0 and "own-auslan" not in out and "own-utd, 5-shot: A" in out
    code, _, err = call(capsys, *words, "--dataset=utd")
    assert code == 2 and "there are runs on own-auslan, own-utd only" in err
    run, = benchmark.grid(
        configs=[OWN], methods=["ncm"], shots=[5], seeds=[1], root=tmp_path,
        overrides=["--config.data.store=data/utd.h5", "--config.data.split=s.json"])
    assert run.workdir == tmp_path / "own-utd-5shot" / "ncm" / "seed1"


def test_the_command_runs_reports_and_writes(tmp_path, capsys, monkeypatch):
    grid = small_grid(tmp_path, methods=["avdiff", "mbt"], seeds=[7],
                      overrides=["--config.train.batch=32"])
    main = FakeMain(grid, failing=["mbt"])
    commands = []

    def starter(command, jobs):
        commands.append((command, jobs))
        return main

    monkeypatch.setattr(jobs, "Processes", starter)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    argv = (f"--config={UCF}", "--methods=avdiff,mbt", "--seeds=7", f"--root={tmp_path}",
            "--config.train.batch=32")
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, *argv, "--dry-run")
    assert code == 1 and commands == [] and out.count("python launch/main.py") == 2
    assert out.count("does not exist: make it with `python launch/data.py") == 2
    code, out, err = call(capsys, *argv)
    assert code == 1 and "failed (exit 1): ucf 5-shot mbt seed 7: error: out of memory" in err
    main_py = str(ROOT / "launch" / "main.py")
    assert commands == [([sys.executable, main_py, "--no-controls"], 1)]
    assert all("--config.train.batch=32" in call for call in main.calls)
    assert any(row.startswith("ucf 5 avdiff 1 x 2 61.00 ± 1.41 (74.11)") for row in rows(out))
    assert {p.name for p in tmp_path.glob("benchmark.*")} == {
        "benchmark.md", "benchmark.csv", "benchmark.tex",
    }
    main.failing = ()
    assert call(capsys, *argv)[0] == 0 and len(main.calls) == 3
    assert call(capsys, *argv, "--dry-run")[0] == 0  # what is done asks for no file


def test_one_command_remakes_every_table(tmp_path, capsys):
    finish(tmp_path / "a")
    finish(tmp_path / "b", overrides=["--config.diffusion.steps=50"])
    code, out, _ = call(capsys, "tables", tmp_path, f"--out={tmp_path / 'out'}")
    assert code == 0
    names = ["benchmark", "table2", "supplement1", "figure1"]
    wanted = {f"{name}.{kind}" for name in names for kind in ("csv", "tex")}
    wanted |= {"tables.md", "figure1-ucf-5shot.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
    text = (tmp_path / "out" / "tables.md").read_text()
    numbers = re.compile(r"\d+\.\d\d\b")
    assert numbers.findall(text) == numbers.findall(out)
    for title in ("Test", "Table 2:", "Supplement, Table 1", "Supplement, Figure 1"):
        assert f"**{title}" in text
    # configs/ucf.py tells which T is the usual one.
    assert "| ucf | 5 | avdiff,diffusion.steps=50 |" in text


@pytest.mark.parametrize(
    "argv, complaint",
    [
        ([], "name a data set"),
        (["--config=configs/ucf.py", "--shots=x"], "--shots"),
        (["--config=configs/ucf.py", "--confg=3"], "unrecognized arguments: --confg=3"),
        (["--config=configs/ucf.py", "--methods=nmc"], "unknown method=nmc"),
        (["tables"], "required: DIR"),
        (["compare", "avdiff"], "required: B"),
        (["table", "runs"], "invalid choice: 'table'"),
        (["--config=configs/ucf.py", "--config.train.batch"], "write --config.field=value"),
        (["tables", "nowhere"], "nowhere is no folder"),
        (["tables", "x", "--config.seed=3"], "means nothing to finished runs"),
        (["compare", "avdiff", "ncm", "--root=nowhere"], "there is no folder nowhere"),
        (["--config=configs/own.py", "--base=9"], "--base means nothing without --splits"),
        (["--config=configs/own.py", "--splits=0"], "--splits: invalid whole number above 0"),
        (["--config=configs/own.py", "--jobs=two"], "--jobs: invalid whole number above 0"),
        (["--config=configs/own.py", "--splits=2", "--base=x"], "invalid count or fraction"),
        (["--config=configs/own.py", "--methods=generator=none"], "is a setting of no method"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(capsys, argv, complaint):
    code, out, err = call(capsys, *argv)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and complaint in err and err.count("\n") == 1


def test_an_unknown_row_lists_the_rows(tmp_path, capsys):
    finish(tmp_path / "a")
    code, _, err = call(capsys, "compare", "avdiff", "ncm", f"--root={tmp_path}")
    assert code == 2 and f"ncm is neither a folder nor a row below {tmp_path}: avdiff\n" in err


@pytest.mark.slow
def test_a_real_run_of_the_controls(tmp_path):
    argv = [sys.executable, str(ROOT / "launch" / "benchmark.py"), "--config=configs/synthetic.py",
            "--methods=ncm", f"--root={tmp_path}", "--config.data.synthetic.classes=12",
            "--config.data.synthetic.clips_per_class=20"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert any(row.startswith("synthetic 5 ncm 1 x 3") for row in rows(done.stdout))
    config = ConfigDict(json.loads(next(tmp_path.rglob("config.json")).read_text()))
    assert config.data.synthetic.classes == 12
