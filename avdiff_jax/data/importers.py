"""From feature files to a stream of clips: the published layout, plain arrays, manifests.

Every reader returns `(clips, Source)`: an iterator that `store.write_store` consumes, and what
is known beside the clips. Nothing from a file is ever executed: pickles pass a reader that
knows arrays, lists, dicts, tuples, strings and numbers only.
"""

import contextlib
import csv
import difflib
import hashlib
import io
import itertools
import math
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from avdiff_jax.data.splits import source_video
from avdiff_jax.data.store import Clip
from avdiff_jax.errors import UserError

MAX_TABLE_BYTES = 1 << 30  # labels, names, text vectors: anything larger is a mistake or a bomb
MAX_CLIP_BYTES = 1 << 30  # features of a single clip
PUBLISHED_SECONDS = {"audio": 0.96, "video": 0.64}  # VGGish; C3D, 16 frames at 25 per second

# The directories of the published layout, by the set that they hold.
PUBLISHED_SETS = {
    "train1_base": "stage_1_train_base",
    "train1_novel": "stage_1_train_novel",
    "val_base": "stage_1_val_seen",
    "val_novel": "stage_1_val_novel",
    "train2_novel": ("stage_2_train_novel", "stage_2_train_novel_1", "stage_2_train_novel_2"),
    "test_base": "stage_2_test_seen",
    "test_novel": ("stage_2_test_novel", "stage_2_test_novel_1", "stage_2_test_novel_2"),
}
# The class list that each directory must stay within, and the part of the classes it is about.
PUBLISHED_CLASSES = {
    "base1": ("stage_1_base_train", ("stage_1_train_base", "stage_1_val_seen")),
    "novel1": ("stage_1_novel_train", ("stage_1_train_novel", "stage_1_val_novel")),
    "novel2": (
        "stage_2_novel_train", PUBLISHED_SETS["train2_novel"] + PUBLISHED_SETS["test_novel"]),
    "base2": ("stage_2_base_train", ("stage_2_test_seen",)),
}


class Source(NamedTuple):
    """What a reader knows beside its clips."""

    name: str
    total: int | None  # clips to come, for the progress bar; None where nobody knows
    class_names: list[str]
    class_text: np.ndarray  # [C, Dt] float32, rows in the order of class_names
    files: list[str]  # base names of what was read, for the provenance
    notes: list[str]  # remarks for the report
    sets: dict | None = None  # official layout: set -> {class: [clip id]}, filled while reading
    classes: dict | None = None  # official layout: base1, novel1, novel2 -> class names


# ------------------------------------------------------------------- pickles, without trust


class _Refused(Exception):
    """A pickle asks for something that is not data."""


class _Global:
    """Stands for the few names a pickle may mention. Calling it builds data, nothing else."""

    __slots__ = ("make",)

    def __init__(self, make):
        object.__setattr__(self, "make", make)

    def __call__(self, *args):
        return self.make(*args)

    def __setattr__(self, name, value):  # BUILD with a state must not change us
        raise _Refused(f"setting {name!r}")

    def __setstate__(self, state):
        raise _Refused("setting the state of a global")


class _Dtype:
    """A dtype as a pickle spells it. Only plain numbers, strings and objects exist here.

    NumPy's own `dtype.__setstate__` would believe fields and flags from the file, and so
    could be told to take raw bytes for object pointers; it is therefore never called.
    """

    __slots__ = ("order", "spec")

    def __init__(self, spec, *_):
        spec = _text(spec)
        if not re.fullmatch(r"[<>=|]?([biuf]\d{1,2}|[SU]\d{1,6}|O8?)", spec):
            raise _Refused(f"the NumPy type {spec!r}")
        self.order = spec[0] if spec[0] in "<>" else "="
        self.spec = spec.lstrip("<>=|")

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) < 5 or any(
                part is not None for part in state[2:5]):
            raise _Refused("a structured NumPy type")
        order = _text(state[1])
        self.order = order if order in ("<", ">") else "="

    @property
    def holds_objects(self):
        return self.spec.startswith("O")

    def numpy(self):
        return np.dtype(self.spec).newbyteorder(self.order)


class _Array:
    """An array as a pickle spells it: made empty, then given its state."""

    __slots__ = ("value",)

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data, dtype, shape, order="C"):
    """Bytes -> array; a list (object array) -> its list, or its one element for shape ()."""
    if not isinstance(dtype, _Dtype):
        raise ValueError("an array without a type")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    if dtype.holds_objects:
        if not isinstance(data, list) or len(data) != math.prod(shape) or len(shape) > 1:
            raise ValueError(f"an object array of shape {shape}")
        return data if shape else data[0]
    if isinstance(data, str):  # protocol 2 spells bytes as text
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError("an array without bytes")
    kind = dtype.numpy()
    if len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and type {kind}")
    if not data:
        return np.zeros(shape, kind)
    return np.frombuffer(data, kind).reshape(shape, order="F" if _text(order) == "F" else "C")


