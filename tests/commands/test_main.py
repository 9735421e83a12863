"""Commands that run a configuration: a refusal is a sentence, exit code 2, and writes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.train import protocol
from tests import ROOT, tiny

MAIN = ROOT / "launch" / "main.py"
SPEED = ROOT / "launch" / "speed.py"
CONFIG = "--config=configs/synthetic.py:2shot"

# Runs many command lines, each in a fork of one process that has imported everything.
DRIVER = """
import json, os, runpy, sys
sys.path.insert(0, sys.argv[1])
import avdiff_jax.train.protocol
for i, words in enumerate(json.load(open(sys.argv[2]))):
    child = os.fork()
    if not child:
        for n, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{i}.{name}", os.O_CREAT | os.O_WRONLY), n)
        os.mkdir(str(i)), os.chdir(str(i))
        sys.argv = words
        code = 1
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    open(f"{i}.code", "w").write(str(status))
"""

# What every command refuses that runs a configuration.
PARSED = [
    (["--config=configs/none.py"], "configs/none.py names no file"),
    (["--config=README.md"], "README.md names no file that ends in .py"),
    (["--config=configs/synthetic.py:5shots"], "unknown config word '5shots'"),
    (["--config=configs/synthetic.py:5shot,10shot"], "shots is given twice"),
    (["--config", "configs/ucf.py:attention=half"], "attention is one of full"),
    ([CONFIG, "--config.train.bach=3"],
     "unknown field --config.train.bach=3: did you mean train.batch?"),
    ([CONFIG, "--config.zzz=3"], "unknown field --config.zzz=3"),
    ([CONFIG, "--config.train.batch=many"], "--config.train.batch=many must be a whole number"),
    ([CONFIG, "--config.data.shuffle_labels=maybe"], "shuffle_labels=maybe must be true or false"),
    ([CONFIG, "--config.train=3"], "unknown field --config.train=3: did you mean "),
    ([CONFIG, "--config.seed.x=3"], "unknown field --config.seed.x=3: did you mean seed?"),
    ([CONFIG, "--config.seed=1e20"], "--config.seed=1e20 must be a whole number"),
    ([CONFIG, "--config.train.learning_rate=fast"], "must be a finite number"),
    ([CONFIG, "--config.train.batch=0"], "--config.train.batch=0 must be above 0"),
    ([CONFIG, "--config.model.attention=half"], "must be one of full, cross"),
    ([CONFIG, "stray"], "unrecognized arguments: stray"),
    ([CONFIG, "--nope=1"], "nope"),
    (["--config=configs/synthetic.py:2shot,method=nmc"], "unknown method=nmc"),
]
REFUSED = {
    MAIN: [
        ([], "are required: --config"),
        (["--config.seed=3"], "are required: --config"),
        ([CONFIG, "--run=some"], "argument --run: invalid choice: 'some'"),
        ([CONFIG, "--resume"], "holds no run to go on with"),
        ([CONFIG, "--run=evaluate"], "holds no run to go on with"),
        (["--config=configs/ucf.py:5shot"], "data/ucf.h5 does not exist: make it with"),
        ([CONFIG, "--config.data.store=none.h5"], "none.h5 does not exist"),
        ([CONFIG, "--config.data.store=STORE", "--config.data.split=none.json"],
         "none.json does not exist"),
        (["--config=configs/synthetic.py:7shot", "--config.data.store=STORE",
          "--config.data.split=SPLIT"], "holds 2 shots but the configuration asks for 7"),
        (["--config=configs/synthetic.py:900shot", "--config.data.synthetic.classes=8",
          "--config.data.synthetic.clips_per_class=9"], "900"),
        ([CONFIG, "--workdir=/proc/nowhere/w"], "cannot write to --workdir=/proc/nowhere/w"),
        ([CONFIG, "--config.data.store=SPLIT", "--config.data.split=SPLIT"], "HDF5"),
        ([CONFIG, "--config.data.store=STORE", "--config.data.split=STORE"], ""),
    ],
    SPEED: [
        ([], "name a configuration with --config, or video files with --clips"),
        (["--config.seed=3"], "name a configuration with --config, or video files with --clips"),
        ([CONFIG, "--clips=STORE"], "name a configuration with --config, or video files"),
        (["--clips=none"], "none"),
        ([CONFIG, "--compare=none.json"], "--compare=none.json cannot be read"),
        ([CONFIG, "--compare=STORE"], "cannot be read"),
        ([CONFIG, "--compare=/dev/zero"], "is a pipe or a device"),
        ([CONFIG, "--compare=SPLIT"], "was not written by launch/speed.py --json"),
        ([CONFIG, "--json=none/out.json"], "there is no folder none"),
        ([CONFIG, "--only", "sampler", "naps"], "invalid choice: 'naps'"),
    ],
}
LINES = [(file, *case) for file, own in REFUSED.items() for case in (*PARSED, *own)]


def filled(words):
    store, split = tiny.world()
    return [w.replace("STORE", str(store)).replace("SPLIT", str(split)) for w in words]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit code, stdout, stderr and what was written, for `LINES` and each --help."""
    folder = tmp_path_factory.mktemp("main")
    lines = [[str(file), *filled(words)] for file, words, _ in LINES]
    lines += [[str(MAIN), "--help"], [str(SPEED), "--help"]]
    (folder / "lines.json").write_text(json.dumps(lines))
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(ROOT), "lines.json"], cwd=folder,
        capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert run.returncode == 0, run.stderr
    return [
        (int((folder / f"{i}.code").read_text()), (folder / f"{i}.out").read_text(),
         (folder / f"{i}.err").read_text(), sorted(p.name for p in (folder / str(i)).rglob("*")))
        for i in range(len(lines))
    ]


