"""kill -9 at random moments over a whole run and over an import: nothing is lost, nothing lies.

Half of the kills fall at a random share of the run's processor time, half right before a random
one of the file operations in its workdir, so that they hit the middle of saves too. How many:

    AVDIFF_KILLS=20 python -m pytest tests/robustness/test_crash.py -m slow -s

prints where each fell.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import ROOT, tiny
from tests.results.test_metrics_log import events

KILLS = int(os.environ.get("AVDIFF_KILLS", "4"))
METHOD = "method=" + os.environ.get("AVDIFF_METHOD", "attention_fusion")

# Runs a command and dies of SIGKILL right before its file operation number LAST in FOLDER.
DYING = """
import os, runpy, signal, sys
folder, last, sys.argv = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
done = 0

def watch(event, args):
    global done
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
        if isinstance(args[0], (str, os.PathLike)) and os.fspath(args[0]).startswith(folder):
            done += 1
            if done == last:
                path = os.path.relpath(args[0], folder)
                os.write(2, f"\\nkilled before {event} of {path}".encode())
                os.kill(os.getpid(), 9)

sys.addaudithook(watch)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    os.write(2, f"\\noperations: {done}".encode())
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time from /proc"),
]


def seconds_of(process: int) -> float:
    """Processor time of a process so far."""
    values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def run(command, folder, operation=-1, moment=float("inf")):
    """(exit code, last line on stderr, processor seconds) of a command that may be killed."""
    line = [sys.executable, "-c", DYING, str(folder), str(operation), *command[1:]]
    with subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:
        used = 0.0
        while process.poll() is None and used < moment:
            used = seconds_of(process.pid)
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
        errors = process.stderr.read()
    return process.returncode, errors.strip().splitlines()[-1] if errors.strip() else "", used


def place(workdir) -> str:
    """How far a dead run had come."""
    if not (workdir / "config.json").exists():
        return "before the run was begun"
    if (workdir / "results.json").exists():
        return "after results.json"
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    lines = [json.loads(line) for line in lines if line.endswith("\n")]
    if not lines:
        return "before the first epoch"
    if "epoch" not in lines[-1]:
        return "in the evaluation on test"
    stage, substage, draw, epoch = (lines[-1].get(k, 0) for k in
                                    ("stage", "substage", "draw", "epoch"))
    return f"after stage {stage}, substage {substage}, draw {draw}, epoch {epoch}"


def check_whole(workdir) -> None:
    """What has its final name is whole."""
    for path in workdir.rglob("*"):
        if any(part.startswith((".making-", ".")) or "tmp" in part
               for part in path.relative_to(workdir).parts):
            continue  # by their names, nobody reads these
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            assert zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".png":
            assert path.read_bytes()[-8:-4] == b"IEND"


def last_states(workdir) -> dict:
    """Parameters, statistics and optimiser that each phase ended with, by its name."""
    states, options = {}, ocp.CheckpointManagerOptions(read_only=True)
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    for folder in sorted((workdir / "checkpoints").iterdir()):
        if not folder.name.endswith("-best"):
            with ocp.CheckpointManager(folder, options=options) as manager:
                if manager.latest_step() is not None:
                    states[folder.name] = manager.restore(manager.latest_step(), args=args).state
    return states


def shown(workdir) -> list:
    """What TensorBoard shows, but for times and rates."""
    return [
        (step, value.tag, value.simple_value) for step, value in events(workdir)
        if not value.tag.endswith("steps_per_second")
    ]


def assert_equal(workdir, whole) -> None:
    tiny.same(last_states(workdir), last_states(whole))
    assert tiny.outcome(workdir) == tiny.outcome(whole)
    assert tiny.lines(workdir) == tiny.lines(whole)
    assert shown(workdir) == shown(whole)
    for path in sorted(whole.glob("scores-draw*.npz")):
        ours, theirs = (np.load(w / path.name) for w in (workdir, whole))
        with ours, theirs:
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs.files)


def test_killed_at_random_moments(tmp_path):
    """The main job, killed and resumed, ends with the same bits as one that nobody killed."""
    whole, moments = tmp_path / "whole", random.Random(KILLS)
    run(tiny.command(METHOD, tmp_path / "warm"), tmp_path / "warm")  # fills the compilation cache
    code, said, seconds = run(tiny.command(METHOD, whole), whole)
    assert code == 0
    operations = int(said.split(": ")[1])
    print(f"\n{METHOD}: {seconds:.1f} s of processor time, {operations} file operations")
    for number in range(KILLS):
        workdir = tmp_path / str(number)
        # Spread evenly over the run, each at random within its part.
        share = (number // 2 + moments.random()) / ((KILLS + 1) // 2)
        limit = (dict(operation=1 + int(share * operations)) if number % 2
                 else dict(moment=share * seconds))
        code, said, used = run(tiny.command(METHOD, workdir), workdir, **limit)
        assert code == -signal.SIGKILL, said
        check_whole(workdir)
        where = place(workdir)
        if said.startswith("killed before"):
            where += ", " + said
        begun = (workdir / "config.json").exists()
        code, said, _ = run(
            tiny.command(METHOD, workdir, *(["--resume"] if begun else [])), workdir
        )
        assert code == 0, said
        assert_equal(workdir, whole)
        print(f"| {number + 1} | {used:.1f} s | {where} | equal |")


def content(store) -> bytes:
    """Every byte of an imported store but the date that it notes."""
    return re.sub(rb'"date": "[-0-9]{10}"', b"", store.read_bytes())


def test_killed_in_the_middle_of_an_import(tmp_path):
    """What has the name that was asked for equals the store of an undisturbed import, and the same
    command makes it."""
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 81, 4)
    np.savez(
        tmp_path / "in.npz", a_flat=rng.random((80, 5)).astype("f4"), a_offsets=offsets,
        v_flat=rng.random((80, 7)).astype("f4"), v_offsets=offsets,
        label=np.arange(20) % 4, names=np.array(list("abcd")),
    )
    np.savez(tmp_path / "text.npz", **{name: rng.random(6) for name in "abcd"})
    outs = [tmp_path / name for name in ("whole", *map(str, range(KILLS)))]

    def command(out):
        return [
            sys.executable, str(ROOT / "launch" / "data.py"), "import", "--layout=npz",
            f"--npz={tmp_path / 'in.npz'}", f"--text={tmp_path / 'text.npz'}", "--audio-key=a",
            "--video-key=v", "--label-key=label", "--class-key=names", "--audio-seconds=1",
            "--video-seconds=1", f"--out={out / 's.h5'}", "--overwrite",
        ]

    code, said, _ = run(command(outs[0]), outs[0])
    assert code == 0, said
    whole = content(outs[0] / "s.h5")
    operations, moments = int(said.split(": ")[1]), random.Random(KILLS)
    for number, out in enumerate(outs[1:]):
        last = 1 + int((number + moments.random()) / KILLS * operations)
        code, said, _ = run(command(out), out, operation=last)
        assert code == -signal.SIGKILL, said
        assert not (out / "s.h5").exists() or content(out / "s.h5") == whole
        code, again, _ = run(command(out), out)
        assert code == 0, again
        assert content(out / "s.h5") == whole
        print(f"| import {number + 1} | {said} | equal |")
