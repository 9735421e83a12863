"""Foreign stores are opened in a child process first, which may crash, hang or refuse."""

import os
import signal
import time

import h5py
import numpy as np
import pytest

from avdiff_jax.data import store as stores
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.errors import UserError
from avdiff_jax.io import subprocess_probe


# What a child may be asked to do: it imports these by name.
def opens(path):
    pass


def crashes(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(path):
    time.sleep(60)


def refuses(path):
    raise UserError(f"{path} is \u00e4 bad one")


def has_a_defect(path):
    raise AssertionError("of ours")


def wants_all_memory(path):
    try:
        np.ones(1 << 33, np.uint8)
    except MemoryError:
        raise UserError("out of memory") from None


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess_probe, "_known", set())
    path = tmp_path / "s.h5"
    path.write_text("x")
    return path


@pytest.mark.parametrize("function, sentence", [
    (crashes, r"s.h5 crashes the library that reads it \(Segmentation fault\)"),
    (refuses, "s.h5 is \u00e4 bad one"),
    (has_a_defect, r"in a child process \(AssertionError: of ours\)"),
    (wants_all_memory, "out of memory"),
])
def test_a_child_that_fails_is_one_sentence(file, function, sentence):
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(UserError, match=sentence) as error:
            subprocess_probe.try_apart(function, file, "store")
        assert "\n" not in str(error.value)


def test_a_child_that_hangs(file, monkeypatch):
    monkeypatch.setattr(subprocess_probe, "SECONDS", 0.5)
    with pytest.raises(UserError, match=r"s.h5 could not be opened within 0.5 seconds"):
        subprocess_probe.try_apart(hangs, file, "store")


def test_each_file_is_tried_once_until_it_changes(file, monkeypatch):
    starts = []
    run = subprocess_probe.subprocess.run
    monkeypatch.setattr(
        subprocess_probe.subprocess, "run",
        lambda *args, **more: starts.append(1) or run(*args, **more))
    for _ in range(2):
        subprocess_probe.try_apart(opens, file, "store")
    assert len(starts) == 1
    file.write_text("xy")
    subprocess_probe.try_apart(opens, file, "store")
    assert len(starts) == 2
    file.write_text("xyz")
    subprocess_probe.trust(file)
    subprocess_probe.try_apart(opens, file.rename(file.with_name("t.h5")), "store")
    assert len(starts) == 2


def test_own_stores_start_no_child_and_foreign_ones_do(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess_probe, "_known", set())
    tried = []
    run = subprocess_probe.subprocess.run
    monkeypatch.setattr(
        subprocess_probe.subprocess, "run",
        lambda *args, **more: tried.append(1) or run(*args, **more))
    path = tmp_path / "s.h5"
    clip = Clip("a", "dog", None, np.ones((2, 3)), np.ones((1, 5)))
    write_store(path, name="pets", clips=[clip], class_names=["dog"], class_text=np.eye(1, 4),
                audio_seconds=1, video_seconds=1, provenance={})
    open_store(path)
    assert not tried
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 7
    with pytest.raises(UserError, match="schema version 7 but this code"):
        open_store(path)
    assert tried  # and this process has not opened it: the sentence is the child's
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1
    assert len(open_store(path)) == 1


def test_what_crashes_is_never_opened_here(tmp_path, monkeypatch):
    path = tmp_path / "s.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")

    def refuse(*_):
        raise UserError("crashed")

    monkeypatch.setattr(subprocess_probe, "try_apart", refuse)
    monkeypatch.setattr(stores.h5py, "File", None)
    with pytest.raises(UserError, match="crashed"):
        open_store(path)