def _frombuffer(data, dtype, shape, order, *_):
    """Stands for NumPy's function by which protocol 5 spells an array."""
    array = _Array()
    array.value = _array(data, dtype, shape, order)
    return array


def _encode(text, encoding="utf-8"):
    """Stands for `_codecs.encode`, by which protocol 2 spells bytes."""
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype, data=None):
    return _array(data, dtype, ()).item()


def _bytes(*args):
    """Stands for `bytes` and `bytearray`: empty, or a copy of bytes; never a size."""
    if args and isinstance(args[0], str) and len(args) == 2:
        return _encode(*args)
    if len(args) > 1 or (args and not isinstance(args[0], (bytes, bytearray))):
        raise _Refused("bytes() of something that is not bytes")
    return bytes(*args)


def _text(value):
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _globals():
    """Dotted name -> stand-in; made anew for each pickle, so that none can spoil the next."""
    table = {
        "numpy.dtype": _Dtype, "_codecs.encode": _encode,
        "numpy.ndarray": _Array,  # only ever an argument of _reconstruct
    }
    for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
        table[f"{core}.multiarray._reconstruct"] = _Array
        table[f"{core}.multiarray.scalar"] = _scalar
        table[f"{core}.numeric._frombuffer"] = _frombuffer
    for builtins in ("builtins", "__builtin__"):  # Python 3 and 2
        table[f"{builtins}.bytes"] = table[f"{builtins}.bytearray"] = _bytes
    return {name: _Global(make) for name, make in table.items()}


class _DataUnpickler(pickle.Unpickler):
    """Reads data; whatever else the file names is refused by that name."""

    def __init__(self, file):
        super().__init__(file, encoding="bytes")  # Python 2 strings stay bytes, as array data
        self._known = _globals()

    def find_class(self, module, name):
        dotted = f"{module}.{name}"
        if dotted not in self._known:
            raise _Refused(dotted)
        return self._known[dotted]

    def persistent_load(self, pid):
        raise _Refused(f"persistent id {pid!r}")


def read_pickle(file, path):
    """Reads a pickle of plain data from an open binary file without running anything.

    Returns dicts, lists, tuples, strings, numbers, None and numeric or string arrays; object
    arrays come back as lists. Raises UserError, naming `path` and whatever else was asked for.
    """
    try:
        return _plain(_DataUnpickler(file).load(), {}, 0)
    except _Refused as error:
        raise UserError(f"{path} is refused because its pickle asks for {error}, which is not "
                        f"plain data (arrays, lists, dicts, strings, numbers): save it as such"
                        ) from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError,
            KeyError, OverflowError, MemoryError, RecursionError, ImportError) as error:
        if isinstance(error, UserError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a readable pickle of plain data ({reason}): copy or make "
                        f"it again") from None


def _plain(value, done, depth):
    """Replaces stand-ins by what they hold; refuses types that are not data.

    `done` keeps shared parts shared: without it a small pickle could unfold without end.
    """
    if depth > 20:
        raise ValueError("containers nested more than 20 deep")
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if id(value) in done:
        if done[id(value)] is None:
            raise ValueError("a container that holds itself")
        return done[id(value)][0]
    done[id(value)] = None
    if type(value) is bytearray:
        result = bytes(value)
    elif type(value) is np.ndarray:
        result = value
    elif type(value) is _Array:
        result = value.value if value.value is None else _plain(value.value, done, depth + 1)
        if result is None:
            raise ValueError("an array without contents")
    elif type(value) in (list, tuple):
        result = type(value)(_plain(part, done, depth + 1) for part in value)
    elif type(value) is dict:
        result = {
            _plain(key, done, depth + 1): _plain(part, done, depth + 1)
            for key, part in value.items()
        }
    else:
        raise _Refused(f"a {type(value).__name__.lstrip('_')}")
    done[id(value)] = (result, value)  # keeps `value` alive, so that its id stays its own
    return result


# ------------------------------------------------------------------------- .npy and .npz


