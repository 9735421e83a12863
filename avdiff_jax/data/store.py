"""The feature store: one HDF5 file with ragged audio and video feature sequences.

Layout (everything contiguous and uncompressed, so that values can be memory-mapped):

    attributes           schema, version, name, may_lack_modality
    clip_ids   [n]       UTF-8 bytes
    labels     [n]       int32, index into class_names
    groups     [n]       UTF-8 bytes; optional: source video, speaker ...; "" is a group of its own
    class_names [C]      UTF-8 bytes
    class_text [C, Dt]   float32
    audio/values [N, Da] uint8 or float32;      audio/offsets [n+1] int64; attribute seconds
    video/values [M, Dv] float32 or float16;    video/offsets [n+1] int64; attribute seconds
    provenance           a JSON object as UTF-8 bytes

Clip i holds rows offsets[i] .. offsets[i+1] of a modality, one row a token.
"""

import contextlib
import errno
import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import h5py
import numpy as np

from avdiff_jax.errors import UserError

SCHEMA = "avdiff_jax.store"
VERSION = 1
ALIGNMENT = 64  # bytes: mapped values start on a cache line, whatever their type
COPY_BYTES = 1 << 24  # values are copied in pieces of about this size
MAX_ID_BYTES = 1024  # names are stored at fixed width, so one absurd name would widen all
VALUE_TYPES = {"audio": ("uint8", "float32"), "video": ("float32", "float16")}


class Sequences(NamedTuple):
    """One modality of all clips: flat values and where each clip starts."""

    values: np.ndarray  # [N, D] uint8, float16 or float32; memory-mapped, read-only
    offsets: np.ndarray  # [n+1] int64
    seconds: float  # seconds per token

    @property
    def lengths(self):
        """[n] int64: tokens of each clip; 0 where the clip lacks the modality."""
        return np.diff(self.offsets)

    @property
    def dim(self):
        return self.values.shape[1]


class Clip(NamedTuple):
    """What an importer hands over; a modality that the clip lacks is None."""

    clip_id: str
    class_name: str
    group: str | None
    audio: np.ndarray | None  # [Ta, Da]
    video: np.ndarray | None  # [Tv, Dv]


@dataclass(frozen=True, eq=False)
class Store:
    """An open store. Feature values stay in the file until they are indexed."""

    path: str
    name: str
    clip_ids: np.ndarray  # [n] str
    labels: np.ndarray  # [n] int32, index into class_names
    groups: np.ndarray | None  # [n] str; "" is a group of its own
    class_names: tuple[str, ...]
    class_text: np.ndarray  # [C, Dt] float32
    audio: Sequences
    video: Sequences
    may_lack_modality: bool
    provenance: dict

    def __len__(self):
        return len(self.clip_ids)


class Report(NamedTuple):
    """What a store holds, for people."""

    path: str
    name: str
    clips: int
    clips_per_class: dict[str, int]
    groups: int | None
    text_dim: int
    audio: dict  # dim, dtype, seconds, tokens, min, median, max, missing
    video: dict
    file_bytes: int
    notes: tuple[str, ...]

    def __str__(self):
        counts = list(self.clips_per_class.values())
        lines = [
            f"store      {self.path} ({self.name}), {size_text(self.file_bytes)}",
            f"clips      {self.clips}",
            f"classes    {len(counts)}, with {min(counts)} to {max(counts)} clips each, "
            f"text vectors of {self.text_dim}",
            f"groups     {'none' if self.groups is None else self.groups}",
        ]
        for modality, part in (("audio", self.audio), ("video", self.video)):
            lines.append(
                f"{modality}      {part['tokens']} tokens of {part['dim']} x {part['dtype']}, "
                f"one per {part['seconds']:g} s; tokens per clip min {part['min']}, "
                f"median {part['median']:g}, max {part['max']}; {part['missing']} clips without"
            )
        return "\n".join(lines + [f"note       {note}" for note in self.notes])


