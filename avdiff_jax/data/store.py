"""The feature store: one HDF5 file with ragged audio and video feature sequences.

Layout (everything contiguous and uncompressed, so that values can be memory-mapped):

    attributes           schema, version, name, may_lack_modality
    clip_ids   [n]       UTF-8 bytes
    labels     [n]       int32, index into class_names
    groups     [n]       UTF-8 bytes; optional: source video, speaker ...; "" is a group of its own
    class_names [C]      UTF-8 bytes
    class_text [C, Dt]   float32; Dt is 0 where the classes have no text
    audio/values [N, Da] uint8 or float32;      audio/offsets [n+1] int64; attribute seconds
    video/values [M, Dv] float32 or float16;    video/offsets [n+1] int64; attribute seconds
    provenance           a JSON object as UTF-8 bytes

Clip i holds rows offsets[i] .. offsets[i+1] of a modality, one row a token.
"""

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np

from avdiff_jax.cli.home import command
from avdiff_jax.data.class_text import NONE, ClassText, check_text
from avdiff_jax.errors import UserError
from avdiff_jax.io import subprocess_probe
from avdiff_jax.io.files import FilePath
from avdiff_jax.runtime.progress import Progress

SCHEMA = "avdiff_jax.store"
VERSION = 1
VALUE_TYPES = {"audio": ("uint8", "float32"), "video": ("float32", "float16")}
MODALITIES = tuple(VALUE_TYPES)
COPY_BYTES = 1 << 24  # values are read and copied in pieces of about this size


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


class Flat(Protocol):
    """What a store and a piece of a stream have in common: the tokens of some clips."""

    @property
    def audio(self) -> Sequences: ...

    @property
    def video(self) -> Sequences: ...


@dataclass(frozen=True, eq=False)
class Store:
    """An open store. Feature values stay in the file until they are indexed."""

    path: str
    name: str
    clip_ids: np.ndarray  # [n] str
    labels: np.ndarray  # [n] int32, index into class_names
    groups: np.ndarray | None  # [n] str; "" is a group of its own
    class_names: tuple[str, ...]
    class_text: np.ndarray  # [C, Dt] float32; Dt is 0 where the classes have no text
    audio: Sequences
    video: Sequences
    may_lack_modality: bool
    provenance: dict

    def __len__(self):
        return len(self.clip_ids)

    @property
    def made_up(self) -> bool:
        """Whether no camera or microphone saw any of it."""
        return self.provenance.get("command") == "synthesize"

    @property
    def text(self) -> ClassText:
        """The class text and where it is from, as far as the store tells."""
        source = NONE if not self.class_text.shape[1] else self.provenance.get("text", "unknown")
        return ClassText(self.class_text, str(source))


# ---------------------------------------------------------------------------- reading


