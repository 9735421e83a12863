"""The controls beside a run of one's own: their configuration, and what launch/main.py says."""

import contextlib
import importlib.util

import pytest

from avdiff_jax.cli import configuration
from avdiff_jax.errors import UserError
from avdiff_jax.fitting import controls
from avdiff_jax.io.documents import plain
from avdiff_jax.methods import METHODS, check, reads
from avdiff_jax.results.runs import find
from tests import ROOT, tiny


def own(words):
    return configuration.resolve(f"configs/own.py:2shot,{words}")


@pytest.mark.parametrize("words", [
    "method=avdiff", "method=avdiff,attention=full,condition=prototype", "generator=none",
    "method=avdiff_plus", "method=hip", "method=tsl", "method=avgan,modality=audio"])
@pytest.mark.parametrize("name", controls.CONTROLS)
def test_a_control_has_what_it_reads_and_nothing_else(words, name):
    config = own(words)
    control = controls.configure_control(config, name)
    check(control)
    assert control.method == name and control.is_locked and controls.wanted(config)
    assert not {*METHODS} & {*control}
    assert control.model.modality == config.model.modality
    usual = own(f"method={name},modality={config.model.modality}")
    changed = configuration.differences(plain(control), plain(usual))
    assert not [field for field in changed if reads(name, field)]


def test_where_controls_are_wanted():
    assert not controls.wanted(own("method=ncm"))
    assert not controls.wanted(configuration.resolve("configs/ucf.py:5shot"))
    assert not controls.wanted(configuration.resolve("configs/synthetic.py:5shot"))
    assert controls.wanted(configuration.resolve("configs/clips.py:5shot"))


@pytest.fixture
def main(monkeypatch, capsys):
    """main(words) -> (exit code, stdout); runs end at once: their results are another run's."""
    spec = importlib.util.spec_from_file_location("launch_main", ROOT / "launch" / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.devices, "configure", lambda *_: None)

    def call(*words):
        code = 0
        try:
            module.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().out

    return call


WORDS = ["--config=configs/own.py:2shot,method=mbt", *(f"--config.{field}" for field in (
    "model.dim=16", "model.heads=2", "model.head_dim=8", "model.mlp=16", "model.enc_hidden=16",
    "model.depth=2", "model.switch=1", "model.proj_hidden=16", "model.width=8", "model.code=8",
    "train.batch=8", "train.batches=2", "train.epochs1=1", "train.epochs2=1", "eval.batch=16"))]


@pytest.mark.slow
@pytest.mark.usefixtures("small_programs")
def test_main_ends_with_the_controls(main, tmp_path):
    store, split = tiny.world()
    words = [*WORDS, f"--config.data.store={store}", f"--config.data.split={split}"]
    code, out = main(*words, f"--workdir={tmp_path / 'w'}", "--no-controls")
    assert code == 0 and "linear" not in out and not (tmp_path / "w" / "controls").exists()
    code, out = main(*words, f"--workdir={tmp_path / 'w'}", "--resume")
    assert code == 0 and "On your clips" in out
    rows = [line.split()[0] for line in out.splitlines() if " ± " in line and "draws" not in line]
    assert rows == ["mbt", "linear", "ncm"]
    assert "On your clips" in (tmp_path / "w" / "controls.md").read_text()
    assert [run.config["method"] for run in find([tmp_path])] == ["mbt"]
    before = (tmp_path / "w" / "controls" / "ncm" / "results.json").read_bytes()
    code, again = main(*words, f"--workdir={tmp_path / 'w'}", "--run=evaluate")
    assert code == 0 and again.splitlines()[-1] == out.splitlines()[-1]
    assert (tmp_path / "w" / "controls" / "ncm" / "results.json").read_bytes() == before


@pytest.mark.usefixtures("small_programs")
def test_a_run_that_is_there_is_read_and_an_interrupted_one_goes_on(tmp_path, monkeypatch):
    store, split = map(str, tiny.world())
    config = configuration.resolve("configs/own.py:2shot,method=ncm", [
        f"--config.data.store={store}", f"--config.data.split={split}"])
    calls, run = [], controls.protocol.run

    def stop_half_way(config, workdir, what="all", resume=False):
        calls.append((what, resume))
        run(config, workdir, "stage1", resume)
        raise KeyboardInterrupt

    monkeypatch.setattr(controls.protocol, "run", stop_half_way)
    with contextlib.suppress(KeyboardInterrupt):
        controls.finish_run(config, tmp_path / "w")
    monkeypatch.setattr(controls.protocol, "run", lambda *args, **more: (
        calls.append(more), run(*args, **more)))
    made = controls.finish_run(config, tmp_path / "w")
    assert calls == [("all", False), {"resume": True}]
    assert controls.finish_run(config, tmp_path / "w").results == made.results and len(calls) == 2
    other = configuration.resolve("configs/own.py:2shot,method=ncm", [
        f"--config.data.store={store}", f"--config.data.split={split}", "--config.seed=3"])
    with pytest.raises(UserError, match="was run with seed=42, now 3 is asked for"):
        controls.finish_run(other, tmp_path / "w")