@pytest.mark.parametrize(
    "i", range(len(LINES)), ids=lambda i: " ".join([LINES[i][0].name, *LINES[i][1]])
)
def test_refused_in_one_sentence(i, answers):
    code, _, errors, written = answers[i]
    assert code == 2, errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert LINES[i][2] in errors
    assert not written


@pytest.mark.parametrize("i, parts", [
    (-2, ["launch/main.py --config=configs/", "--workdir", "--run", "resume", "FILE.py",
          "parts of the protocol"]),
    (-1, ["launch/speed.py --config=configs/", "--json", "--compare", "--grow", "--trace",
          "FILE.py"]),
], ids=["main", "speed"])
def test_help(i, parts, answers):
    code, out, errors, written = answers[i]
    assert code == 0 and not errors and not written
    for part in parts:
        assert part in out


@pytest.mark.slow
def test_a_run_from_another_folder(tmp_path):
    """Through the command, with a method that trains nothing: table, files, default workdir."""
    store, split = tiny.world()
    line = [
        sys.executable, str(MAIN), "--config=configs/synthetic.py:2shot,method=ncm",
        f"--config.data.store={store}", f"--config.data.split={split}",
    ]
    quick = dict(capture_output=True, text=True)
    run = subprocess.run(line, cwd=tmp_path, **quick)
    assert run.returncode == 0, run.stderr
    workdir = tmp_path / "runs" / "synthetic-2shot-method=ncm"
    assert (workdir / "results.json").is_file() and (workdir / "results.md").is_file()
    assert "device: " in run.stdout and "HM" in run.stdout and "results.json" in run.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    again = subprocess.run(line, cwd=tmp_path, **quick)
    assert again.returncode == 2 and "--resume" in again.stderr and "--workdir" in again.stderr


STOPPED = """
import os, runpy, sys
from avdiff_jax.runtime import stop
from avdiff_jax.train import protocol

def run(*_):
    raise end

protocol.run, sys.argv = run, sys.argv[1:]
for end in (stop.Stopped(15), stop.Stopped(2), KeyboardInterrupt()):
    child = os.fork()
    if not child:
        runpy.run_path(sys.argv[0], run_name="__main__")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_exit_codes_of_a_stop():
    """By SIGTERM, by Ctrl-C and by a second Ctrl-C."""
    run = subprocess.run(
        [sys.executable, "-c", STOPPED, str(MAIN), CONFIG, "--workdir=w"], cwd=ROOT,
        capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert [line for line in run.stdout.splitlines() if line.isdigit()] == ["143", "130", "130"]
    said = run.stderr.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "stopped by SIGTERM", "stopped by SIGINT", "stopped at once"], run.stderr
    assert all("w" in line and "--resume" in line for line in said)


def test_the_command_is_short():
    assert len(MAIN.read_text().splitlines()) < 100


def test_a_folder_whose_name_is_not_utf8(tmp_path, monkeypatch):
    """Neither as a name that is given nor as the folder that one is in."""
    with pytest.raises(UserError, match=r"the folder of the run, '.*w\\udcff', is not UTF-8"):
        protocol.run(tiny.config(), tmp_path / "w\udcff")
    (tmp_path / "in\udcff").mkdir()
    monkeypatch.chdir(tmp_path / "in\udcff")
    with pytest.raises(UserError, match="is not UTF-8: rename it"):
        protocol.run(tiny.config(), "w")
    assert not [*Path(".").iterdir()]
