"""Plain data and text on disk, whole or not at all."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np


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
