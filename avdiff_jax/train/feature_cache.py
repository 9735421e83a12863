"""Features that were computed once, where the part that makes them stands still.

In substage 2 with `train.frozen_mode=eval` the features of a clip (the fused token) are the same
in every update, so they are computed once and only the small networks behind them are trained.
A clip that is longer than the training batches has `train.crops` of them, from as many evenly
spaced windows, in the place of windows at random.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import (
    Lengths,
    Limits,
    draw_examples,
    largest_divisor,
)
from avdiff_jax.methods.method import Vars, abstract_batch
from avdiff_jax.runtime import devices
from avdiff_jax.train.scoring import Scorer, fuse_members, sort_clips


class Fused(struct.PyTreeNode):
    """A batch in the place of `Batch`.

    features: what `Method.features` makes of B clips, [B, ...]; label [B].
    """

    features: Any
    label: jax.Array


class Rows(struct.PyTreeNode):
    """A plan in the place of `Plan`: rows of the cache and labels, [..., B]."""

    row: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureCache:
    """A `Source` of clips whose features are there.

    data: features [N, ...] of all windows, on the devices.
    first, windows: of each clip, the row of its first window and the number of its windows.
    """

    mesh: Mesh
    data: Any
    first: np.ndarray
    windows: np.ndarray

    def describe_data(self) -> Any:
        """Returns the shapes of `data`."""
        return devices.describe_placed(self.data, devices.replicated(self.mesh))

    def steps(self, lengths: Lengths, batch: int, wanted: int, total: int) -> int:
        """Returns the largest divisor of `total` that is at most `wanted`; on a GPU, where an
        epoch takes less than a second, all of it."""
        return largest_divisor(total, wanted) if devices.on_cpu(self.mesh) else total

    def plan(
        self, members: Members, lengths: Lengths, batch: int, steps: int, seed: list[int]
    ) -> Rows:
        """Draws the same clips as `training_plan`, and the window nearest to where it would lie."""
        clips, labels, position = draw_examples(members, batch, steps, seed)
        row = self.first[clips] + np.floor(position * self.windows[clips]).astype(np.int64)
        return Rows(row.astype(np.int32), labels.astype(np.int32))

    def inputs(self, plan: Rows, lengths: Lengths) -> Rows:
        """Places a plan [..., B] on the devices."""
        return devices.put(plan, devices.batch_sharding(self.mesh, plan.label.ndim - 1))

    @staticmethod
    def batch(data: Any, inputs: Rows, lengths: Lengths) -> Fused:
        """Returns the batch of `inputs` [B]. It runs inside jit."""
        return Fused(jax.tree.map(lambda x: x[inputs.row], data), jnp.asarray(inputs.label))


def cache_members(
    scorer: Scorer, variables: Vars, members: Members, lengths: Lengths
) -> FeatureCache:
    """Fuses every clip that training will ask for.

    Args:
      variables: what fuses them.
      members: the clips; one may come more than once.
      lengths: the fixed shape of training batches without a cache.
    """
    first, windows, rows = place_windows(scorer, members, lengths)
    number = np.arange(len(rows)) - first[rows]
    # Labels play no part in fusing.
    every = Members(rows, np.zeros(len(rows), np.int32))
    batches = sort_clips(scorer, every, Limits(*lengths), (number + 0.5) / windows[rows])
    features = devices.put(
        fuse_members(scorer, variables, batches, len(rows)), devices.replicated(scorer.feed.mesh)
    )
    return FeatureCache(scorer.feed.mesh, features, first, windows)


def describe_cache(
    scorer: Scorer, variables: Vars, members: Members, lengths: Lengths
) -> FeatureCache:
    """Returns what `cache_members` would, with shapes in the place of features: enough to plan
    batches and to compile."""
    first, windows, rows = place_windows(scorer, members, lengths)

    def fuse(variables, batch):
        return scorer.method.features(scorer.info, variables, batch, jax.random.key(0), False)[0]

    whole = devices.replicated(scorer.feed.mesh)
    features = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(rows), *x.shape[1:]), x.dtype, sharding=whole),
        jax.eval_shape(fuse, variables, abstract_batch(scorer.info, lengths)),
    )
    return FeatureCache(scorer.feed.mesh, features, first, windows)


def place_windows(
    scorer: Scorer, members: Members, lengths: Lengths
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives each of the clips of `members` rows of a cache, one for each of its windows.

    Returns:
      first row and number of windows of each clip of the store, and the clip of each row.
    """
    store = scorer.feed.store
    clips = np.unique(members.clips)
    longer = store.video.lengths[clips] > lengths.video
    windows, first = np.zeros((2, len(store)), np.int64)
    windows[clips] = np.where(longer, scorer.info.config.train.crops, 1)
    first[clips] = np.cumsum(windows[clips]) - windows[clips]
    return first, windows, np.repeat(clips, windows[clips])


def cache_examples(features: np.ndarray, mesh: Mesh) -> FeatureCache:
    """Takes the features [n, ...] that a finished model keeps as those of n clips with a window
    each."""
    data = devices.put(features, devices.replicated(mesh))
    count = len(features)
    return FeatureCache(mesh, data, np.arange(count), np.ones(count, np.int64))
