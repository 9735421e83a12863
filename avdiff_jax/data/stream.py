"""Clips to be scored or learnt from, wherever they are, in pieces of bounded size: lists of
arrays, a store, an .npz file, or .npy files that a manifest names.

A piece looks like a small store to `data.batches`, so windows and batches are made of it by the
same functions; its batches take their shapes from a short ladder, so that few programs are
compiled however long the stream is.
"""

import csv
import io
import itertools
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from avdiff_jax.data.feed import STREAM_BYTES, Batch, fill, framed
from avdiff_jax.data.importers.npz_manifest import npz_features
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.store import VALUE_TYPES, Sequences, Store
from avdiff_jax.data.windows import Lengths, Limits, evaluation_buckets
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.npy_npz import read_npy
from avdiff_jax.runtime.compiling import compile_function

PIECE_BATCHES = 16  # clips of a piece: enough that those of one batch are of similar length


class Features(NamedTuple):
    """A clip without a label: audio [Ta, Da] and video [Tv, Dv]; None for one that it lacks."""

    clip_id: str
    audio: np.ndarray | None
    video: np.ndarray | None


class Piece(NamedTuple):
    """Some clips in a row, flat as in a store."""

    clip_ids: list[str]
    audio: Sequences
    video: Sequences


def of_arrays(audio: Sequence, video: Sequence, ids: Sequence[str] | None = None):
    """Clips from lists of arrays of equal length; ids default to their numbers.

    Raises:
      UserError: lists of different lengths.
    """
    if len(audio) != len(video) or len(audio) != len(ids if ids is not None else audio):
        raise UserError(
            f"{len(audio)} audio and {len(video)} video arrays"
            + ("" if ids is None else f" and {len(ids)} ids")
            + ": give one of each a clip, None where a clip lacks a modality"
        )
    names = ids if ids is not None else map(str, range(len(audio)))
    return map(Features, names, audio, video)


def of_store(store: Store, clips: Iterable[int] | None = None) -> Iterator[Features]:
    """The clips of a store, or those that `clips` numbers, in that order."""

    def part(sequences: Sequences, i: int):
        return sequences.values[sequences.offsets[i] : sequences.offsets[i + 1]]

    for i in range(len(store)) if clips is None else clips:
        yield Features(str(store.clip_ids[i]), part(store.audio, i), part(store.video, i))


class Labelled(NamedTuple):
    """Clips in memory, entry by entry."""

    audio: list[np.ndarray | None]  # [Ta, Da] each
    video: list[np.ndarray | None]  # [Tv, Dv] each
    class_names: list[str]
    clip_ids: list[str]


def collect(store: Store, by_class: Mapping[str, Sequence[str]]) -> Labelled:
    """Reads the clips of a store that `by_class` lists by their ids.

    Raises:
      UserError: the store lacks one.
    """
    where = {str(clip): i for i, clip in enumerate(store.clip_ids)}
    pairs = [(name, clip) for name, ids in sorted(by_class.items()) for clip in ids]
    if lost := [clip for _, clip in pairs if clip not in where]:
        raise UserError(f"{store.path} lacks {len(lost)} of {len(pairs)} clips, such as "
                        f"{lost[0]!r}: use the store that the split was made for")
    clips = list(of_store(store, [where[clip] for _, clip in pairs]))
    return Labelled(
        [clip.audio for clip in clips], [clip.video for clip in clips],
        [name for name, _ in pairs], [clip.clip_id for clip in clips],
    )


def of_npz(
    paths: Sequence[FilePath], audio_key: str | None, video_key: str | None, id_key: str | None
) -> tuple[int, Iterator[Features]]:
    """The number of clips in .npz files, and the clips; see `importers.npz_features`.

    Raises:
      UserError: unknown keys, or arrays that disagree.
    """
    ids, streams = npz_features(paths, audio_key, video_key, id_key)
    none = itertools.repeat(None)
    parts = (streams.get(name, none) for name in VALUE_TYPES)
    return len(ids), map(Features, ids, *parts)