def size_text(count):
    """Bytes -> "3.2 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


# ---------------------------------------------------------------------------- reading


def open_store(path) -> Store:
    """Opens a store and checks all of it but the feature values themselves.

    Raises UserError where the file is missing, truncated, not HDF5, of another schema or
    version, or contradicts itself. `check_values` looks at the values too.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise UserError(
            f"store {path} does not exist: make it with `python launch/data.py import` or "
            f"`python launch/data.py synthesize`, or name another file"
        )
    if os.path.isdir(path):
        raise UserError(f"store {path} is a folder, not an HDF5 file: name the file")
    with _opened(path) as file:
        try:
            store = _read_store(file, path, os.path.getsize(path))
        except (KeyError, RuntimeError, OSError, TypeError, OverflowError, MemoryError) as error:
            # what h5py raises, by turns, on a file whose inner structure is broken
            raise UserError(f"store {path} is damaged ({str(error).splitlines()[0][:120]}): copy "
                            f"or make it again") from None
    _check_store(store)
    return store


@contextlib.contextmanager
def _opened(path):
    try:
        # best-effort: read-only and network file systems often cannot lock
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        sizes = re.search(r"eof = (\d+).*stored_eof = (\d+)", str(error))
        if sizes:
            raise UserError(
                f"store {path} is truncated, it has {sizes[1]} bytes where its header says "
                f"{sizes[2]}: copy or make it again"
            ) from None
        if isinstance(error, PermissionError) or error.errno == errno.EACCES:
            raise UserError(f"store {path} may not be read by this user: change its permissions"
                            ) from None
        raise UserError(
            f"store {path} is not HDF5 or is damaged ({os.path.getsize(path)} bytes): "
            f"make it with `python launch/data.py import`"
        ) from None
    with file:
        yield file


def _read_store(file, path, file_bytes):
    def wrong(what):
        return UserError(f"store {path} {what}: make it again with `python launch/data.py import`")

    schema, version = _attribute(file, "schema"), _attribute(file, "version")
    if schema != SCHEMA:
        raise UserError(f"{path} is HDF5 but no feature store, its schema is {schema!r} instead "
                        f"of {SCHEMA!r}: name a store or import this file's contents")
    if version != VERSION:
        raise wrong(f"has schema version {version!r} but this code reads version {VERSION}")
    if file.userblock_size:
        raise wrong("has a user block, which no store has")

    def dataset(key, ndim, kinds, mapped=False):
        """The HDF5 data set, after checks that make it safe to allocate or map."""
        group = file
        for part in key.split("/"):
            # only real objects of this very file: no soft, external or virtual redirection
            if not isinstance(group, h5py.Group) or not isinstance(
                    group.get(part, getlink=True), h5py.HardLink):
                raise wrong(f"has no data set {key!r}")
            group = group[part]
        data = group
        if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
            raise wrong(f"keeps {key!r} outside the file")
        layout = data.id.get_create_plist().get_layout()
        if layout != h5py.h5d.CONTIGUOUS:
            raise wrong(f"has a chunked or compressed {key!r} where a contiguous one is needed")
        if data.ndim != ndim or not {data.dtype.name, data.dtype.kind} & set(kinds):
            raise wrong(f"has {key!r} as {data.ndim}-d {data.dtype} where {ndim}-d "
                        f"{' or '.join(kinds)} is needed")
        if data.nbytes > file_bytes:
            raise wrong(f"declares {data.nbytes} bytes for {key!r} but has {file_bytes} in all")
        return data

    def strings(key):
        try:
            return np.char.decode(dataset(key, 1, ("S",))[...], "utf-8").astype(str)
        except UnicodeDecodeError:
            raise wrong(f"has names in {key!r} that are not UTF-8") from None

    def sequences(modality):
        data = dataset(f"{modality}/values", 2, ("uint8", "float16", "float32"))
        seconds = _attribute(file[modality], "seconds")
        if not isinstance(seconds, float) or not 0 < seconds < math.inf:
            raise wrong(f"has seconds per token {seconds!r} for {modality}, which must be positive")
        if data.shape[0] == 0:
            values = np.zeros(data.shape, data.dtype)
        else:
            offset = data.id.get_offset()
            if offset is None or offset + data.nbytes > file_bytes:
                raise wrong(f"declares {data.nbytes} bytes of {modality} values at {offset} but "
                            f"has {file_bytes} in all")
            values = np.memmap(path, data.dtype, "r", offset, data.shape)
        return Sequences(values, dataset(f"{modality}/offsets", 1, ("int64",))[...], seconds)

    try:
        provenance = json.loads(dataset("provenance", 1, ("uint8",))[...].tobytes())
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise wrong("has a provenance that is not JSON") from None
    return Store(
        path=path,
        name=str(_attribute(file, "name")),
        clip_ids=strings("clip_ids"),
        labels=dataset("labels", 1, ("int32",))[...],
        groups=strings("groups") if "groups" in file else None,
        class_names=tuple(strings("class_names").tolist()),
        class_text=dataset("class_text", 2, ("float32",))[...],
        audio=sequences("audio"),
        video=sequences("video"),
        may_lack_modality=bool(_attribute(file, "may_lack_modality")),
        provenance=provenance if isinstance(provenance, dict) else {"provenance": provenance},
    )


