"""Clips on their way from an importer into a store."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Clip(NamedTuple):
    """What an importer hands over; a modality that the clip lacks is None."""

    clip_id: str
    class_name: str
    group: str | None
    audio: np.ndarray | None  # [Ta, Da]
    video: np.ndarray | None  # [Tv, Dv]


def pool_tokens(clips: Iterable[Clip], audio: int = 1, video: int = 1) -> Iterator[Clip]:
    """Averages every `audio` (`video`) consecutive tokens; a shorter rest makes one token too."""
    for clip in clips:
        yield clip._replace(audio=_average(clip.audio, audio), video=_average(clip.video, video))


def _average(values: Any, every: int):
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
