"""Clips on their way into a store: checked, pooled, collected on disk, written as one HDF5 file."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from avdiff_jax.data.class_text import check_text, unify
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.store import (
    COPY_BYTES,
    SCHEMA,
    VALUE_TYPES,
    VERSION,
    first_repeated,
    open_store,
)
from avdiff_jax.data.store_report import Report, report
from avdiff_jax.errors import UserError
from avdiff_jax.io import subprocess_probe
from avdiff_jax.io.files import FilePath, draft
from avdiff_jax.runtime.progress import Progress

# Mapped values start on a cache line of 64 bytes, whatever their type.
ALIGNED: dict[str, Any] = {"alignment_threshold": 1, "alignment_interval": 64}
MAX_ID_BYTES = 1024  # names are stored at fixed width, so one absurd name would widen all


class Collector:
    """Takes clips one by one, checks them and keeps their features in raw files.

    Use as a context manager, which closes the files. Only what is not features stays in memory.
    """

    def __init__(self, folder: FilePath, class_names: Sequence[str], may_lack_modality: bool):
        self.class_names = class_names
        self.may_lack_modality = may_lack_modality
        self.ids: list[str] = []
        self.labels: list[int] = []
        self.parts: dict[str, Ragged] = {}
        self._folder = folder
        self._groups: list[str | None] = []
        self._label_of = {class_name: label for label, class_name in enumerate(class_names)}
        self._number_of: dict[str, int] = {}  # clip id -> its place

    def expect(self, modality: str, dtype: str, dim: int | None) -> None:
        """Features of this modality are to come; without `dim` the first clip tells it."""
        self.parts[modality] = Ragged(self._folder, modality, dtype, dim)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for part in self.parts.values():
            part.close()

    def add(self, clip: Clip) -> None:
        """Checks and keeps one clip. Raises UserError."""
        clip_id = clip.clip_id
        check_name("clip id", clip_id)
        if clip_id in self._number_of:
            first = self.class_names[self.labels[self._number_of[clip_id]]]
            raise UserError(f"clip id {clip_id!r} occurs twice (classes {first!r} and "
                            f"{clip.class_name!r}): give each clip its own id")
        class_name = unify(clip.class_name) if isinstance(clip.class_name, str) else None
        if class_name not in self._label_of:
            raise UserError(f"clip {clip_id!r} is of class {clip.class_name!r}, which is none of "
                            f"the {len(self.class_names)} classes: add it or leave out the clip")
        if clip.group:
            check_name("group", clip.group)
        for modality, values in self._features(clip).items():
            self.parts[modality].append(values, clip_id)
        self._number_of[clip_id] = len(self.ids)
        self.ids.append(clip_id)
        self.labels.append(self._label_of[class_name])
        self._groups.append(clip.group)

    def add_all(self, clips: Iterable[Clip], path: str, progress: Progress | None) -> None:
        """Takes a stream of clips for the store `path`. Raises UserError."""
        for clip in clips:
            self.add(clip)
            if progress is not None:
                progress.step(1)
        if not self.ids:
            raise UserError(f"no clips for {path}: the source holds 0 clips")

    def _features(self, clip: Clip):
        """modality -> [T, D] or None."""
        given = {
            modality: _check_features(getattr(clip, modality), clip.clip_id, modality, part.dim)
            for modality, part in self.parts.items()
        }
        absent = [modality for modality, values in given.items() if values is None]
        if absent and not self.may_lack_modality:
            raise UserError(f"clip {clip.clip_id!r} has an empty {absent[0]} sequence: leave out "
                            f"the clip or allow it with --may-lack-modality")
        if len(absent) == len(given):
            raise UserError(f"clip {clip.clip_id!r} has neither audio nor video: leave it out")
        return given

    @property
    def groups(self) -> list[str] | None:
        """As stored, "" for a clip by itself; None where no group joins or renames clips."""
        groups = ["" if group in (None, clip_id) else group
                  for clip_id, group in zip(self.ids, self._groups, strict=True)]
        return groups if any(groups) else None


def check_name(what: str, text: str) -> None:
    """Raises UserError where `text` is no sensible name of `what`."""
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(
            text.encode("utf-8", "replace")) > MAX_ID_BYTES:
        raise UserError(f"{what} {str(text)[:80]!r} is not a printable name of 1 to {MAX_ID_BYTES} "
                        f"bytes: rename it")


def _check_features(values: Any, clip_id: str, modality: str, dim: int | None):
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


class Ragged:
    """Appends checked tokens of one modality to a raw file, beside the store to be.

    HDF5 wants the size of a contiguous data set beforehand and clips arrive one by one, so
    they go to a raw file first and are copied over at the end.
    """

    def __init__(self, folder: FilePath, modality: str, dtype: str, dim: int | None):
        self.modality, self.dim, self.dtype = modality, dim, np.dtype(dtype)
        self.path = os.path.join(folder, modality + ".raw")
        self.file = open(self.path, "w+b")  # noqa: SIM115  (closed by `close`)
        self.lengths = []

    def append(self, values: np.ndarray | None, clip_id: str):
        """Adds the tokens of a clip, `values` [T, D] or None; raises UserError on unfit values."""
        if values is not None and self.dim is None:
            self.dim = values.shape[1]
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

    def copy_to(self, group: h5py.Group, seconds: float):
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
        """Closes the raw file."""
        self.file.close()


def _fits_uint8(values: np.ndarray):
    if values.dtype == np.uint8:
        return True
    return bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all())


def write_store(
    path: FilePath,
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
    progress: Progress | None = None,
) -> Report:
    """Writes a store from a stream of clips, atomically, and says what it holds.

    Args:
      path: the file to make; an existing one is replaced only when all is well.
      clips: read once, never held in memory. Audio is stored as uint8 when every value of
        every clip is integral in 0..255, as float32 otherwise.
      class_text: [C, Dt], rows in the order of `class_names`; Dt is 0 without text.
      audio_seconds, video_seconds: seconds per token.
      provenance: JSON dict, without absolute paths: files travel.
      may_lack_modality: whether a clip may come without audio or without video.
      audio_dim, video_dim: expected dimensions; None takes those of the first clip.
      video_dtype: "float32" or "float16".
      notes: remarks of the importer for the report.
      progress: an `runtime.progress.Progress` that counts clips.

    Raises:
      UserError: unfit clips, names, text vectors or rates, or `draft` fails; nothing is left.
    """
    path = os.fspath(path)
    class_names = tuple(unify(str(name)) for name in class_names)
    class_text = _check_text(path, class_names, class_text)
    rates = {"audio": audio_seconds, "video": video_seconds}
    _check_request(rates, video_dtype)
    with draft(path) as scratch:
        with Collector(os.path.dirname(scratch), class_names, may_lack_modality) as collected:
            collected.expect("audio", "uint8", audio_dim)
            collected.expect("video", video_dtype, video_dim)
            collected.add_all(clips, path, progress)
            with h5py.File(scratch, "w", **ALIGNED) as file:
                _write_parts(file, name, collected, class_text, rates, provenance)
        subprocess_probe.trust(scratch)
        finished = open_store(scratch)  # what we are about to publish can be read
        return report(finished, tuple(notes))._replace(path=path)


def _check_request(rates: Mapping[str, float], video_dtype: str) -> None:
    for modality, seconds in rates.items():
        if not 0 < seconds < math.inf:
            raise UserError(f"{modality} seconds per token is {seconds}, it must be positive: "
                            f"change --{modality}-seconds")
    if video_dtype not in VALUE_TYPES["video"]:
        raise UserError(f"video type {video_dtype!r} is none of {VALUE_TYPES['video']}")


def _check_text(path: FilePath, class_names: Sequence[str], class_text: np.ndarray):
    """[C, Dt] float32; raises UserError where names and vectors do not fit."""
    if not class_names:
        raise UserError(f"no classes for {path}: the source holds 0 clips that could be stored")
    repeated = first_repeated(class_names)
    if repeated is not None:
        raise UserError(f"class {repeated!r} is named twice for {path}: give each class one name")
    if len(class_text) != len(class_names):
        raise UserError(f"{len(class_text)} text vectors for {len(class_names)} classes of {path}: "
                        f"give one for each class")
    for class_name in class_names:
        check_name("class", class_name)
    with np.errstate(over="ignore"):  # infinity is refused below, with the class's name
        class_text = np.asarray(class_text).astype(np.float32)
    check_text(path, class_names, class_text)
    return class_text


def _write_parts(
    file: h5py.File, name: str, collected: Collector, class_text: np.ndarray,
    rates: Mapping[str, float], provenance: dict,
):
    file.attrs.update(schema=SCHEMA, version=VERSION, name=str(name),
                      may_lack_modality=bool(collected.may_lack_modality))
    file["clip_ids"] = _fixed_width(collected.ids)
    file["labels"] = np.asarray(collected.labels, np.int32)
    if collected.groups is not None:
        file["groups"] = _fixed_width(collected.groups)
    file["class_names"] = _fixed_width(collected.class_names)
    file["class_text"] = class_text
    text = json.dumps(provenance, sort_keys=True)
    file["provenance"] = np.frombuffer(text.encode(), np.uint8)
    for modality, seconds in rates.items():
        collected.parts[modality].copy_to(file.create_group(modality), seconds)


def _fixed_width(names: Iterable[str]):
    return np.array([name.encode("utf-8") for name in names])