def _npy_header(file, path):
    """(shape, fortran, dtype) of an .npy stream, which then stands at the first value."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} where 1.0 or 2.0 is read")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
            np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = read(file)
        if any(size < 0 for size in shape) or dtype.itemsize == 0:
            raise ValueError(f"shape {shape}, type {dtype}")
    except (ValueError, TypeError, SyntaxError, EOFError, OSError, RecursionError, MemoryError,
            zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error) or "truncated").splitlines()[0]
        raise UserError(f"{path} is no .npy array or is truncated ({reason}): copy or make it "
                        f"again") from None
    return shape, fortran, dtype


def read_npy(path, max_bytes=MAX_CLIP_BYTES):
    """One plain numeric or string array of an .npy file; no pickles. Raises UserError."""
    with _opened(path) as file:
        shape, _, dtype = _npy_header(file, path)
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


@contextlib.contextmanager
def _opened(path, what="file"):
    """Opens a user's file for reading bytes, or raises UserError."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({os.strerror(error.errno)}): name an "
                        f"existing one") from None
    with file:
        yield file


class NpzFiles:
    """One or several .npz files seen as one table of arrays, each read once and on request.

    Feature arrays can be larger than memory; `rows` streams them clip by clip.
    """

    def __init__(self, paths):
        self.paths = [os.fspath(path) for path in paths]
        self._members = {}  # key -> paths of the files that hold it
        for path in self.paths:
            with self._zip(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        self._members.setdefault(info.filename[:-4], []).append(path)

    @contextlib.contextmanager
    def _zip(self, path):
        with _opened(path) as file:
            try:
                archive = zipfile.ZipFile(file)
            except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
                raise UserError(f"{path} is no .npz file or is truncated: save it with "
                                f"np.savez_compressed") from None
            with archive:
                yield archive

    @contextlib.contextmanager
    def _member(self, path, key):
        """The open member after its header, with (shape, fortran, dtype)."""
        with self._zip(path) as archive:
            info = archive.getinfo(key + ".npy")
            label = f"{path} [{key}]"
            try:
                file = archive.open(info)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
                raise UserError(f"{label} cannot be read ({error}): save it with "
                                f"np.savez_compressed") from None
            with file:
                shape, fortran, dtype = _npy_header(file, label)
                if dtype.hasobject:
                    raise UserError(f"{label} holds Python objects where plain values are needed: "
                                    f"save flat values and offsets")
                declared, there = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
                if declared != there:
                    raise UserError(f"{label} declares {declared} bytes of values and has {there}: "
                                    f"make the file again")
                yield file, shape, fortran, dtype, label

    def __contains__(self, key):
        return key in self._members

    @property
    def keys(self):
        return list(self._members)

    def _where(self, key, flag):
        if key not in self._members:
            raise UserError(f"{self._named()} has no array {key!r} (it has "
                            f"{', '.join(map(repr, self._members)) or 'none'}): change {flag}")
        return self._members[key]

    def _named(self):
        return " + ".join(self.paths)

    def array(self, key, flag):
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

    def _whole(self, path, key, limit=MAX_TABLE_BYTES):
        with self._member(path, key) as (file, shape, fortran, dtype, label):
            size = math.prod(shape) * dtype.itemsize
            if size > limit:
                raise UserError(f"{label} declares {size} bytes where at most {limit} make "
                                f"sense: check the key")
            values = np.frombuffer(_exactly(file, size, label), dtype)
            return values.reshape(shape, order="F" if fortran else "C")

    def flat_shape(self, key, flag):
        """(rows, dimension) of a flat feature array."""
        places = self._where(key, flag)
        if len(places) > 1:
            raise UserError(f"{places[0]} and {places[1]} both hold {key!r}: rename one or give "
                            f"one file")
        with self._member(places[0], key) as (_, shape, _, _, label):
            if len(shape) != 2:
                raise UserError(f"{label} has shape {shape} where (tokens, dimensions) is needed: "
                                f"change {flag}")
            return shape

    def rows(self, key, offsets):
        """Yields the [T, D] piece of each clip, in order, reading the file once."""
        path = self._members[key][0]
        with self._member(path, key) as (file, shape, fortran, dtype, label):
            if fortran:  # columns lie together: no way to stream rows
                values = self._whole(path, key, limit=math.inf)
                for start, stop in itertools.pairwise(offsets):
                    yield values[start:stop]
                return
            width = shape[1] * dtype.itemsize
            for length in np.diff(offsets).tolist():
                if length * width > MAX_CLIP_BYTES:
                    raise UserError(f"{label} has a clip of {length} tokens, {length * width} "
                                    f"bytes, where at most {MAX_CLIP_BYTES} make sense: check the "
                                    f"offsets")
                data = _exactly(file, length * width, label)
                yield np.frombuffer(data, dtype).reshape(length, shape[1])


def _exactly(file, size, label):
    try:
        data = file.read(size) if size else b""
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{label} is damaged ({error}): copy or make the file again") from None
    if len(data) != size:
        raise UserError(f"{label} ends after {len(data)} of {size} bytes: copy the file again")
    return data


# ------------------------------------------------------------------------- class text


def read_text(path, key=None, names_key=None) -> dict[str, np.ndarray]:
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
                            f"{name!r} where a numeric vector is needed: mend it")
        vectors[name] = vector.astype(np.float32)
        first = next(iter(vectors))
        if len(vector) != len(vectors[first]):
            raise UserError(f"text file {path} has {len(vector)} dimensions for {name!r} and "
                            f"{len(vectors[first])} for {first!r}: make them equal")
    if not vectors:
        raise UserError(f"text file {path} holds 0 vectors: name another")
    return vectors