def _attribute(node, key):
    """A plain Python value, or None where the attribute is missing or odd."""
    try:
        value = node.attrs.get(key)
    except (OSError, TypeError, ValueError, RuntimeError):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _check_store(store):
    """Raises UserError where the parts of a store contradict each other."""
    n, classes = len(store.clip_ids), len(store.class_names)

    def wrong(what):
        return UserError(
            f"store {store.path} {what}: make it again with `python launch/data.py import`")

    if n == 0 or classes == 0:
        raise wrong(f"has {n} clips and {classes} classes")
    for what, names in (("clip id", store.clip_ids), ("class", store.class_names)):
        repeated = _first_repeated(names)
        if repeated is not None:
            raise wrong(f"has the {what} {repeated!r} twice")
    for what, column in (("labels", store.labels), ("groups", store.groups)):
        if column is not None and len(column) != n:
            raise wrong(f"has {len(column)} {what} for {n} clips")
    outside = np.flatnonzero((store.labels < 0) | (store.labels >= classes))
    if outside.size:
        raise wrong(f"has label {store.labels[outside[0]]} for clip "
                    f"{str(store.clip_ids[outside[0]])!r} but only {classes} classes")
    if store.class_text.shape[0] != classes:
        raise wrong(f"has {store.class_text.shape[0]} text vectors for {classes} classes")
    _check_text(store.path, store.class_names, store.class_text)
    for modality in ("audio", "video"):
        part = getattr(store, modality)
        offsets = part.offsets
        if part.dim == 0:
            raise wrong(f"has {modality} tokens of dimension 0")
        if offsets.shape != (n + 1,):
            raise wrong(f"has {len(offsets)} {modality} offsets for {n} clips instead of {n + 1}")
        if offsets[0] != 0 or offsets[-1] != len(part.values) or (np.diff(offsets) < 0).any():
            raise wrong(f"has {modality} offsets from {offsets[0]} to {offsets[-1]} that do not "
                        f"rise from 0 to its {len(part.values)} tokens")
        empty = np.flatnonzero(part.lengths == 0)
        if empty.size and not store.may_lack_modality:
            raise wrong(f"has no {modality} for clip {str(store.clip_ids[empty[0]])!r} although "
                        f"it does not say that clips may lack a modality")
    silent = np.flatnonzero(store.audio.lengths + store.video.lengths == 0)
    if silent.size:
        raise wrong(f"has neither audio nor video for clip {str(store.clip_ids[silent[0]])!r}")


def _first_repeated(names):
    seen = set()
    for name in names:
        if name in seen:
            return str(name)
        seen.add(name)
    return None


def _check_text(path, class_names, class_text):
    if class_text.ndim != 2 or class_text.shape[1] == 0:
        raise UserError(f"text vectors for {path} have shape {class_text.shape} instead of "
                        f"(classes, dimensions)")
    # a vector of zeros is how embedding files mark a word that they do not know
    usable = np.isfinite(class_text).all(1) & (class_text != 0).any(1)
    if not usable.all():
        name = class_names[int(np.argmin(usable))]
        raise UserError(f"class {name!r} of {path} has no usable text vector (all zeros, NaN or "
                        f"infinite): give one in the text file")


