"""Clips on their way from files of features into a store: checked, pooled, collected on disk."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from avdiff_jax.errors import UserError

MAX_ID_BYTES = 1024  # names are stored at fixed width, so one absurd name would widen all
COPY_BYTES = 1 << 24  # values are copied in pieces of about this size


class Clip(NamedTuple):
    """What an importer hands over; a modality that the clip lacks is None."""

    clip_id: str
    class_name: str
    group: str | None
    audio: np.ndarray | None  # [Ta, Da]
    video: np.ndarray | None  # [Tv, Dv]


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


class Collector:
    """Takes clips one by one, checks them and keeps their features in raw files.

    Use as a context manager, which closes the files. Only what is not features stays in memory.
    """

    def __init__(self, folder, class_names: Sequence[str], may_lack_modality: bool):
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
        if clip.class_name not in self._label_of:
            raise UserError(f"clip {clip_id!r} is of class {clip.class_name!r}, which is none of "
                            f"the {len(self.class_names)} classes: add it or leave out the clip")
        if clip.group:
            check_name("group", clip.group)
        for modality, values in self._features(clip).items():
            self.parts[modality].append(values, clip_id)
        self._number_of[clip_id] = len(self.ids)
        self.ids.append(clip_id)
        self.labels.append(self._label_of[clip.class_name])
        self._groups.append(clip.group)

    def _features(self, clip):
        """modality -> [T, D] or None."""
        given = {
            modality: _checked(getattr(clip, modality), clip.clip_id, modality, part.dim)
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


class Ragged:
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
        """Closes the raw file."""
        self.file.close()


def _fits_uint8(values):
    if values.dtype == np.uint8:
        return True
    return bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all())