def _text_of_npy(path):
    with _opened(path, "text file") as file:
        shape, _, dtype = _npy_header(file, path)
        if not dtype.hasobject:
            raise UserError(f"text file {path} is an array of shape {shape} without names: save a "
                            f"dict of name to vector")
        table = read_pickle(file, path)
    if not isinstance(table, dict):
        raise UserError(f"text file {path} holds a {type(table).__name__} where a dict of name to "
                        f"vector is needed: save such a dict")
    return table.items()


def _text_of_npz(path, key, names_key):
    files = NpzFiles([path])
    if key is None and names_key is None and not ("emb" in files and "names" in files):
        return [(name, files.array(name, "--text-key")) for name in files.keys]
    key, names_key = key or "emb", names_key or "names"
    matrix = files.array(key, "--text-key")
    # vectors go to classes by name, never by position: a matrix without names is of no use
    names = files.array(names_key, "--text-names")
    if matrix.ndim != 2 or names.shape != matrix.shape[:1]:
        raise UserError(f"text file {path} has {key!r} of shape {matrix.shape} and {names_key!r} "
                        f"of shape {names.shape}: change --text-key or --text-names")
    return zip(names.tolist(), matrix, strict=True)


def _text_of_csv(path):
    pairs = []
    for number, row in enumerate(_csv_rows(path)):
        try:
            pairs.append((row[0].strip(), np.array([float(cell) for cell in row[1:]], np.float32)))
        except ValueError:
            if number:  # line 1 may be a header
                raise UserError(f"text file {path}, line {number + 1}, has a cell that is no "
                                f"number: mend it") from None
    return pairs


