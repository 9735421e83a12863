"""What is written appears whole or not at all, and nothing is lost that nobody asked to lose."""

import os
import stat
import threading

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.io import files


def test_a_file_is_replaced_only_when_all_went_well(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.draft(path) as scratch:
        with open(scratch, "w") as file:
            file.write("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    files.write_text(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_missing_folders_are_made_and_unmade(tmp_path):
    with pytest.raises(RuntimeError), files.draft(tmp_path / "a" / "b" / "c.txt"):
        raise RuntimeError
    assert not os.listdir(tmp_path)
    files.write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "there" / "a.txt", tmp_path / "link"
    files.write_text(target, "old")
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_device_stays_a_device(tmp_path):
    files.write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    files.check_output("/dev/null", overwrite=False, inputs=["/dev/null"])


def test_a_pipe_gets_the_content(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    files.write_text(pipe, "through")
    reader.join(10)
    assert read == ["through"] and stat.S_ISFIFO(os.stat(pipe).st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(UserError, match=r"is a folder: name a file"):
        files.write_text(tmp_path, "x")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an input, a link to it and a finished run."""
    monkeypatch.chdir(tmp_path)
    for name in ("in.h5", "other.csv", "run/config.json", "run/results.json"):
        files.write_text(name, "dear")
    os.symlink("in.h5", "link.h5")
    return tmp_path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("out, complaint", [
    ("in.h5", "in.h5 is read and would be written over"),
    ("./run/../in.h5", "is read and would be written over"),
    ("link.h5", "is read and would be written over"),
    ("run/new.csv", "run/new.csv lies in .*run, a finished run"),
    ("run/plots/new.png", "a finished run"),
    ("run", "a finished run"),
    ("run/results.json", "a finished run"),
])
def test_what_no_flag_allows(place, out, complaint, overwrite):
    with pytest.raises(UserError, match=complaint):
        files.check_output(out, overwrite=overwrite, inputs=["in.h5", "no file", "\0"])


def test_what_exists_needs_a_flag(place):
    os.symlink("nowhere", "dangling")
    for out in ("other.csv", "dangling"):
        with pytest.raises(UserError, match=f"{out} exists already: .*--overwrite"):
            files.check_output(out, overwrite=False, inputs=["in.h5"])
        files.check_output(out, overwrite=True, inputs=["in.h5"])
    files.check_output("new.csv", overwrite=False, inputs=["in.h5"])
    os.remove("run/results.json")  # the run goes on, so its folder is a folder like others
    files.check_output("run/new.csv", overwrite=False)
