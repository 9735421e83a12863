"""Arrays in .npy and .npz files of users: no pickles, and no more memory than the file is worth."""

import contextlib
import itertools
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.safe_pickle import read_pickle

MAX_CLIP_BYTES = 1 << 30  # features of a single clip


def strings(values: np.ndarray) -> list[str]:
    """The elements of an array as strings; bytes are UTF-8."""
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            for value in values.tolist()]


def npy_header(file: IO[bytes], path: FilePath):
    """(shape, fortran, dtype) of an .npy stream, which then stands at the first value."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} where 1.0 or 2.0 is read")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
            np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = read(file)
        if any(type(size) is not int or size < 0 for size in shape) or dtype.itemsize == 0:
            raise ValueError(f"shape {shape}, type {dtype}")
    except (ValueError, TypeError, SyntaxError, EOFError, OSError, RecursionError, MemoryError,
            tokenize.TokenError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error) or "truncated").splitlines()[0]
        raise UserError(f"{path} is no .npy array or is truncated ({reason}): copy or make it "
                        f"again") from None
    return shape, fortran, dtype


def read_npy(path: FilePath, max_bytes: float = MAX_CLIP_BYTES):
    """One plain numeric or string array of an .npy file; no pickles. Raises UserError."""
    with text_files.open_file(path) as file:
        shape, _, dtype = npy_header(file, path)
        if dtype.hasobject:
            raise UserError(f"{path} holds Python objects ({dtype}) where a plain numeric array is "
                            f"needed: save it as float32")
        declared, there = math.prod(shape) * dtype.itemsize, os.path.getsize(path) - file.tell()
        if declared > there:
            raise UserError(f"{path} is truncated, it declares {declared} bytes of values and has "
                            f"{there}: copy or make it again")
        if declared > max_bytes:
            raise UserError(f"{path} declares {declared} bytes where at most {max_bytes} make "
                            f"sense: store one clip in a file")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


class _Member(NamedTuple):
    """An array of an .npz file, open at its first value."""

    file: IO[bytes]
    label: str  # for messages: file and key
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def nbytes(self):
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, size: int):
        """The next `size` bytes of values."""
        try:
            data = self.file.read(size) if size else b""
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise UserError(f"{self.label} is damaged ({error}): copy or make the file again"
                            ) from None
        if len(data) != size:
            raise UserError(f"{self.label} ends after {len(data)} of {size} bytes: copy the file "
                            f"again")
        return data


def _read_names(member: _Member) -> np.ndarray:
    """An array of Python strings as one of text: lists of names are often saved so."""
    try:
        values = read_pickle(cast(BinaryIO, member.file), member.label)
    except UserError as error:
        raise UserError(f"{member.label} holds Python objects that are no names: {error}") from None
    if not isinstance(values, list) or not all(isinstance(v, str | bytes) for v in values):
        raise UserError(f"{member.label} holds Python objects that are no names: save numbers as a "
                        f"numeric array and names as text, np.array(names, str)")
    return np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values])


class NpzFiles:
    """One or several .npz files seen as one table of arrays, each read once and on request.

    Feature arrays can be larger than memory; `rows` streams them clip by clip.

    Args:
      advice: what to do about a file that is none.
    """

    def __init__(
        self, paths: Iterable[FilePath], advice: str = "save it with np.savez_compressed"
    ):
        self.paths, self.advice = [os.fspath(path) for path in paths], advice
        self._members = {}  # key -> paths of the files that hold it
        for path in self.paths:
            with self._zip(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        self._members.setdefault(info.filename[:-4], []).append(path)

    @contextlib.contextmanager
    def _zip(self, path: FilePath):
        with text_files.open_file(path) as file:
            try:
                archive = zipfile.ZipFile(file)
            except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
                raise UserError(
                    f"{path} is no .npz file or is truncated: {self.advice}") from None
            with archive:
                yield archive

    @contextlib.contextmanager
    def _member(self, path: FilePath, key: str, names: bool = False):
        """The open member after its header, checked against the size that the archive states.

        Args:
          names: Python objects are let through, for `_read_names`.
        """
        with self._zip(path) as archive:
            info = archive.getinfo(key + ".npy")
            label = f"{path} [{key}]"
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{label} is packed by method {info.compress_type} where 0 or 8 is "
                                f"read: save it with np.savez_compressed")
            try:
                file = archive.open(info)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
                raise UserError(f"{label} cannot be read ({error}): save it with "
                                f"np.savez_compressed") from None
            with file:
                member = _Member(file, label, *npy_header(file, label))
                if member.dtype.hasobject and not names:
                    raise UserError(f"{label} holds Python objects where plain values are needed: "
                                    f"save flat values and offsets")
                there = info.file_size - file.tell()
                if member.nbytes != there and not member.dtype.hasobject:
                    raise UserError(f"{label} declares {member.nbytes} bytes of values and has "
                                    f"{there}: make the file again")
                yield member

    def __contains__(self, key: str):
        return key in self._members

    @property
    def keys(self):
        """The keys of all files."""
        return list(self._members)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of each array, without reading its values."""
        found = {}
        for key, (path, *_) in self._members.items():
            with self._member(path, key, names=True) as member:
                found[key] = member.shape, member.dtype
        return found

    @property
    def named(self):
        """The files, for messages."""
        return " + ".join(self.paths)

    def _where(self, key: str, flag: str):
        if key not in self._members:
            raise UserError(f"{self.named} has no array {key!r} (it has "
                            f"{', '.join(map(repr, self._members)) or 'none'}): change {flag}")
        return self._members[key]

    def array(self, key: str, flag: str):
        """A small array by its key. Where several files hold it they must agree.

        Raises UserError naming `flag` where the key is unknown.
        """
        first, *others = self._where(key, flag)
        values = self._whole(first, key)
        for other in others:
            again = self._whole(other, key)
            if not np.array_equal(values, again):
                raise UserError(f"{first} and {other} disagree about {key!r} (lengths "
                                f"{len(np.atleast_1d(values))} and {len(np.atleast_1d(again))}): "
                                f"give files that list the same clips in the same order")
        return values

    def _whole(self, path: FilePath, key: str, limit: float | None = None):
        limit = text_files.MAX_TABLE_BYTES if limit is None else limit
        with self._member(path, key, names=True) as member:
            if member.dtype.hasobject:
                return _read_names(member)
            if member.nbytes > limit:
                raise UserError(f"{member.label} declares {member.nbytes} bytes where at most "
                                f"{limit} make sense: check the key")
            values = np.frombuffer(member.read(member.nbytes), member.dtype)
            return values.reshape(member.shape, order="F" if member.fortran else "C")

    def flat_shape(self, key: str, flag: str):
        """(rows, dimension) of a flat feature array."""
        places = self._where(key, flag)
        if len(places) > 1:
            raise UserError(f"{places[0]} and {places[1]} both hold {key!r}: rename one or give "
                            f"one file")
        with self._member(places[0], key) as member:
            if len(member.shape) != 2:
                raise UserError(f"{member.label} has shape {member.shape} where (tokens, "
                                f"dimensions) is needed: change {flag}")
            return member.shape

    def rows(self, key: str, offsets: np.ndarray):
        """Yields the [T, D] piece of each clip, in order, reading the file once."""
        path = self._members[key][0]
        with self._member(path, key) as member:
            if member.fortran:  # columns lie together: no way to stream rows
                values = self._whole(path, key, limit=math.inf)
                for start, stop in itertools.pairwise(offsets):
                    yield values[start:stop]
                return
            width = member.shape[1] * member.dtype.itemsize
            for length in np.diff(offsets).tolist():
                if length * width > MAX_CLIP_BYTES:
                    raise UserError(f"{member.label} has a clip of {length} tokens, "
                                    f"{length * width} bytes, where at most {MAX_CLIP_BYTES} make "
                                    f"sense: check the offsets")
                piece = np.frombuffer(member.read(length * width), member.dtype)
                yield piece.reshape(length, member.shape[1])