def _csv_rows(path, what="text file"):
    with _opened(path, what) as file:
        try:
            text = file.read(MAX_TABLE_BYTES).decode("utf-8-sig")
            return [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{what} {path} is no UTF-8 CSV file ({error}): convert it") from None


class NameMatcher:
    """Finds a name in a list: exactly, or else without regard to case where that is unique."""

    def __init__(self, known):
        self._exact = set(known)
        self._folded = {}
        for name in self._exact:
            self._folded.setdefault(name.casefold(), []).append(name)

    def __call__(self, name):
        """The known spelling, or None."""
        if name in self._exact:
            return name
        same = self._folded.get(name.casefold(), ())
        return same[0] if len(same) == 1 else None


def match_text(class_names, vectors, path, manual=None):
    """Rows [C, Dt] float32 for the classes, by name.

    `manual` maps a class name to its key in the text file where the two are spelled apart.
    Raises UserError for a class without a vector.
    """
    find, respell = NameMatcher(vectors), NameMatcher(manual or ())
    rows = []
    for class_name in class_names:
        entry = respell(class_name)
        wanted = manual[entry] if entry is not None else class_name
        found = find(wanted)
        if found is None:
            close = difflib.get_close_matches(wanted, vectors, 1)
            hint = f", the closest of {len(vectors)} names is {close[0]!r}" if close else ""
            raise UserError(f"class {class_name!r} has no text vector in {path}{hint}: add one")
        rows.append(vectors[found])
    return np.stack(rows)


def read_manual_names(path):
    """{class name: key in the text file} from a CSV with the header original,manual."""
    rows = _csv_rows(path, "name list")
    if not rows or [cell.strip() for cell in rows[0][:2]] != ["original", "manual"]:
        raise UserError(f"name list {path} starts with {','.join(rows[0]) if rows else ''!r} "
                        f"instead of the header original,manual: mend it")
    return {row[0].strip(): row[1].strip() for row in rows[1:] if len(row) > 1}


# ------------------------------------------------------------------------- pooling


def pooled(clips, audio=1, video=1) -> Iterator[Clip]:
    """Averages every `audio` (`video`) consecutive tokens; a shorter rest makes one token too."""
    for clip in clips:
        yield clip._replace(audio=_averaged(clip.audio, audio), video=_averaged(clip.video, video))


def _averaged(values, every):
    """[T, D] -> [ceil(T / every), D]; what is no such array is left for the store to refuse."""
    if every == 1 or values is None:
        return values
    values = np.asarray(values)
    if values.ndim != 2 or len(values) == 0 or values.dtype.kind not in "biuf":
        return values
    starts = np.arange(0, len(values), every)
    counts = np.minimum(every, len(values) - starts)[:, None]
    with np.errstate(all="ignore"):  # NaN and infinity pass through, and the store names the clip
        return (np.add.reduceat(values, starts, axis=0, dtype=np.float64) / counts).astype(
            np.float32)


# ------------------------------------------------------------------------- flat + offsets


def read_npz(
    paths, *, audio_key, video_key, label_key, class_key=None, id_key=None, group_key=None,
    text, text_key=None, text_names=None, text_map=None,
):
    """Reads flat values + offsets from one or several .npz files.

    Args:
      paths: the files; a key may lie in any of them.
      audio_key, video_key: "m1" for the arrays m1_flat and m1_offsets, or "values,offsets" to
        name both; None where the data set lacks the modality. Clip i is
        values[offsets[i]:offsets[i + 1]].
      label_key: [n] class numbers (0-based, needs `class_key`) or class names.
      class_key: [C] class names.
      id_key: [n] clip ids; None numbers the clips.
      group_key: [n] the group of each clip.
      text, text_key, text_names, text_map: see `read_text` and `read_manual_names`.

    Returns (clips, Source). Raises UserError for unknown keys and arrays that disagree.
    """
    files = NpzFiles(paths)
    named = files._named()
    labels = files.array(label_key, "--label-key")
    n = len(np.atleast_1d(labels))
    if labels.ndim != 1 or n == 0:
        raise UserError(f"{named} [{label_key}] has shape {labels.shape} where one label a clip is "
                        f"needed: change --label-key")
    ids = _column(files, id_key, n, "--id-key", named)
    if ids is None:
        ids = [f"clip{number:0{len(str(n - 1))}d}" for number in range(n)]
    groups = _column(files, group_key, n, "--group-key", named)
    class_names, numbers = _npz_classes(files, labels, label_key, class_key, ids, named)

    streams = {}
    for modality, key in (("audio", audio_key), ("video", video_key)):
        if key is not None:
            streams[modality] = _npz_stream(files, key, n, f"--{modality}-key", named)
    if not streams:
        raise UserError(f"{named} needs features: give --audio-key or --video-key")

    def clips():
        pieces = {
            modality: files.rows(values_key, offsets)
            for modality, (values_key, offsets) in streams.items()
        }
        for number in range(n):
            given = {modality: next(stream) for modality, stream in pieces.items()}
            yield Clip(ids[number], class_names[numbers[number]],
                       None if groups is None else groups[number],
                       given.get("audio"), given.get("video"))

    vectors = read_text(text, text_key, text_names)
    manual = read_manual_names(text_map) if text_map else None
    source = Source(
        name=os.path.splitext(os.path.basename(named))[0],
        total=n,
        class_names=class_names,
        class_text=match_text(class_names, vectors, text, manual),
        files=[os.path.basename(path) for path in [*files.paths, os.fspath(text)]],
        notes=[],
    )
    return clips(), source


def _column(files, key, n, flag, named):
    """[n] strings, or None without a key."""
    if key is None:
        return None
    values = files.array(key, flag)
    if values.shape != (n,):
        raise UserError(f"{named} [{key}] has shape {values.shape} for {n} labels: change {flag}")
    return _strings(values)


def _strings(values):
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            for value in values.tolist()]