def of_manifest(path: FilePath) -> tuple[int, Iterator[Features]]:
    """The number of clips of a CSV with the columns clip_id, audio and video, and the clips.

    audio and video name .npy files, [T, D], relative to the CSV; an empty cell says that the clip
    lacks the modality. Other columns are left unread. The CSV is read line by line.

    Raises:
      UserError: it is no such CSV, or a file that it names is missing or no array.
    """
    folder = os.path.dirname(os.fspath(path))

    def rows():
        with text_files.opened(path, "manifest") as file:
            text = io.TextIOWrapper(file, "utf-8-sig", newline="")
            try:
                yield from csv.reader(text, strict=True)
            except (csv.Error, UnicodeDecodeError) as error:
                raise UserError(f"manifest {path} is not a CSV file ({error}): mend it") from None

    header = [cell.strip() for cell in next(rows(), [])]
    if not {"clip_id", "audio", "video"} <= {*header}:
        raise UserError(f"manifest {path} has the header {','.join(header)!r} where the columns "
                        f"clip_id, audio and video are needed: mend it")

    def clips():
        for number, row in enumerate(rows(), 1):
            if number == 1 or not row:
                continue
            if len(row) != len(header):
                raise UserError(f"manifest {path}, row {number}, has {len(row)} cells where the "
                                f"header has {len(header)}: mend it")
            entry = dict(zip(header, map(str.strip, row), strict=True))
            yield Features(entry["clip_id"], *(
                read_npy(os.path.join(folder, entry[name])) if entry[name] else None
                for name in VALUE_TYPES
            ))

    return sum(map(bool, rows())) - 1, clips()


def pieces(
    clips: Iterable[Features], dims: tuple[int, int], seconds: tuple[float, float], batch: int
) -> Iterator[Piece]:
    """Cuts a stream into pieces of so many batches, or of `STREAM_BYTES` where clips are long.

    Args:
      dims: Da and Dv; seconds: per token of audio and of video.

    Raises:
      UserError: a clip of another dimension, without tokens, or with NaN or infinity.
    """
    held, size = [], 0
    for clip in clips:
        held.append(clip._replace(
            audio=_check_tokens(clip, "audio", clip.audio, dims[0]),
            video=_check_tokens(clip, "video", clip.video, dims[1]),
        ))
        added = held[-1].audio.nbytes + held[-1].video.nbytes
        if not added:
            raise UserError(f"clip {clip.clip_id!r} has neither audio nor video: leave it out")
        size += added
        if len(held) == PIECE_BATCHES * batch or size > STREAM_BYTES:
            yield _piece(held, seconds)
            held, size = [], 0
    if held:
        yield _piece(held, seconds)


def _check_tokens(clip: Features, modality: str, values: Any, dim: int):
    """One modality of a clip as [T, D] of a type that a store may have."""
    if values is None:
        return np.zeros((0, dim), np.float32)
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != dim or values.dtype.kind not in "biuf":
        raise UserError(
            f"clip {clip.clip_id!r} has {modality} features of shape {values.shape}, type "
            f"{values.dtype}, but the model was trained on [tokens, {dim}] numbers: use the "
            "extractor of its training data"
        )
    if values.dtype.name not in VALUE_TYPES[modality]:
        values = values.astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(
            f"clip {clip.clip_id!r} has NaN or infinite {modality} features: mend or leave it out"
        )
    return values


def _piece(held: list[Features], seconds: tuple[float, float]) -> Piece:
    def flat(arrays: Sequence[Any], seconds: float):
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return Sequences(np.concatenate(arrays), offsets, seconds)

    return Piece(
        [clip.clip_id for clip in held],
        flat([clip.audio for clip in held], seconds[0]),
        flat([clip.video for clip in held], seconds[1]),
    )


def rung(count: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24 ... that is not below `count`."""
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and power * 3 // 4 >= count else power


# Nothing is multiplied here, so any precision is right.
_framed = compile_function(framed, "float32", static_argnames="seconds")


def batches(
    piece: Piece, labels: np.ndarray | None, limits: Limits, most: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """All clips of a piece as evaluation batches.

    Args:
      labels: [n], where they are known.
      limits: on tokens per clip; longer clips are cut to their middle.
      most: clips in a batch.

    Yields:
      rows of the piece [B], -1 for filler; the batch.
    """
    n = len(piece.clip_ids)
    members = Members(np.arange(n), np.zeros(n, np.int32) if labels is None else labels)
    seconds = piece.audio.seconds, piece.video.seconds
    for bucket in evaluation_buckets(piece, members, limits, min(most, rung(n))):
        lengths = Lengths(*map(rung, bucket.lengths))
        for i, rows in enumerate(bucket.rows):
            plan = jax.tree.map(operator.itemgetter(i), bucket.plan)
            yield rows, _framed(fill(piece, plan, lengths), plan, seconds=seconds)
