"""Class text vectors from files (dicts in .npy, matrices in .npz, lines in .csv), or from the names
where no file is given."""

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from avdiff_jax.data.class_text import ClassText, lack_text, match_text
from avdiff_jax.data.importers import text_encoders
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath, draft
from avdiff_jax.io.npy_npz import NpzFiles, npy_header
from avdiff_jax.io.safe_pickle import read_pickle

# What the message about an unfit .npz says; a .npy and a .csv leave less to choose.
READ = ("read are an .npz with one vector a class name, or with emb [classes, features] and names "
        "[classes] (other names: --text-key and --text-names)")


def read_text(
    path: FilePath, key: str | None = None, names_key: str | None = None
) -> dict[str, np.ndarray]:
    """Class text vectors by name.

    .npy: a saved dict {name: vector} (read without trusting its pickle).
    .npz: a matrix `key` with one row a name of `names_key`; without keys, "emb" and "names"
      where both are there, else one vector for each member.
    .csv: one line a class, name first; a header line is skipped.

    Returns {name: [Dt] float32}. Raises UserError for other files, repeated names, unequal
    dimensions.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        pairs = _text_of_npy(path)
    elif suffix == ".npz":
        pairs = _text_of_npz(path, key, names_key)
    elif suffix == ".csv":
        pairs = _text_of_csv(path)
    else:
        raise UserError(f"text file {path} ends in {suffix!r} and not in .npy, .npz or .csv: "
                        f"convert it")
    vectors = {}
    for name, vector in pairs:
        name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        if name in vectors:
            raise UserError(f"text file {path} names {name!r} twice: keep one")
        vector = np.asarray(vector)
        if vector.ndim != 1 or vector.size == 0 or vector.dtype.kind not in "biuf":
            raise UserError(f"text file {path} has shape {vector.shape}, type {vector.dtype} for "
                            f"{name!r} where a numeric vector is needed; "
                            f"{READ if suffix == '.npz' else 'mend it'}")
        with np.errstate(over="ignore"):  # infinity is refused later, with the class's name
            vectors[name] = vector.astype(np.float32)
        first = next(iter(vectors))
        if len(vector) != len(vectors[first]):
            raise UserError(f"text file {path} has {len(vector)} dimensions for {name!r} and "
                            f"{len(vectors[first])} for {first!r}: make them equal")
    if not vectors:
        raise UserError(f"text file {path} holds 0 vectors: name another")
    return vectors


def _text_of_npy(path: str) -> Iterable[tuple]:
    with text_files.open_file(path, "text file") as file:
        shape, _, dtype = npy_header(file, path)
        if not dtype.hasobject:
            raise UserError(f"text file {path} is an array of shape {shape} without names: save a "
                            f"dict of name to vector")
        table = read_pickle(file, path)
    if not isinstance(table, dict):
        raise UserError(f"text file {path} holds a {type(table).__name__} where a dict of name to "
                        f"vector is needed: save such a dict")
    return table.items()


def _text_of_npz(path: str, key: str | None, names_key: str | None) -> Iterable[tuple]:
    files = NpzFiles([path])
    if key is None and names_key is None and not ("emb" in files and "names" in files):
        return [(name, files.array(name, "--text-key")) for name in files.keys]
    key, names_key = key or "emb", names_key or "names"
    matrix = files.array(key, "--text-key")
    # vectors go to classes by name, never by position: a matrix without names is of no use
    names = files.array(names_key, "--text-names")
    if matrix.ndim != 2 or names.shape != matrix.shape[:1]:
        raise UserError(f"text file {path} has {key!r} of shape {matrix.shape} and {names_key!r} "
                        f"of shape {names.shape}; {READ}")
    return zip(names.tolist(), matrix, strict=True)


def _text_of_csv(path: str) -> Iterable[tuple]:
    pairs = []
    for number, row in enumerate(text_files.rows(path, "text file")):
        try:
            pairs.append((row[0], np.array([float(cell) for cell in row[1:]])))
        except ValueError:
            if number:  # line 1 may be a header
                raise UserError(f"text file {path}, line {row.line}, has a cell that is no "
                                f"number: mend it") from None
    return pairs


def read_manual_names(path: FilePath) -> dict[str, str]:
    """{class name: key in the text file} from a CSV with the header original,manual."""
    rows = text_files.rows(path, "name list")
    if not rows or rows[0][:2] != ["original", "manual"]:
        raise UserError(f"name list {path} starts with {','.join(rows[0]) if rows else ''!r} "
                        f"instead of the header original,manual: mend it")
    return {row[0]: row[1] for row in rows[1:] if len(row) > 1}


def class_text(
    class_names: Sequence[str], path: FilePath | None = None, key: str | None = None,
    names_key: str | None = None, text_map: FilePath | None = None,
) -> ClassText:
    """The text of the classes: rows of a file, by name; without one, what WordLlama makes of the
    names, or none where that is not installed.

    Args:
      path, key, names_key: see `read_text`.
      text_map: a CSV for `read_manual_names`, or None.

    Raises:
      UserError: an unfit file, classes without a vector, or words about a file that is not given.
    """
    manual = read_manual_names(text_map) if text_map else None
    if path is not None:
        vectors = match_file(class_names, path, key, names_key, manual)[0]
        return ClassText(vectors, os.path.basename(path))
    if key or names_key:
        raise UserError(f"the key {key or names_key!r} is of a text file and none is given: give "
                        f"the file or leave it out")
    if text_encoders.is_installed():
        return ClassText(
            text_encoders.encode_names(class_names, manual), text_encoders.identify())
    return lack_text(len(class_names), (
        f"no class text: give a text file, or install what makes it from class names (`"
        f"{text_encoders.INSTALL}`)",))


def match_file(
    class_names: Sequence[str], path: FilePath, key: str | None = None,
    names_key: str | None = None, manual: Mapping[str, str] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Rows [C, Dt] float32 of a text file for the classes, and a note on what was left over.

    Args:
      manual: as `read_manual_names` gives it.

    Raises:
      UserError: an unfit file, or classes without a vector.
    """
    vectors = read_text(path, key, names_key)
    rows, over = match_text(class_names, vectors, path, manual), len(vectors) - len(class_names)
    notes = [f"{over} vectors of {path} are of no class and were left out"] if over > 0 else []
    return rows, notes


def write_text(path: FilePath, vectors: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz of names and emb, as `read_text` reads it. Raises UserError."""
    with draft(path) as scratch, open(scratch, "wb") as file:
        np.savez(file, names=list(vectors), emb=np.stack(list(vectors.values())))