def _npz_classes(files, labels, label_key, class_key, ids, named):
    """Class names, and the number of each clip's class."""
    if labels.dtype.kind in "SU":
        names = _strings(labels)
        known = sorted(set(names)) if class_key is None else _strings(
            files.array(class_key, "--class-key"))
        find = {name: number for number, name in enumerate(known)}
        for clip_id, name in zip(ids, names, strict=True):
            if name not in find:
                raise UserError(f"{named} gives clip {clip_id!r} the label {name!r}, which is none "
                                f"of the {len(known)} in [{class_key}]: mend one of them")
        return known, [find[name] for name in names]
    if labels.dtype.kind not in "iu":
        raise UserError(f"{named} [{label_key}] is of type {labels.dtype} where class numbers or "
                        f"names are needed: change --label-key")
    if class_key is None:
        raise UserError(f"{named} [{label_key}] holds class numbers, which need names: give "
                        f"--class-key")
    known = files.array(class_key, "--class-key")
    if known.ndim != 1 or known.dtype.kind not in "SU":
        raise UserError(f"{named} [{class_key}] has shape {known.shape}, type {known.dtype} where "
                        f"class names are needed: change --class-key")
    outside = np.flatnonzero((labels < 0) | (labels >= len(known)))
    if outside.size:
        raise UserError(f"{named} gives clip {ids[outside[0]]!r} the label {labels[outside[0]]} "
                        f"but [{class_key}] has {len(known)} classes, counted from 0: mend the "
                        f"labels")
    return _strings(known), labels.tolist()


def _npz_stream(files, key, n, flag, named):
    """(key of the values, [n+1] int64 offsets)."""
    values_key, _, offsets_key = key.partition(",")
    if not offsets_key:
        values_key, offsets_key = f"{key}_flat", f"{key}_offsets"
    rows, _ = files.flat_shape(values_key, flag)
    offsets = files.array(offsets_key, flag)
    if offsets.dtype.kind not in "iu" or offsets.shape != (n + 1,):
        raise UserError(f"{named} [{offsets_key}] has shape {offsets.shape}, type {offsets.dtype} "
                        f"for {n} labels where {n + 1} integers are needed: change {flag}")
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
        raise UserError(f"{named} [{offsets_key}] goes from {offsets[0]} to {offsets[-1]} where it "
                        f"must rise from 0 to the {rows} rows of [{values_key}]: mend the offsets")
    return values_key, offsets


# ------------------------------------------------------------------------- manifest


def read_manifest(path, *, text, text_key=None, text_names=None, text_map=None):
    """Reads a CSV with the header clip_id,class,group,audio,video (group may be left out).

    audio and video name .npy files, [T, D], relative to the CSV; an empty cell says that the
    clip lacks the modality. Returns (clips, Source). Raises UserError.
    """
    rows = _csv_rows(path, "manifest")
    header = [cell.strip() for cell in rows[0]] if rows else []
    needed = {"clip_id", "class", "audio", "video"}
    if not needed <= set(header) or len(set(header)) != len(header) or set(header) - needed - {
            "group"}:
        raise UserError(f"manifest {path} has the header {','.join(header)!r} instead of "
                        f"clip_id,class,group,audio,video: mend it")
    entries = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UserError(f"manifest {path}, row {number}, has {len(row)} cells where the header "
                            f"has {len(header)}: mend it")
        entries.append({key: cell.strip() for key, cell in zip(header, row, strict=True)})
    class_names = sorted({entry["class"] for entry in entries})
    if not class_names:
        raise UserError(f"manifest {path} lists 0 clips: add some")
    folder = os.path.dirname(os.fspath(path))

    def features(entry, modality):
        if not entry[modality]:
            return None
        return read_npy(os.path.join(folder, entry[modality]))

    def clips():
        for entry in entries:
            yield Clip(entry["clip_id"], entry["class"], entry.get("group") or None,
                       features(entry, "audio"), features(entry, "video"))

    vectors = read_text(text, text_key, text_names)
    manual = read_manual_names(text_map) if text_map else None
    source = Source(
        name=os.path.splitext(os.path.basename(path))[0],
        total=len(entries),
        class_names=class_names,
        class_text=match_text(class_names, vectors, text, manual),
        files=[os.path.basename(path), os.path.basename(text)],
        notes=[],
    )
    return clips(), source


# ------------------------------------------------------------------------- published layout


def published_shots(root):
    """The k for which a published archive folder has features, ascending."""
    folder = os.path.join(root, "features")
    if not os.path.isdir(folder):
        raise UserError(f"{root} has no folder 'features' and so is no published archive: name the "
                        f"folder that holds 'features' and 'class-split'")
    found = [re.fullmatch(r"(\d+)-shot", entry) for entry in os.listdir(folder)]
    return sorted(int(match[1]) for match in found if match)


