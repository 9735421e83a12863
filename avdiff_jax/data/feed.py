"""From plans to masked batches, on the device or streamed to it.

Where the features live on the device a plan is all that travels, and the batch is gathered there;
otherwise the host fills the same batch from the memory-mapped store.
"""

import collections
import functools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.store import Flat, Store
from avdiff_jax.data.windows import Bucket, Lengths, Plan, largest_divisor, training_plan
from avdiff_jax.errors import UserError
from avdiff_jax.runtime import devices, memory
from avdiff_jax.runtime.compiling import compile_function


class Batch(struct.PyTreeNode):
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


def _framed(audio, video, plan: Plan, masks, seconds) -> Batch:
    times = [
        jnp.broadcast_to(jnp.arange(m.shape[-1], dtype=jnp.float32) * s, m.shape)
        for m, s in zip(masks, seconds, strict=True)
    ]
    return Batch(
        audio=audio, video=video, audio_mask=masks[0], video_mask=masks[1],
        audio_time=times[0], video_time=times[1],
        label=jnp.asarray(plan.label), weight=jnp.asarray(plan.weight),
    )


class Resident(NamedTuple):
    """The whole store on the device: flat audio and video values [N, D]."""

    audio: jax.Array | np.ndarray
    video: jax.Array | np.ndarray


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


@functools.cache
def readers() -> ThreadPoolExecutor:
    """Threads that read clips: copying rows runs beside Python. Half of the cores are enough to
    keep a GPU busy, and where the CPU trains, the others do."""
    return ThreadPoolExecutor(min(MOST_READERS, max(1, (os.cpu_count() or 1) // 2)))


def fill(store: Flat, plan: Plan, lengths: Lengths) -> Filled:
    """Reads the windows of a plan of any shape from the memory-mapped store, each value in the
    type that it is stored in."""

    def read(sequences, start, length, most):
        values = np.empty((start.size, most, sequences.dim), sequences.values.dtype)

        def read_rows(rows):
            for row, a, n in zip(values[rows], start[rows], length[rows], strict=True):
                row[:n] = sequences.values[a : a + n]
                row[n:] = 0

        # Several parts a thread, since clips differ in length.
        size = max(1, start.size // (4 * MOST_READERS))
        parts = [slice(first, first + size) for first in range(0, start.size, size)]
        return values, [readers().submit(read_rows, part) for part in parts]

    read_parts = (
        read(store.audio, plan.audio_start.ravel(), plan.audio_length.ravel(), lengths.audio),
        read(store.video, plan.video_start.ravel(), plan.video_length.ravel(), lengths.video),
    )
    for _, jobs in read_parts:
        for job in jobs:
            job.result()
    return Filled(*(
        values.reshape(*plan.label.shape, *values.shape[1:]) for values, _ in read_parts
    ))


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


PART_BYTES = 64 << 20  # of values that travel to the devices at a time


def place_values(values: np.ndarray, mesh: Mesh) -> jax.Array:
    """Places values [N, D] of a memory-mapped file on the devices, in parts that threads read:
    the pages of a file come in much more slowly than they travel."""
    whole, rows = devices.replicated(mesh), max(1, PART_BYTES // (values[:1].nbytes or 1))
    if devices.on_cpu(mesh) or jax.process_count() > 1 or len(values) <= rows:
        return devices.put(np.asarray(values), whole)
    write = compile_function(_write_rows, "float32", out_shardings=whole, donate_argnums=0)
    placed = jnp.zeros(values.shape, values.dtype, device=whole)
    # All parts have one shape, so the last one overlaps the one before.
    first_rows = [*range(0, len(values) - rows, rows), len(values) - rows]
    parts = prefetch(lambda row: np.array(values[row : row + rows]), first_rows, MOST_READERS)
    for row, part in zip(first_rows, parts, strict=True):
        placed = write(placed, devices.put(part, whole), row)
    return placed


def _write_rows(values: jax.Array, part: jax.Array, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(values, part, row, 0)


AHEAD = 2  # dispatches that are made while one is trained on: one is read, one travels
# What a streamed dispatch holds at most of a role; so many more than `AHEAD` are there at a time.
STREAM_BYTES = 170 << 20
MOST_READERS = 8


class Feed:
    """Features of a store, resident on the device or streamed to it.

    Args:
      residence: "device", "host", or "auto": on the device where the store takes at most
        half of its free memory.

    Attributes:
      streamed: whether batches are filled on the host.
    """

    def __init__(self, store: Store, mesh, residence: str = "auto"):
        """Decides where the features stay; `data` puts them there."""
        self.store, self.mesh = store, mesh
        self.seconds = (store.audio.seconds, store.video.seconds)
        size = store.audio.values.nbytes + store.video.values.nbytes
        if residence == "auto":
            residence = "device" if size <= memory.free_bytes() // 2 else "host"
        if residence not in ("device", "host"):
            raise UserError(f"data.residence={residence!r} must be device, host or auto")
        self.streamed = residence == "host"

    @functools.cached_property
    def data(self) -> Resident | None:
        """The features on the devices, put there when first asked for; None where they are
        streamed. It is the argument of every compiled step."""
        if self.streamed:
            return None
        return Resident(*(
            place_values(part.values, self.mesh) for part in (self.store.audio, self.store.video)
        ))

    def describe_data(self) -> Resident | None:
        """Returns the shapes of `data`, which need not be there yet."""
        if self.streamed:
            return None
        parts = Resident(self.store.audio.values, self.store.video.values)
        return devices.describe_placed(parts, devices.replicated(self.mesh))

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

        return prefetch(made, jobs)

    def batch(self, data, inputs, lengths: Lengths) -> Batch:
        """The batch of `inputs` [B]; runs inside jit."""
        if isinstance(inputs, Plan):
            return gather(data, inputs, lengths, self.seconds)
        filled, plan = inputs
        return framed(filled, plan, self.seconds)


def prefetch(make: Callable, items: Iterable, ahead: int = AHEAD) -> Generator:
    """Yields make(item) for each item, in order; threads make the next `ahead` meanwhile."""
    with ThreadPoolExecutor(ahead) as pool:
        waiting = collections.deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
