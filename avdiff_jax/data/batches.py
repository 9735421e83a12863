"""From clip indices to fixed-shape masked batches, on the device or streamed to it.

A *window* says which tokens of a clip are used; a *plan* is an array of windows, made on
the host as a function of (seed, stage, substage, draw, epoch). Where the features live on
the device a plan is all that travels, and the batch is gathered there; otherwise the host
fills the same batch from the memory-mapped store.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from avdiff_jax.data.splits.split_file import Members
from avdiff_jax.data.store import Store
from avdiff_jax.errors import UserError
from avdiff_jax.runtime import devices

ROLES = ("base", "novel")


@struct.dataclass
class Batch:
    """Audio and video tokens of B clips, padded with zeros.

    audio [B, Ta, Da], video [B, Tv, Dv]: features as stored; audio_mask, video_mask: True
    at real tokens; audio_time, video_time [B, T]: seconds from the start of the window;
    label [B]; weight [B]: 0 for rows that only fill up the shape.
    """

    audio: jax.Array
    video: jax.Array
    audio_mask: jax.Array
    video_mask: jax.Array
    audio_time: jax.Array
    video_time: jax.Array
    label: jax.Array
    weight: jax.Array


@struct.dataclass
class Plan:
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

    def lengths(self, store: Store, clips: np.ndarray) -> Lengths:
        """The fixed shape for `clips`: their longest, cut to the limits; at least 1."""
        longest = store.audio.lengths[clips].max(), store.video.lengths[clips].max()
        audio, video = self
        ratio = store.video.seconds / store.audio.seconds
        most = audio or round(video * ratio), video or round(audio / ratio)
        return Lengths(
            *(max(1, min(limit or int(n), int(n))) for limit, n in zip(most, longest, strict=True))
        )


def windows(store: Store, clips, labels, lengths: Lengths, position) -> Plan:
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
    store: Store, members: Members, lengths: Lengths, batch: int, steps: int, seed: list[int]
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


def cut_lengths(store: Store, limits: Limits) -> np.ndarray:
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
    store: Store, members: Members, limits: Limits, batch: int, most: int = 3, position=None
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


def _framed(audio, video, plan: Plan, masks, seconds) -> Batch:
    times = [
        jnp.broadcast_to(jnp.arange(m.shape[-1], dtype=jnp.float32) * s, m.shape)
        for m, s in zip(masks, seconds, strict=True)
    ]
    return Batch(
        audio=audio, video=video, audio_mask=masks[0], video_mask=masks[1],
        audio_time=times[0], video_time=times[1], label=plan.label, weight=plan.weight,
    )


class Resident(NamedTuple):
    """The whole store on the device: flat audio and video values [N, D]."""

    audio: jax.Array
    video: jax.Array


def gather(data: Resident, plan: Plan, lengths: Lengths, seconds) -> Batch:
    """Batch [B, ...] of a plan [B], gathered on the device; runs inside jit.

    Args:
      seconds: per token of audio and of video.
    """

    def take(values, start, length, most):
        position = jnp.arange(most)[None]
        mask = position < length[:, None]
        rows = values[jnp.where(mask, start[:, None] + position, 0)]
        return jnp.where(mask[..., None], rows, 0), mask

    audio, audio_mask = take(data.audio, plan.audio_start, plan.audio_length, lengths.audio)
    video, video_mask = take(data.video, plan.video_start, plan.video_length, lengths.video)
    return _framed(audio, video, plan, (audio_mask, video_mask), seconds)


class Filled(NamedTuple):
    """What the host reads for a plan [..., B]: values [..., B, T, D] of both modalities."""

    audio: np.ndarray
    video: np.ndarray


def fill(store: Store, plan: Plan, lengths: Lengths) -> Filled:
    """Reads the windows of a plan of any shape from the memory-mapped store."""

    def read(sequences, start, length, most):
        values = np.zeros((start.size, most, sequences.dim), sequences.values.dtype)
        for row, a, n in zip(values, start.ravel(), length.ravel(), strict=True):
            row[:n] = sequences.values[a : a + n]
        return values.reshape(*start.shape, most, sequences.dim)

    return Filled(
        read(store.audio, plan.audio_start, plan.audio_length, lengths.audio),
        read(store.video, plan.video_start, plan.video_length, lengths.video),
    )


def framed(filled: Filled, plan: Plan, seconds) -> Batch:
    """Batch of what `fill` read, equal to what `gather` makes; runs inside jit."""
    masks = [
        jnp.arange(values.shape[1])[None] < length[:, None]
        for values, length in (
            (filled.audio, plan.audio_length),
            (filled.video, plan.video_length),
        )
    ]
    return _framed(filled.audio, filled.video, plan, masks, seconds)


def largest_divisor(total: int, most: int) -> int:
    """The largest divisor of `total` that is at most `most`."""
    return max(n for n in range(1, min(most, total) + 1) if total % n == 0)


# Streamed dispatches hold at most this much, and two are in flight.
STREAM_BYTES = 256 << 20


class Feed:
    """Features of a store, resident on the device or streamed to it.

    Args:
      residence: "device", "host", or "auto": on the device where the store takes at most
        half of its free memory.

    Attributes:
      data: `Resident` or None; the argument of every compiled step.
    """

    def __init__(self, store: Store, mesh, residence: str = "auto"):
        """Puts the features on the device where they stay there."""
        self.store, self.mesh = store, mesh
        self.seconds = (store.audio.seconds, store.video.seconds)
        size = store.audio.values.nbytes + store.video.values.nbytes
        if residence == "auto":
            residence = "device" if size <= devices.free_bytes() // 2 else "host"
        if residence not in ("device", "host"):
            raise UserError(f"data.residence={residence!r} must be device, host or auto")
        self.data = None
        if residence == "device":
            values = Resident(np.asarray(store.audio.values), np.asarray(store.video.values))
            self.data = devices.put(values, devices.replicated(mesh))

    @property
    def streamed(self) -> bool:
        """Whether batches are filled on the host."""
        return self.data is None

    def steps(self, lengths: Lengths, batch: int, wanted: int, total: int) -> int:
        """Steps of one dispatch: the largest divisor of `total` (so that all dispatches have
        one shape) that is at most `wanted` and, when streamed, fits `STREAM_BYTES`."""
        if self.streamed:
            audio, video = self.store.audio, self.store.video
            row = lengths.audio * audio.dim * audio.values.itemsize
            row += lengths.video * video.dim * video.values.itemsize
            wanted = min(wanted, max(1, STREAM_BYTES // max(1, row * batch)))
        return largest_divisor(total, wanted)

    def plan(
        self, members: Members, lengths: Lengths, batch: int, steps: int, seed: list[int]
    ) -> Plan:
        """As `training_plan`."""
        return training_plan(self.store, members, lengths, batch, steps, seed)

    def inputs(self, plan: Plan, lengths: Lengths):
        """A plan [..., B] as device arrays: with its features where they are streamed, of which
        each process reads its share."""
        axis = plan.label.ndim - 1
        sharding = devices.batch_sharding(self.mesh, axis)
        placed = devices.put(plan, sharding)
        if not self.streamed:
            return placed
        rows = plan.label.shape[-1] // jax.process_count()
        here = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
        filled = fill(self.store, jax.tree.map(lambda x: x[..., here], plan), lengths)
        place = functools.partial(jax.make_array_from_process_local_data, sharding)
        return jax.tree.map(place, filled), placed

    def measured(self, buckets: list[Bucket]) -> Iterator:
        """(rows [B], inputs, lengths) of each evaluation batch."""
        jobs = ((bucket, i) for bucket in buckets for i in range(len(bucket.rows)))

        def made(job):
            bucket, i = job
            plan = jax.tree.map(lambda x: x[i], bucket.plan)
            return bucket.rows[i], self.inputs(plan, bucket.lengths), bucket.lengths

        return prefetched(made, jobs)

    def batch(self, data, inputs, lengths: Lengths) -> Batch:
        """The batch of `inputs` [B]; runs inside jit."""
        if isinstance(inputs, Plan):
            return gather(data, inputs, lengths, self.seconds)
        return framed(*inputs, self.seconds)


def prefetched(make: Callable, items) -> Iterator:
    """Yields make(item) for each item; the next one is made by a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            made, waiting = waiting, pool.submit(make, item)
            if made is not None:
                yield made.result()
        if waiting is not None:
            yield waiting.result()