def read_official(root, shots, *, text=None, text_map=None, progress=None):
    """Reads the published archive layout with its pre-made sets for `shots` shots.

    Args:
      root: the folder that holds `features` and `class-split`.
      shots: k of `features/<k>-shot`.
      text: text vectors; None takes the `features/<k>-shot/text/*.npy` of the archive.
      text_map: CSV original,manual; None takes the one in `class-split`.
      progress: an `avdiff_jax.progress.Progress` that is told the MiB to read and the MiB read;
        how many clips there are turns out only in the end.

    Returns (clips, Source). `Source.sets` and `.classes` hold the pre-made split once the clips
    are exhausted. Groups are source videos, as far as the ids tell. A clip of several sets (the
    three draws share theirs) comes once, and its copies must agree. Raises UserError.
    """
    root = os.fspath(root)
    there = published_shots(root)
    if shots not in there:
        raise UserError(f"{root} has no features for {shots} shots but for "
                        f"{', '.join(map(str, there)) or 'none'}: change --shots")
    base = os.path.join(root, "features", f"{shots}-shot")
    lists = os.path.join(root, "class-split")
    text = text or _only(os.path.join(base, "text"), ".npy", "--text", prefer="_normed.npy")
    if text_map is None and os.path.isdir(lists):
        text_map = _only(lists, "_w2v_class_names.csv", "--text-map", required=False)
    spelling = _published_spelling(lists, base)
    notes = []
    parts, class_names, classes = _published_index(base, lists, shots, spelling, notes)
    vectors = read_text(text)
    manual = read_manual_names(text_map) if text_map else None
    sets = {name: [{} for _ in folders] if isinstance(folders, tuple) else {}
            for name, folders in PUBLISHED_SETS.items()}
    source = Source(
        name=os.path.basename(os.path.abspath(root)),
        total=None,
        class_names=class_names,
        class_text=match_text(class_names, vectors, text, manual),
        files=[os.path.basename(os.path.abspath(root)), f"{shots}-shot", os.path.basename(text)],
        notes=notes,
        sets=sets,
        classes=classes,
    )
    return _published_clips(parts, sets, progress), source


def _only(folder, suffix, flag, prefer=None, required=True):
    """The one file in `folder` that ends in `suffix` (or, among several, in `prefer`)."""
    found = sorted(entry for entry in (os.listdir(folder) if os.path.isdir(folder) else ())
                   if entry.endswith(suffix))
    if len(found) > 1 and prefer:
        found = [entry for entry in found if entry.endswith(prefer)] or found
    if len(found) == 1:
        return os.path.join(folder, found[0])
    if not found and not required:
        return None
    raise UserError(f"{folder} has {len(found)} files that end in {suffix!r} where 1 is needed: "
                    f"name it with {flag}")


def _lines(path):
    with _opened(path, "class list") as file:
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _published_spelling(lists, base):
    """A function from a file stem to the class name that all_class.txt spells."""
    path = os.path.join(lists, "all_class.txt")
    if os.path.exists(path):
        known = _lines(path)
    else:  # the spelling of the base directories, then, is the one to go by
        known = {}
        for folder in _folders():
            for stem in _stems(os.path.join(base, "audio", folder)):
                known.setdefault(stem.casefold(), stem)
        known = known.values()
        path = os.path.join(base, "audio")
    find = NameMatcher(known)

    def spelling(stem, file):
        name = find(stem)
        if name is None:
            raise UserError(f"{file} is of class {stem!r}, which {path} does not list: add the "
                            f"class or remove the file")
        return name

    return spelling


def _folders():
    for folders in PUBLISHED_SETS.values():
        yield from folders if isinstance(folders, tuple) else (folders,)


def _stems(folder):
    if not os.path.isdir(folder):
        raise UserError(f"{folder} does not exist though the published layout has it: complete the "
                        f"archive or change --shots")
    return sorted(entry[:-4] for entry in os.listdir(folder) if entry.endswith(".pkl"))


def _published_index(base, lists, shots, spelling, notes):
    """Which class files there are, checked against each other and the class lists.

    Returns [(set, draw or None, class, audio file, video file)], class names, and the classes of
    base1, novel1, novel2.
    """
    allowed = {}
    for list_name, folders in PUBLISHED_CLASSES.values():
        path = os.path.join(lists, f"{shots}-shot", list_name + ".txt")
        if os.path.exists(path):
            for folder in folders:
                allowed[folder] = {spelling(line, path) for line in _lines(path)}
    parts, found = [], {}
    for set_name, folders in PUBLISHED_SETS.items():
        draws = folders if isinstance(folders, tuple) else (folders,)
        for draw, folder in enumerate(draws):
            files = {}
            for modality in ("audio", "video"):
                place = os.path.join(base, modality, folder)
                files[modality] = {}
                for stem in _stems(place):
                    file = os.path.join(place, stem + ".pkl")
                    class_name = spelling(stem, file)
                    if class_name in files[modality]:
                        raise UserError(f"{place} has two files of class {class_name!r}: keep one")
                    files[modality][class_name] = file
            one_sided = sorted(set(files["audio"]) ^ set(files["video"]))
            if one_sided:
                raise UserError(
                    f"{folder} of {base} has {len(files['audio'])} classes in audio and "
                    f"{len(files['video'])} in video, {one_sided[0]!r} is in one of them only: "
                    f"complete the archive")
            for class_name in sorted(files["audio"]):
                if class_name not in allowed.get(folder, {class_name}):
                    # published lists of clips name a few classes that the split leaves out
                    notes.append(f"left out class {class_name!r} of {folder}, which the class "
                                 f"lists do not have there")
                    continue
                found.setdefault(folder, set()).add(class_name)
                parts.append((set_name, draw if isinstance(folders, tuple) else None, class_name,
                              files["audio"][class_name], files["video"][class_name]))
    classes = {
        "base1": sorted(found.get("stage_1_train_base", ())),
        "novel1": sorted(found.get("stage_1_train_novel", ())),
        "novel2": sorted(found.get("stage_2_train_novel", ())),
    }
    return parts, sorted(set().union(*found.values())) if found else [], classes


