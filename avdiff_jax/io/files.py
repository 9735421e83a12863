"""Files on disk that appear whole or not at all, and plain data in them."""

import contextlib
import csv
import io
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from avdiff_jax.errors import UserError


def plain(value, place: str = ""):
    """Only dict, list, str, bool, int, finite float and None, from anything that means these.

    Args:
      value: mappings (a ConfigDict too), sequences, arrays and scalars of NumPy and JAX, nested;
        anything else becomes its string.
      place: what to call `value` in a complaint.

    Raises:
      ValueError: a number that is not finite, named by its place.
    """
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(k): plain(v, f"{place}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist(), place)
    if isinstance(value, list | tuple):
        return [plain(v, f"{place}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}: only finite numbers are written")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def write_atomically(path: Path, content: str) -> None:
    """All or nothing, whenever the process dies."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """A table as CSV; floats with six significant digits, NaN as an empty cell."""

    def cell(value):
        if not isinstance(value, float | np.floating):
            return value
        return "" if math.isnan(value) else f"{value:.6g}"

    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(header)
    table.writerows(map(cell, row) for row in rows)
    write_atomically(path, out.getvalue())



def check_free(*paths, overwrite: bool) -> None:
    """Raises UserError where a file is there already, unless it may be overwritten."""
    there = [os.fspath(path) for path in paths if os.path.exists(path)]
    if there and not overwrite:
        raise UserError(f"{there[0]} exists already: name another place or add --overwrite")


@contextlib.contextmanager
def draft(path) -> Iterator[str]:
    """Yields the name of a file to write; when all went well it takes the place of `path`.

    The draft lies in a scratch folder beside `path`, which has room for other scratch files and is
    gone afterwards. Missing parents are made and, on failure, unmade.

    Raises:
      UserError: `path` is a folder, or an OSError came up: the place cannot be written to, or the
        disk is full.
    """
    path = os.fspath(path)
    parent = os.path.dirname(path) or "."
    above = [parent]
    while os.path.dirname(above[-1]) not in ("", above[-1]):
        above.append(os.path.dirname(above[-1]))
    missing = list(itertools.takewhile(lambda folder: not os.path.exists(folder), above))
    try:
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder: name a file to write")
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=parent) as folder:
            made = os.path.join(folder, "draft-" + os.path.basename(path))
            yield made
            _sync(made)
            os.replace(made, path)
            _sync(parent)
    except BaseException as error:
        for folder in missing:  # deepest first
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        # an error of the source files was already turned into a UserError where they are read
        if isinstance(error, OSError):
            reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
            raise UserError(f"cannot write {path}: {reason}: free space or name another place"
                            ) from error
        raise


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
