"""A disk that is full or read-only: a sentence, and the last good checkpoint as it was."""

import os
import subprocess
import sys
import types

import jax
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.runtime import checkpoint
from avdiff_jax.train import protocol
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture
def disk(tmp_path):
    """A function that (re)mounts a disk of so many KiB; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        options = f"remount,{options}" if os.path.ismount(folder) else options
        line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(line, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def stopped(*args, **more) -> str:
    """The sentence that a run ends with."""
    with pytest.raises(UserError) as caught:
        protocol.run(*args, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_a_disk_that_fills_up(disk, tmp_path):
    """At several moments; with more space the run ends as if there had always been enough."""
    c = tiny.config("method=attention_fusion")
    whole, states = tiny.finish(c, tmp_path / "whole")
    workdir, vouched = disk("size=32k") / "w", [0]
    for kib in (32, 500, 1000, 1500):
        disk(f"size={kib}k")
        sentence = stopped(c, workdir, resume=(workdir / "config.json").exists())
        assert "No space left on device" in sentence, sentence
        assert str(workdir) in sentence and "space" in sentence
        if kib > 32:
            assert "--resume" in sentence
            last, _ = protocol.open_checkpoints(workdir)
            vouched.append(protocol.count_committed_epochs(last))
    # How much a save takes on the way differs from run to run; what is saved stays saved.
    assert vouched == sorted(vouched) and vouched[1] < vouched[-1]
    disk("ro,size=8m")
    assert "Read-only file system" in stopped(c, workdir, resume=True)
    disk("rw,size=8m")
    results, again = tiny.finish(c, workdir, resume=True)
    tiny.same(again, states)
    assert tiny.outcome(workdir) == tiny.outcome(tmp_path / "whole")
    assert tiny.lines(workdir) == tiny.lines(tmp_path / "whole")
    assert results["test"] == whole["test"]


def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch):
    """The one before it stays, and says the sentence so; what its other arrays report to a loop
    that is closed by then is not told, however late."""
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with checkpoint.Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(1, {"x": jax.numpy.ones(3)}, {"at": 1})
        monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
        sentence = r"cannot write checkpoint 2 .*No space left on device; make space, .*--resume"
        with pytest.raises(UserError, match=sentence):
            checkpoints.save(2, {"x": jax.numpy.zeros(3)}, {"at": 2})
        assert checkpoints.latest() == 1 and checkpoints.metadata(1) == {"at": 1}
        assert checkpoints.restore(1, {"x": jax.numpy.zeros(3)})["x"].sum() == 3
    for late in ("Event loop is closed", "another fault"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(late)))
    assert [str(unraisable.exc_value) for unraisable in told] == ["another fault"]


@pytest.mark.parametrize("file", [
    "config.json", *(pytest.param(file, marks=pytest.mark.slow)
                     for file in ("metrics.jsonl", "stage1.json")),
])
def test_a_file_that_cannot_be_written(file, tmp_path, monkeypatch):
    """Whatever file it is, it is the workdir that the sentence names."""
    opened = protocol.pathlib.Path.open

    def full(self, mode="r", *args, **more):
        if "r" not in mode and file in self.name:
            raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **more)

    c = tiny.config("method=ncm")
    with monkeypatch.context() as patch:
        patch.setattr(protocol.pathlib.Path, "open", full)
        sentence = stopped(c, tmp_path / "w")
    assert f"cannot write to --workdir={tmp_path / 'w'}: No space left on device" in sentence
    begun = (tmp_path / "w" / "config.json").exists()
    assert begun == (file != "config.json")
    assert protocol.run(c, tmp_path / "w", resume=begun)
