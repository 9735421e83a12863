"""A run goes on with the data that it began with, and is measured on them."""

import json
import os
import shutil

import h5py
import pytest

from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.train import protocol
from avdiff_jax.train.run_data import hold_data, open_run_data
from tests import tiny


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with data of its own beside a workdir, and its configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("here/data", "there/data", "run"):
        os.makedirs(name)
    store, split = tiny.world()
    shutil.copy(store, "here/data/own.h5")
    shutil.copy(split, "here/data/own.json")
    monkeypatch.chdir("here")
    return tiny.config(data__store="data/own.h5", data__split="data/own.json"), tmp_path / "run"


def change(path):
    """Other values for the same clips."""
    tiny.rewritten(open_store(path), path.with_suffix(".new"), change=lambda clip: clip._replace(
        video=clip.video[::-1].copy() + 1))
    os.replace(path.with_suffix(".new"), path)


def test_the_same_data_are_taken_wherever_they_lie(project, tmp_path):
    config, workdir = project
    hold_data(config, workdir)
    record = json.loads((workdir / "data.json").read_text())
    assert record["store"]["path"] == str(tmp_path / "here/data/own.h5")
    shutil.move(tmp_path / "here/data", tmp_path / "here/moved")
    moved = tiny.config(data__store="moved/own.h5", data__split="moved/own.json")
    store, _ = hold_data(moved, workdir)
    assert store.path == "moved/own.h5"
    assert json.loads((workdir / "data.json").read_text()) == record


def test_a_store_that_was_swapped_is_refused(project, tmp_path):
    config, workdir = project
    protocol.claim_and_open(config, workdir, False)
    change(tmp_path / "here/data/own.h5")
    with pytest.raises(UserError, match=r"store .*own.h5 holds other data than when .* \(then \w"):
        protocol.claim_and_open(config, workdir, True)


def test_values_that_were_changed_in_place_are_seen(project, tmp_path):
    config, workdir = project
    hold_data(config, workdir)
    with h5py.File("data/own.h5", "r+") as file:
        file["video/values"][...] *= 1.01
    with pytest.raises(UserError, match="holds other data"):
        hold_data(config, workdir)


def test_another_split_is_refused(project, tmp_path):
    config, workdir = project
    hold_data(config, workdir)
    split = json.loads((tmp_path / "here/data/own.json").read_text())
    for part in split["sets"]["test_novel"]:
        name = next(iter(part))
        part[name] = part[name][1:]
    split["counts"]["test_novel"] -= 1
    (tmp_path / "here/data/own.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=r"the split .*own\.json holds other data"):
        hold_data(config, workdir)


def test_from_another_folder_the_run_gets_its_own(project, tmp_path, monkeypatch):
    """There lie other data under the same names."""
    config, workdir = project
    hold_data(config, workdir)
    for name in ("own.h5", "own.json"):
        shutil.copy(tmp_path / "here/data" / name, tmp_path / "there/data" / name)
    change(tmp_path / "there/data/own.h5")
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(UserError) as caught:
        hold_data(config, workdir)
    for folder in ("here", "there"):
        assert str(tmp_path / folder / "data/own.h5") in str(caught.value)
    store, _ = open_run_data(config, workdir)
    assert store.path == str(tmp_path / "here/data/own.h5")
    # Where the first is gone, what the configuration names has to hold the same.
    shutil.rmtree(tmp_path / "here/data")
    with pytest.raises(UserError, match=r"and .*there/data/own\.h5 holds other data"):
        open_run_data(config, workdir)


def test_made_up_data_travel_with_the_workdir(tmp_path):
    (tmp_path / "run").mkdir()
    config = tiny.config(data__store="", data__split="")
    hold_data(config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    store, _ = open_run_data(config, tmp_path / "copy")
    assert store.path == str(tmp_path / "copy/synthetic.h5")


def test_a_workdir_of_an_earlier_version_is_read(project, tmp_path):
    config, workdir = project
    (workdir / "checkpoints").mkdir()
    for use in (hold_data, open_run_data):
        assert use(config, workdir)[0].path == "data/own.h5"
    assert not (workdir / "data.json").exists()