def _published_clips(parts, sets, progress):
    """Yields each clip once and files its id under every set that has it."""
    known = {}  # clip id -> (class, digest of its features)
    sizes = [_mebibytes(audio) + _mebibytes(video) for *_, audio, video in parts]
    if progress is not None:
        progress.total = round(sum(sizes))
    read = 0.0
    for (set_name, draw, class_name, audio_file, video_file), size in zip(
            parts, sizes, strict=True):
        audio, video = _read_class(audio_file), _read_class(video_file)
        one_sided = sorted(set(audio) ^ set(video))
        if one_sided:
            raise UserError(f"{audio_file} has {len(audio)} clips and {video_file} has "
                            f"{len(video)}, {one_sided[0]!r} is in one of them only: complete the "
                            f"archive")
        target = sets[set_name] if draw is None else sets[set_name][draw]
        target[class_name] = list(audio)
        for clip_id in audio:
            digest = _digest(audio[clip_id], video[clip_id])
            if clip_id not in known:
                known[clip_id] = (class_name, digest)
                yield Clip(clip_id, class_name, source_video(clip_id), audio[clip_id],
                           video[clip_id])
            elif known[clip_id][0] != class_name:
                raise UserError(f"clip {clip_id!r} is of class {known[clip_id][0]!r} and, in "
                                f"{audio_file}, of {class_name!r}: keep one")
            elif known[clip_id][1] != digest:
                raise UserError(f"clip {clip_id!r} in {audio_file} or {video_file} differs from "
                                f"its copy in another set: make the archive again")
        if progress is not None:  # whole MiB, rounded at the running sum
            progress.step(round(read + size) - round(read), f"MiB, {len(known)} clips")
        read += size


def _mebibytes(path):
    return os.path.getsize(path) / (1 << 20)


def _read_class(path):
    """{clip id: [T, D] features} of one class file, in the order of the file."""
    with _opened(path) as file:
        content = read_pickle(file, path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} where a dict with features and "
                        f"video_names is needed: make it again")
    content = {key.decode("utf-8", "replace") if isinstance(key, bytes) else key: value
               for key, value in content.items()}
    lacking = [key for key in ("features", "video_names") if key not in content]
    if lacking:
        raise UserError(f"{path} has no {lacking[0]!r} (it has {', '.join(map(str, content))}): "
                        f"make it again")
    features, names = content["features"], content["video_names"]
    names = _strings(np.asarray(names)) if isinstance(names, np.ndarray) else [
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        for name in names if isinstance(name, (bytes, str))
    ] if isinstance(names, (list, tuple)) else []
    if not isinstance(features, (list, tuple, np.ndarray)) or len(features) != len(names):
        count = len(features) if hasattr(features, "__len__") else 0
        raise UserError(f"{path} has {count} feature arrays and {len(names)} video names: make it "
                        f"again")
    clips = dict(zip(names, features, strict=True))
    if len(clips) != len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise UserError(f"{path} names the clip {twice!r} twice: keep one")
    for name, values in clips.items():
        if not isinstance(values, np.ndarray):
            raise UserError(f"{path} has a {type(values).__name__} for clip {name!r} where an "
                            f"array of features is needed: make it again")
    return clips


def _digest(*arrays):
    """A fingerprint of features as they would be stored, whatever type a copy has."""
    state = hashlib.blake2b(digest_size=16)
    for values in arrays:
        state.update(repr(values.shape).encode())
        if values.dtype.kind in "biuf":
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(values, np.float32)
        state.update(values.tobytes())
    return state.digest()
