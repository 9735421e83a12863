"""Files that appear whole or not at all, and the rule of what a command may write over."""

import contextlib
import csv
import io
import itertools
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from avdiff_jax.errors import UserError

FilePath = str | os.PathLike[str]

STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")  # written to, wherever they lead
RUN_FILES = ("config.json", "results.json")  # a folder that holds both is a finished run


@contextlib.contextmanager
def draft(path: FilePath) -> Iterator[str]:
    """Yields the name of a file to write; when all went well it takes the place of `path`.

    The draft lies in a scratch folder beside `path`, which has room for other scratch files and is
    gone afterwards. Missing parents are made and, on failure, unmade. A symbolic link stays and
    what it leads to is replaced; a pipe or a device stays and gets the content.

    Raises:
      UserError: `path` is a folder, or an OSError came up: the place cannot be written to, or the
        disk is full.
    """
    path = os.fspath(path)
    with written_to(path):
        if _is_stream(path):
            with tempfile.TemporaryDirectory(prefix="avdiff_jax-") as folder:
                scratch = os.path.join(folder, os.path.basename(path))
                yield scratch
                with open(scratch, "rb") as source, open(path, "wb") as stream:
                    shutil.copyfileobj(source, stream)
            return
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder: name a file to write")
        target = os.path.realpath(path)
        parent = os.path.dirname(target)
        with make_folder(parent):
            with tempfile.TemporaryDirectory(prefix=".making-", dir=parent) as folder:
                scratch = os.path.join(folder, "draft-" + os.path.basename(target))
                yield scratch
                _sync(scratch)
                os.replace(scratch, target)
            _sync(parent)


def write_text(path: FilePath, content: str) -> None:
    """Writes a text file, whole or not at all. Raises UserError as `draft` does."""
    with draft(path) as scratch, Path(scratch).open("w", encoding="utf-8") as file:
        file.write(content)


def write_csv(path: FilePath, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a table; floats get six significant digits and NaN becomes an empty cell."""

    def cell(value: object):
        if not isinstance(value, float | np.floating):
            return value
        return "" if math.isnan(value) else f"{value:.6g}"

    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(header)
    table.writerows(map(cell, row) for row in rows)
    write_text(path, out.getvalue())


def check_output(
    path: FilePath, *, overwrite: bool, inputs: Iterable[FilePath] = ()
) -> None:
    """Refuses an output that would destroy what nobody asked to destroy.

    Args:
      path: a file that is about to be written.
      overwrite: whether one that exists may be replaced.
      inputs: files and folders that are read; words that are no paths do no harm.

    Raises:
      UserError: `path` is an input, lies in the folder of a finished run, or exists and may not be
        overwritten.
    """
    path = os.fspath(path)
    if _is_stream(path):
        return
    if any(_is_same(path, source) for source in inputs):
        raise UserError(f"{path} is read and would be written over: name another place")
    if run := _finished_run(path):
        raise UserError(f"{path} lies in {run}, a finished run: name a place outside of it")
    if not overwrite and os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{path} exists already: name another place or add --overwrite")


def _is_same(path: str, source: FilePath) -> bool:
    try:
        return os.path.samefile(path, source)
    except (OSError, ValueError):  # one of them does not exist
        return False


def _finished_run(path: str) -> Path | None:
    """The folder of a finished run that `path` is or lies in."""
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        if all((folder / name).is_file() for name in RUN_FILES):
            return folder
    return None


def _is_stream(path: str) -> bool:
    """Whether `path` is something to write to rather than to replace: a pipe, a device."""
    if os.path.abspath(path).startswith(STREAMS):
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def written_to(path: FilePath) -> Iterator[None]:
    """Turns an OSError into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        # An error of the source files was already turned into a UserError where they are read.
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise UserError(
            f"cannot write {path}: {reason}: free space or name another place"
        ) from error


@contextlib.contextmanager
def make_folder(path: FilePath) -> Iterator[None]:
    """Makes a folder with its parents; when the block fails, those that were missing are unmade."""
    full = os.path.abspath(path)
    above = itertools.accumulate(itertools.repeat(full), lambda folder, _: os.path.dirname(folder))
    missing = list(itertools.takewhile(lambda folder: not os.path.exists(folder), above))
    try:
        os.makedirs(path, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:  # deepest first
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
