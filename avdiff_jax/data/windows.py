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
# What an evaluation batch may take of a device: its features, and for each pair of tokens of a clip
# the scores and weights of eight heads of attention.
BATCH_BYTES = 1 << 30
PAIR_BYTES = 64
SHAPES_TRIED = 200  # lengths at which the clips may be parted


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


def draw_examples(members: Members, batch: int, steps: int, seed: list[int]) -> Drawn:
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
    examples = draw_examples(members, batch, steps, seed)
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
    """At most `most` shapes, each within the next, for clips of `lengths` [n, 2], of which the
    longest fits the last: those that leave the fewest tokens of padding.

    The clips are sorted, and a run of them takes the shape of the longest in it and before it; so
    one very long clip has a shape of its own.
    """
    nested = np.maximum.accumulate(lengths[np.lexsort(lengths.T)]).clip(1)
    starts = np.flatnonzero(np.diff(nested, axis=0, prepend=0).any(-1))
    shapes, counts = nested[starts], np.diff(starts, append=len(nested))
    if len(shapes) > SHAPES_TRIED:
        kept = np.linspace(0, len(shapes) - 1, SHAPES_TRIED).round().astype(int)
        counts = np.diff(np.concatenate([[0], counts.cumsum()[kept]]))
        shapes = shapes[kept]
    tokens, ends = shapes.sum(1), counts.cumsum()
    # cost[i]: tokens of all clips up to shape i in so many runs, of which i ends the last.
    cost, chosen = (ends * tokens).astype(float), [[i] for i in range(len(shapes))]
    for _ in range(min(most, len(shapes)) - 1):
        # [i, j]: the last run goes from behind j to i.
        longer = cost[None] + (ends[:, None] - ends[None]) * tokens[:, None]
        longer[np.triu_indices(len(shapes))] = np.inf
        before = longer.argmin(1)
        better = longer.min(1) < cost
        chosen = [
            [*chosen[j], i] if improves else chosen[i]
            for i, (j, improves) in enumerate(zip(before, better, strict=True))
        ]
        cost = np.minimum(cost, longer.min(1))
    return [Lengths(*map(int, shapes[i])) for i in chosen[-1]]


def clips_of_batch(store: Flat, lengths: Lengths, batch: int, devices: int = 1) -> int:
    """How many clips of a shape make an evaluation batch: `batch`, or where they are long so many
    that a device takes no more than `BATCH_BYTES` for them; a multiple of `devices`."""
    values = 4 * (lengths.audio * store.audio.dim + lengths.video * store.video.dim)
    clip = values + PAIR_BYTES * sum(lengths) ** 2
    return devices * largest_divisor(batch // devices, max(1, BATCH_BYTES // clip))


def largest_divisor(total: int, most: int) -> int:
    """The largest divisor of `total` that is at most `most`."""
    return max(n for n in range(1, min(most, total) + 1) if total % n == 0)


def evaluation_buckets(
    store: Flat, members: Members, limits: Limits, batch: int, most: int = 3, position=None,
    devices: int = 1,
) -> list[Bucket]:
    """Every clip once, in at most `most` length buckets; windows are centred, or where
    `position` [n] in [0, 1) puts them.

    The shapes are those of the whole store, so that all its parts share compiled programs. What
    fills no batch of its shape moves on to the next larger one, unless that took more tokens than
    filling it up; rows that do so repeat a clip at weight 0.

    Args:
      batch: the most clips of a batch; see `clips_of_batch`.
      devices: that share a batch.
    """
    lengths_of = cut_lengths(store, limits)
    shapes = bucket_shapes(lengths_of, most)
    lengths_of = lengths_of[members.clips]
    order = np.lexsort(lengths_of.T)
    # The shapes are nested: those that are too small for a clip come first.
    first = (lengths_of[order, None] > np.array(shapes)).any(-1).sum(-1)
    out, waiting = [], order[:0]
    for i, lengths in enumerate(shapes):
        clips = clips_of_batch(store, lengths, batch, devices)
        part = np.concatenate([waiting, order[first == i]])
        rest = len(part) % clips
        is_last = i == len(shapes) - 1
        if is_last or rest * sum(shapes[i + 1]) > clips * sum(lengths):
            rest = 0
        full = len(part) - rest
        part, waiting = part[:full], part[full:]
        if not full:
            continue
        rows = np.full(-(-full // clips) * clips, -1)
        rows[:full] = part
        rows = rows.reshape(-1, clips)
        used = np.maximum(rows, 0)
        place = None if position is None else position[used]
        plan = windows(store, members.clips[used], members.labels[used], lengths, place)
        weight = (rows >= 0).astype(np.float32)
        out.append(Bucket(lengths, plan.replace(weight=weight), rows))
    return out
