"""From clips to plans of fixed-shape batches.

A *window* says which tokens of a clip are used; a *plan* is an array of windows, made on the host
as a function of (seed, stage, substage, draw, epoch).
"""

from typing import NamedTuple

import numpy as np
from flax import struct

from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.store import Flat

ROLES = ("base", "novel")


class Plan(struct.PyTreeNode):
    """Windows into the flat token arrays, each [..., B]: first token and number of tokens of
    a modality, label, weight."""

    audio_start: np.ndarray
    audio_length: np.ndarray
    video_start: np.ndarray
    video_length: np.ndarray
    label: np.ndarray
    weight: np.ndarray


class Lengths(NamedTuple):
    """Most tokens of a modality in a batch: its fixed shape."""

    audio: int
    video: int


class Limits(NamedTuple):
    """Upper limits on tokens per clip; 0 = the longest clip, or the time span of the other
    modality where that has a limit."""

    audio: int
    video: int

    def lengths(self, store: Flat, clips: np.ndarray | slice) -> Lengths:
        """The fixed shape for `clips`: their longest, cut to the limits; at least 1."""
        longest = store.audio.lengths[clips].max(), store.video.lengths[clips].max()
        audio, video = self
        ratio = store.video.seconds / store.audio.seconds
        most = audio or round(video * ratio), video or round(audio / ratio)
        return Lengths(
            *(max(1, min(limit or int(n), int(n))) for limit, n in zip(most, longest, strict=True))
        )


def windows(store: Flat, clips, labels, lengths: Lengths, position) -> Plan:
    """Cuts clips to at most `lengths`; the audio is cut to the same time span as the video.

    Args:
      clips: [...] indices into the store.
      labels: [...] labels, in the numbering of the stage.
      lengths: most tokens kept of each modality.
      position: [...] in [0, 1) to place the window at random, or None for the centre.

    Returns:
      Plan of the shape of `clips`, weights 1. Where only the audio is too long, its window
      starts at the beginning, as in the published collator.
    """
    audio, video = store.audio, store.video
    n_audio, n_video = audio.lengths[clips], video.lengths[clips]
    spare_audio = np.maximum(n_audio - lengths.audio, 0)
    spare_video = np.maximum(n_video - lengths.video, 0)
    if position is None:
        start = spare_video // 2
    else:
        start = np.floor(position * (spare_video + 1)).astype(np.int64)
    same = np.rint(start * video.seconds / audio.seconds).astype(np.int64)
    audio_start = audio.offsets[clips] + np.minimum(same, spare_audio)
    return Plan(
        audio_start=audio_start.astype(np.int32),
        audio_length=np.minimum(n_audio, lengths.audio).astype(np.int32),
        video_start=(video.offsets[clips] + start).astype(np.int32),
        video_length=np.minimum(n_video, lengths.video).astype(np.int32),
        label=np.asarray(labels, np.int32),
        weight=np.ones(np.shape(clips), np.float32),
    )


class Drawn(NamedTuple):
    """Examples of training batches, each [steps, B]: clip, label, and where in [0, 1) the window
    of a clip lies that is cut."""

    clips: np.ndarray
    labels: np.ndarray
    position: np.ndarray


def drawn(members: Members, batch: int, steps: int, seed: list[int]) -> Drawn:
    """Class-balanced batches with replacement: a class uniformly, then a clip of it.

    Args:
      members: clips and labels.
      batch, steps: the shape is [steps, batch].
      seed: integers that name these batches: (seed, stage, substage, draw, epoch, role).
    """
    rng = np.random.default_rng(seed)
    by_class = np.argsort(members.labels, kind="stable")
    labels = members.labels[by_class]
    _, first, count = np.unique(labels, return_index=True, return_counts=True)
    shape = (steps, batch)
    chosen = rng.integers(len(first), size=shape)
    row = first[chosen] + np.floor(rng.random(shape) * count[chosen]).astype(np.int64)
    return Drawn(members.clips[by_class][row], labels[row], rng.random(shape))


def training_plan(
    store: Flat, members: Members, lengths: Lengths, batch: int, steps: int, seed: list[int]
) -> Plan:
    """The windows of `drawn` examples, [steps, batch]."""
    examples = drawn(members, batch, steps, seed)
    return windows(store, examples.clips, examples.labels, lengths, examples.position)


class Bucket(NamedTuple):
    """Evaluation batches of one shape: their plan [steps, B] and the rows of `Members` that
    they hold, [steps, B], -1 for filler."""

    lengths: Lengths
    plan: Plan
    rows: np.ndarray


def cut_lengths(store: Flat, limits: Limits) -> np.ndarray:
    """Tokens [n, 2] of audio and video that the limits leave of each clip of a store."""
    lengths = np.stack([store.audio.lengths, store.video.lengths], -1)
    return np.minimum(lengths, limits.lengths(store, slice(None)))


def bucket_shapes(lengths: np.ndarray, most: int = 3) -> list[Lengths]:
    """At most `most` shapes, each within the next, for clips of `lengths` [n, 2]: sorted and cut
    into runs of equal size, the longest of each run and of those before it."""
    parts = np.array_split(lengths[np.lexsort(lengths.T)], min(most, len(lengths)))
    nested = np.maximum.accumulate([part.max(0) for part in parts]).clip(1)
    return [Lengths(*map(int, shape)) for shape in dict.fromkeys(map(tuple, nested))]


def evaluation_buckets(
    store: Flat, members: Members, limits: Limits, batch: int, most: int = 3, position=None
) -> list[Bucket]:
    """Every clip once, in at most `most` length buckets; windows are centred, or where
    `position` [n] in [0, 1) puts them.

    The shapes are those of the whole store, so that all its parts share compiled programs. What
    fills no batch of its shape moves on to the next larger one; rows that fill up the last batch
    of all repeat a clip at weight 0.
    """
    lengths_of = cut_lengths(store, limits)
    shapes = bucket_shapes(lengths_of, most)
    lengths_of = lengths_of[members.clips]
    order = np.lexsort(lengths_of.T)
    # The shapes are nested: those that are too small for a clip come first.
    first = (lengths_of[order, None] > np.array(shapes)).any(-1).sum(-1)
    out, waiting = [], order[:0]
    for i, lengths in enumerate(shapes):
        part = np.concatenate([waiting, order[first == i]])
        full = len(part) if i == len(shapes) - 1 else len(part) // batch * batch
        part, waiting = part[:full], part[full:]
        if not full:
            continue
        rows = np.full(-(-full // batch) * batch, -1)
        rows[:full] = part
        rows = rows.reshape(-1, batch)
        used = np.maximum(rows, 0)
        place = None if position is None else position[used]
        plan = windows(store, members.clips[used], members.labels[used], lengths, place)
        weight = (rows >= 0).astype(np.float32)
        out.append(Bucket(lengths, plan.replace(weight=weight), rows))
    return out