def open_store(path: FilePath) -> Store:
    """Opens a store and checks all of it but the feature values themselves.

    A file that this process did not write is opened in a child process first
    (`io.subprocess_probe`).

    Raises UserError where the file is missing, truncated, not HDF5, of another schema or
    version, or contradicts itself. `check_values` looks at the values too.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise UserError(
            f"store {path} does not exist: make it with `{command('data')} import` or "
            f"`{command('data')} synthesize`, or name another file"
        )
    if os.path.isdir(path):
        raise UserError(f"store {path} is a folder, not an HDF5 file: name the file")
    if not os.path.isfile(path):
        raise UserError(f"store {path} is a pipe or a device: name a file on disk")
    subprocess_probe.try_apart(_read, path, "store")
    return _read(path)


def _read(path: str):
    with _open_hdf5(path) as file:
        try:
            store = _Reader(file, path).store()
        except UserError:
            raise
        except (KeyError, RuntimeError, OSError, TypeError, ValueError, OverflowError,
                MemoryError) as error:
            # what h5py raises, by turns, on a file whose inner structure is broken
            reason = (str(error) or type(error).__name__).splitlines()[0][:120]
            raise UserError(f"store {path} is damaged ({reason}): copy or make it again"
                            ) from None
    _check_store(store)
    return store


@contextlib.contextmanager
def _open_hdf5(path: str):
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
            f"make it with `{command('data')} import`"
        ) from None
    with file:
        yield file


class _Reader:
    """The parts of an open HDF5 file, each checked before it is allocated or mapped."""

    def __init__(self, file: h5py.File, path: str):
        self.file, self.path, self.file_bytes = file, path, os.path.getsize(path)

    def store(self) -> Store:
        schema, version = _attribute(self.file, "schema"), _attribute(self.file, "version")
        if schema != SCHEMA:
            raise UserError(f"{self.path} is HDF5 but no feature store, its schema is {schema!r} "
                            f"instead of {SCHEMA!r}: name a store or import this file's contents")
        if version != VERSION:
            raise self.wrong(f"has schema version {version!r} but this code reads version "
                             f"{VERSION}")
        if self.file.userblock_size:
            raise self.wrong("has a user block, which no store has")
        return Store(
            path=self.path,
            name=str(_attribute(self.file, "name")),
            clip_ids=self.strings("clip_ids"),
            labels=self.dataset("labels", 1, "int32")[...],
            groups=self.strings("groups") if "groups" in self.file else None,
            class_names=tuple(self.strings("class_names").tolist()),
            class_text=self.dataset("class_text", 2, "float32")[...],
            audio=self.sequences("audio"),
            video=self.sequences("video"),
            may_lack_modality=bool(_attribute(self.file, "may_lack_modality")),
            provenance=self.provenance(),
        )

    def wrong(self, what: str):
        return UserError(f"store {self.path} {what}: make it again with `{command('data')} "
                         f"import`")

    def dataset(self, key: str, ndim: int, *kinds) -> h5py.Dataset:
        """The HDF5 data set, after checks that make it safe to allocate or map."""
        data = self.file
        for part in key.split("/"):
            # only real objects of this very file: no soft, external or virtual redirection
            if not isinstance(data, h5py.Group) or not isinstance(
                    data.get(part, getlink=True), h5py.HardLink):
                raise self.wrong(f"has no data set {key!r}")
            data = data[part]
        if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
            raise self.wrong(f"keeps {key!r} outside the file")
        if data.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
            raise self.wrong(f"has a chunked or compressed {key!r} where a contiguous one is "
                             f"needed")
        if data.ndim != ndim or not {data.dtype.name, data.dtype.kind} & set(kinds):
            raise self.wrong(f"has {key!r} as {data.ndim}-d {data.dtype} where {ndim}-d "
                             f"{' or '.join(kinds)} is needed")
        if data.nbytes > self.file_bytes:
            raise self.wrong(f"declares {data.nbytes} bytes for {key!r} but has {self.file_bytes} "
                             f"in all")
        return data

    def strings(self, key: str):
        try:
            return np.char.decode(self.dataset(key, 1, "S")[...], "utf-8").astype(str)
        except UnicodeDecodeError:
            raise self.wrong(f"has names in {key!r} that are not UTF-8") from None

    def sequences(self, modality: str):
        data = self.dataset(f"{modality}/values", 2, "uint8", "float16", "float32")
        seconds = _attribute(self.file[modality], "seconds")
        if not isinstance(seconds, float) or not 0 < seconds < math.inf:
            raise self.wrong(f"has seconds per token {seconds!r} for {modality}, which must be "
                             f"positive")
        if data.shape[0] == 0:
            values = np.zeros(data.shape, data.dtype)
        else:
            offset = data.id.get_offset()
            if offset is None or offset + data.nbytes > self.file_bytes:
                raise self.wrong(f"declares {data.nbytes} bytes of {modality} values at {offset} "
                                 f"but has {self.file_bytes} in all")
            values = np.memmap(self.path, data.dtype, "r", offset, data.shape)
        offsets = self.dataset(f"{modality}/offsets", 1, "int64")[...]
        return Sequences(values, offsets, seconds)

    def provenance(self):
        content = self.dataset("provenance", 1, "uint8")[...].tobytes()
        try:
            provenance = json.loads(content)
        except (ValueError, RecursionError):
            raise self.wrong("has a provenance that is not JSON") from None
        return provenance if isinstance(provenance, dict) else {"provenance": provenance}


def _attribute(node: Any, key: str):
    """A plain Python value, or None where the attribute is missing or odd."""
    try:
        value = node.attrs.get(key)
    except (OSError, TypeError, ValueError, RuntimeError):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _check_store(store: Store):
    """Raises UserError where the parts of a store contradict each other."""
    n, classes = len(store.clip_ids), len(store.class_names)

    def wrong(what: str):
        return UserError(
            f"store {store.path} {what}: make it again with `{command('data')} import`")

    if n == 0 or classes == 0:
        raise wrong(f"has {n} clips and {classes} classes")
    for what, names in (("clip id", store.clip_ids), ("class", store.class_names)):
        repeated = first_repeated(names)
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
    check_text(store.path, store.class_names, store.class_text)
    for modality in MODALITIES:
        part = getattr(store, modality)
        offsets = part.offsets
        if part.dim == 0:
            raise wrong(f"has {modality} tokens of dimension 0")
        if offsets.shape != (n + 1,):
            raise wrong(f"has {len(offsets)} {modality} offsets for {n} clips instead of {n + 1}")
        falls = (offsets[1:] < offsets[:-1]).any()  # differences of hostile numbers could overflow
        if offsets[0] != 0 or offsets[-1] != len(part.values) or falls:
            raise wrong(f"has {modality} offsets from {offsets[0]} to {offsets[-1]} that do not "
                        f"rise from 0 to its {len(part.values)} tokens")
        empty = np.flatnonzero(part.lengths == 0)
        if empty.size and not store.may_lack_modality:
            raise wrong(f"has no {modality} for clip {str(store.clip_ids[empty[0]])!r} although "
                        f"it does not say that clips may lack a modality")
    silent = np.flatnonzero(store.audio.lengths + store.video.lengths == 0)
    if silent.size:
        raise wrong(f"has neither audio nor video for clip {str(store.clip_ids[silent[0]])!r}")


def first_repeated(names: Iterable[str]):
    """The first of some names that is there a second time, or None."""
    seen = set()
    for name in names:
        if name in seen:
            return str(name)
        seen.add(name)
    return None


def check_values(store: Store, progress: Progress | None = None):
    """Reads every feature value once; raises UserError naming a clip with NaN or infinity."""
    for modality in MODALITIES:
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