def check_values(store, progress=None):
    """Reads every feature value once; raises UserError naming a clip with NaN or infinity."""
    for modality in ("audio", "video"):
        part = getattr(store, modality)
        if part.values.dtype.kind != "f":
            continue
        rows = max(1, COPY_BYTES // (part.dim * part.values.dtype.itemsize))
        for start in range(0, len(part.values), rows):
            finite = np.isfinite(part.values[start:start + rows]).all(1)
            if not finite.all():
                token = start + int(np.argmin(finite))
                clip = int(np.searchsorted(part.offsets, token, side="right")) - 1
                raise UserError(
                    f"store {store.path} has NaN or infinite {modality} features in clip "
                    f"{str(store.clip_ids[clip])!r}, token {token - part.offsets[clip]}: "
                    f"import it again from sound features")
            if progress is not None:
                progress.step(len(finite))


def report(store, notes=()) -> Report:
    """Counts and lengths of an open store."""
    per_class = np.bincount(store.labels, minlength=len(store.class_names))
    return Report(
        path=store.path,
        name=store.name,
        clips=len(store),
        clips_per_class=dict(zip(store.class_names, per_class.tolist(), strict=True)),
        groups=_count_groups(store.groups),
        text_dim=store.class_text.shape[1],
        audio=_describe(store.audio),
        video=_describe(store.video),
        file_bytes=os.path.getsize(store.path),
        notes=tuple(notes) + _doubts(store, per_class),
    )


def _count_groups(groups):
    if groups is None:
        return None
    return len(np.unique(groups[groups != ""])) + int((groups == "").sum())


def _describe(part):
    present = part.lengths[part.lengths > 0]
    if present.size == 0:
        present = np.zeros(1, np.int64)
    return {
        "dim": part.dim, "dtype": part.values.dtype.name, "seconds": part.seconds,
        "tokens": len(part.values), "min": int(present.min()),
        "median": float(np.median(present)), "max": int(present.max()),
        "missing": int((part.lengths == 0).sum()),
    }


def _doubts(store, per_class):
    """Things that are allowed but that a user should know of."""
    notes = []
    if (per_class == 0).any():
        idle = [name for name, count in zip(store.class_names, per_class, strict=True) if not count]
        notes.append(f"{len(idle)} classes have no clip, the first is {idle[0]!r}")
    _, first, inverse = np.unique(
        store.class_text, axis=0, return_index=True, return_inverse=True)
    twins = np.flatnonzero(first[inverse.ravel()] != np.arange(len(first[inverse.ravel()])))
    if twins.size:
        late = int(twins[0])
        early = int(first[inverse.ravel()[late]])
        notes.append(f"the classes {store.class_names[early]!r} and {store.class_names[late]!r} "
                     f"have the same text vector, so text cannot tell them apart")
    return tuple(notes)


# ---------------------------------------------------------------------------- writing


class _Ragged:
    """Appends checked tokens of one modality to a raw file, beside the store to be.

    HDF5 wants the size of a contiguous data set beforehand and clips arrive one by one, so
    they go to a raw file first and are copied over at the end.
    """

    def __init__(self, folder, modality, dtype, dim):
        self.modality, self.dim, self.dtype = modality, dim, np.dtype(dtype)
        self.path = os.path.join(folder, modality + ".raw")
        self.file = open(self.path, "w+b")  # noqa: SIM115  (closed by `close`)
        self.lengths = []

    def append(self, values, clip_id):
        """`values` [T, D] or None; returns nothing, raises UserError on unfit values."""
        if values is None or len(values) == 0:
            self.lengths.append(0)
            return
        if self.dtype == np.uint8 and not _fits_uint8(values):
            self._widen()
        with np.errstate(over="ignore"):  # an overflow is reported below, with the clip's name
            stored = values.astype(self.dtype, order="C", copy=False)
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            raise UserError(
                f"clip {clip_id!r} has {self.modality} features up to "
                f"{np.abs(values).max():.3g}, beyond the range of {self.dtype} "
                f"({np.finfo(self.dtype).max:.3g}): scale them or store a wider type")
        self.file.write(stored.data)
        self.lengths.append(len(stored))

    def _widen(self):
        """Rewrites what is there as float32: this is not all integral in 0..255."""
        wide = open(self.path + ".wide", "w+b")  # noqa: SIM115
        self.file.seek(0)
        while block := self.file.read(COPY_BYTES):
            wide.write(np.frombuffer(block, np.uint8).astype(np.float32).data)
        self.file.close()
        os.remove(self.path)
        self.file, self.dtype = wide, np.dtype(np.float32)

    def copy_to(self, group, seconds):
        """Writes `values`, `offsets` and `seconds` into an HDF5 group."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]).astype(np.int64)
        dim = self.dim or 1  # no clip has this modality: any width will do
        data = group.create_dataset("values", (int(offsets[-1]), dim), self.dtype)
        rows = max(1, COPY_BYTES // (dim * self.dtype.itemsize))
        self.file.seek(0)
        for start in range(0, len(data), rows):
            stop = min(start + rows, len(data))
            block = self.file.read((stop - start) * dim * self.dtype.itemsize)
            data[start:stop] = np.frombuffer(block, self.dtype).reshape(-1, dim)
        group.create_dataset("offsets", data=offsets)
        group.attrs["seconds"] = float(seconds)

    def close(self):
        self.file.close()


def _fits_uint8(values):
    if values.dtype == np.uint8:
        return True
    return bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all())


def _checked(values, clip_id, modality, dim):
    """One clip's tokens as a numeric [T, D] array, or None; raises UserError."""
    if values is None:
        return None
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise UserError(f"clip {clip_id!r} has {modality} features of type {values.dtype} where "
                        f"numbers are needed: save a plain numeric array")
    if values.ndim != 2:
        raise UserError(f"clip {clip_id!r} has {modality} features of shape {values.shape} where "
                        f"(tokens, dimensions) is needed: reshape them")
    if len(values) == 0:
        return None
    if values.shape[1] == 0 or dim not in (None, values.shape[1]):
        raise UserError(f"clip {clip_id!r} has {modality} features of dimension "
                        f"{values.shape[1]} but the others have {dim}: use one extractor for all")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        token = int(np.argmin(np.isfinite(values).all(1)))
        raise UserError(f"clip {clip_id!r} has NaN or infinite {modality} features (token "
                        f"{token}): mend or leave out the clip")
    return values


def write_store(
    path,
    *,
    name: str,
    clips: Iterable[Clip],
    class_names: Sequence[str],
    class_text: np.ndarray,
    audio_seconds: float,
    video_seconds: float,
    provenance: dict,
    may_lack_modality: bool = False,
    audio_dim: int | None = None,
    video_dim: int | None = None,
    video_dtype: str = "float32",
    notes: Sequence[str] = (),
    progress=None,
) -> Report:
    """Writes a store from a stream of clips, atomically, and says what it holds.

    Args:
      path: the file to make; an existing one is replaced only when all is well.
      clips: read once, never held in memory. Audio is stored as uint8 when every value of
        every clip is integral in 0..255, as float32 otherwise.
      class_text: [C, Dt], rows in the order of `class_names`.
      audio_seconds, video_seconds: seconds per token.
      provenance: JSON dict; no absolute paths, please: files travel.
      may_lack_modality: whether a clip may come without audio or without video.
      audio_dim, video_dim: expected dimensions; None takes those of the first clip.
      video_dtype: "float32" or "float16".
      notes: remarks of the importer for the report.
      progress: an `avdiff_jax.progress.Progress` that counts clips.

    Raises:
      UserError: unfit clips, names, text vectors or rates, an unwritable path or a full
        disk. Nothing is left behind.
    """
    path = os.fspath(path)
    class_names = tuple(str(class_name) for class_name in class_names)
    class_text = np.asarray(class_text)
    if not class_names:
        raise UserError(f"no classes for {path}: the source holds 0 clips that could be stored")
    repeated = _first_repeated(class_names)
    if repeated is not None:
        raise UserError(f"class {repeated!r} is named twice for {path}: give each class one name")
    if len(class_text) != len(class_names):
        raise UserError(f"{len(class_text)} text vectors for {len(class_names)} classes of {path}: "
                        f"give one for each class")
    for class_name in class_names:
        _check_name("class", class_name)
    class_text = class_text.astype(np.float32)
    _check_text(path, class_names, class_text)
    for modality, seconds in (("audio", audio_seconds), ("video", video_seconds)):
        if not 0 < seconds < math.inf:
            raise UserError(f"{modality} seconds per token is {seconds}, it must be positive: "
                            f"change --{modality}-seconds")
    if video_dtype not in VALUE_TYPES["video"]:
        raise UserError(f"video type {video_dtype!r} is none of {VALUE_TYPES['video']}")

    with _workplace(path) as folder, contextlib.ExitStack() as stack:
        parts = {}
        for modality, dtype, dim in (
                ("audio", "uint8", audio_dim), ("video", video_dtype, video_dim)):
            parts[modality] = _Ragged(folder, modality, dtype, dim)
            stack.callback(parts[modality].close)
        ids, labels, groups = _append_all(
            clips, parts, class_names, may_lack_modality, progress)
        if not ids:
            raise UserError(f"no clips for {path}: the source holds 0 clips")
        groups = _group_column(ids, groups)
        draft = os.path.join(folder, "draft.h5")
        with h5py.File(draft, "w", alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
            file.attrs.update(schema=SCHEMA, version=VERSION, name=str(name),
                              may_lack_modality=bool(may_lack_modality))
            file["clip_ids"] = _fixed_width(ids)
            file["labels"] = np.asarray(labels, np.int32)
            if groups is not None:
                file["groups"] = _fixed_width(groups)
            file["class_names"] = _fixed_width(class_names)
            file["class_text"] = class_text
            text = json.dumps(provenance, sort_keys=True)
            file["provenance"] = np.frombuffer(text.encode(), np.uint8)
            for modality, seconds in (("audio", audio_seconds), ("video", video_seconds)):
                parts[modality].copy_to(file.create_group(modality), seconds)
        _sync(draft)
        open_store(draft)  # what we are about to publish can be read
        os.replace(draft, path)
        _sync(os.path.dirname(path) or ".")
    return report(open_store(path), tuple(notes))


def _append_all(clips, parts, class_names, may_lack_modality, progress):
    """Checks and appends every clip; returns ids, labels and groups as lists."""
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    ids, labels, groups, seen = [], [], [], {}
    for clip in clips:
        clip_id = clip.clip_id
        _check_name("clip id", clip_id)
        if clip_id in seen:
            first = class_names[labels[seen[clip_id]]]
            raise UserError(f"clip id {clip_id!r} occurs twice (classes {first!r} and "
                            f"{clip.class_name!r}): give each clip its own id")
        if clip.class_name not in numbers:
            raise UserError(f"clip {clip_id!r} is of class {clip.class_name!r}, which is none of "
                            f"the {len(class_names)} classes: add it or leave out the clip")
        if clip.group:
            _check_name("group", clip.group)
        given = {
            modality: _checked(getattr(clip, modality), clip_id, modality, part.dim)
            for modality, part in parts.items()
        }
        absent = [modality for modality, values in given.items() if values is None]
        if absent and not may_lack_modality:
            raise UserError(f"clip {clip_id!r} has an empty {absent[0]} sequence: leave out the "
                            f"clip or allow it with --may-lack-modality")
        if len(absent) == len(given):
            raise UserError(f"clip {clip_id!r} has neither audio nor video: leave it out")
        for modality, values in given.items():
            part = parts[modality]
            if values is not None and part.dim is None:
                part.dim = values.shape[1]
            part.append(values, clip_id)
        seen[clip_id] = len(ids)
        ids.append(clip_id)
        labels.append(numbers[clip.class_name])
        groups.append(clip.group)
        if progress is not None:
            progress.step(1)
    return ids, labels, groups


def _check_name(what, text):
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(
            text.encode("utf-8", "replace")) > MAX_ID_BYTES:
        raise UserError(f"{what} {str(text)[:80]!r} is not a printable name of 1 to {MAX_ID_BYTES} "
                        f"bytes: rename it")


def _group_column(ids, groups):
    """Groups as stored, "" for a clip by itself; None where no group joins or renames clips."""
    groups = ["" if group in (None, clip_id) else group
              for clip_id, group in zip(ids, groups, strict=True)]
    return groups if any(groups) else None


def _fixed_width(names):
    return np.array([name.encode("utf-8") for name in names])


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _workplace(path):
    """A scratch folder beside `path`, gone afterwards; parents are made and, on failure, unmade."""
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
            yield folder
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
