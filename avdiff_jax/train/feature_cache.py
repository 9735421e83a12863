"""Fused features that were computed once, where the part that makes them stands still.

In substage 2 with `train.frozen_mode=eval` the features of a clip (the fused token) are the same
in every update, so they are computed once and only the small networks behind them are trained.
A clip that is longer than the training batches has `train.crops` of them, from as many evenly
spaced windows, in the place of windows at random.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from avdiff_jax.data.feed import Feed, largest_divisor
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import Bucket, Lengths, Limits, drawn, evaluation_buckets
from avdiff_jax.runtime import devices


@struct.dataclass
class Fused:
    """A batch in the place of `Batch`.

    features: what `Method.features` makes of B clips, [B, ...]; label [B].
    """

    features: Any
    label: jax.Array


@struct.dataclass
class Rows:
    """A plan in the place of `Plan`: rows of the cache and labels, [..., B]."""

    row: np.ndarray
    label: np.ndarray


def fused(fuse: Callable, feed: Feed, vars, buckets: list[Bucket], count: int):
    """Features [count, ...] of the clips in `buckets`, in the order of their rows.

    Args:
      fuse: compiled by `train.step.fusing_step`.
    """
    parts, order = [], []
    for rows, inputs, lengths in feed.measured(buckets):
        parts.append(fuse(vars, feed.data, inputs, lengths))
        order.append(rows)
    order = np.concatenate(order)
    place = np.zeros(count, np.int64)
    place[order[order >= 0]] = np.flatnonzero(order >= 0)
    joined = jax.tree.map(lambda *x: jnp.concatenate(x)[place], *parts)
    return devices.put(joined, devices.replicated(feed.mesh))


class Cache:
    """Stands in for a `Feed` whose clips have been fused.

    Args:
      fuse: compiled by `train.step.fusing_step`.
      feed, vars: the clips, and what fuses them.
      members: every clip that will be asked for.
      lengths: the fixed shape of training batches without a cache.
      batch: clips that are fused at a time.
      crops: windows of a clip that is longer than `lengths`.

    Attributes:
      data: features [N, ...] of all windows, on the device.
    """

    streamed = False

    def __init__(
        self, fuse: Callable, feed: Feed, vars, members: Members, lengths: Lengths, batch: int,
        crops: int,
    ):
        self.mesh = feed.mesh
        store, clips = feed.store, np.unique(members.clips)
        longer = store.video.lengths[clips] > lengths.video
        windows = np.where(longer, crops, 1)
        self.windows, self.first = np.zeros((2, len(store)), np.int64)
        self.windows[clips] = windows
        self.first[clips] = np.cumsum(windows) - windows
        rows = np.repeat(clips, windows)
        number = np.arange(len(rows)) - self.first[rows]
        # Labels play no part in fusing.
        every = Members(rows, np.zeros(len(rows), np.int32))
        buckets = evaluation_buckets(
            store, every, Limits(*lengths), batch, position=(number + 0.5) / self.windows[rows]
        )
        self.data = fused(fuse, feed, vars, buckets, len(rows))

    def steps(self, lengths: Lengths, batch: int, wanted: int, total: int) -> int:
        """Steps of one dispatch: the largest divisor of `total` that is at most `wanted`."""
        return largest_divisor(total, wanted)

    def plan(
        self, members: Members, lengths: Lengths, batch: int, steps: int, seed: list[int]
    ) -> Rows:
        """The same clips as `training_plan`; the window nearest to where it would lie."""
        clips, labels, position = drawn(members, batch, steps, seed)
        row = self.first[clips] + np.floor(position * self.windows[clips]).astype(np.int64)
        return Rows(row.astype(np.int32), labels.astype(np.int32))

    def inputs(self, plan: Rows, lengths: Lengths) -> Rows:
        """A plan [..., B] as device arrays."""
        return devices.put(plan, devices.batch_sharding(self.mesh, plan.label.ndim - 1))

    @staticmethod
    def batch(data, inputs: Rows, lengths: Lengths) -> Fused:
        """The batch of `inputs` [B]; runs inside jit."""
        return Fused(jax.tree.map(lambda x: x[inputs.row], data), inputs.label)
