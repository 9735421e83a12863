"""A stream of clips in pieces of bounded size.

A piece looks like a small store to `data.batches`, so windows and batches are made of it by the
same functions; its batches take their shapes from a short ladder, so that few programs are
compiled however long the stream is.
"""

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from avdiff_jax.data.admission import Admitted
from avdiff_jax.data.feed import STREAM_BYTES, Batch, fill, framed
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.store import Sequences
from avdiff_jax.data.windows import Lengths, Limits, evaluation_buckets
from avdiff_jax.runtime.compiling import compile_function

PIECE_BATCHES = 16  # clips of a piece: enough that those of one batch are of similar length


class Piece(NamedTuple):
    """Some clips in a row, flat as in a store."""

    clip_ids: list[str]
    audio: Sequences
    video: Sequences


def pieces(clips: Iterable[Admitted], seconds: tuple[float, float], batch: int) -> Iterator[Piece]:
    """Cuts a stream of admitted clips into pieces of so many batches, or of `STREAM_BYTES` where
    clips are long.

    Args:
      clips: as `admission.admit` lets them through.
      seconds: per token of audio and of video.
    """
    held, size = [], 0
    for clip in clips:
        held.append(clip)
        size += clip.audio.nbytes + clip.video.nbytes
        if len(held) == PIECE_BATCHES * batch or size > STREAM_BYTES:
            yield _piece(held, seconds)
            held, size = [], 0
    if held:
        yield _piece(held, seconds)


def _piece(held: list[Admitted], seconds: tuple[float, float]) -> Piece:
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
