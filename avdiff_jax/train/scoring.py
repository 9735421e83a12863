"""Scores of clips, in evaluation mode: all that measuring a model takes."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import (
    Bucket,
    Lengths,
    Limits,
    cut_lengths,
    evaluation_buckets,
    largest_divisor,
)
from avdiff_jax.errors import UserError
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function

CACHED_TOKENS = 1024  # that are fused at a time on a CPU
# Shapes of evaluation batches. Where clips are short, padding them costs a GPU less than compiling
# for another shape, which takes a second or two.
SHAPES, SHORT_TOKENS = 3, 64
GPU_BATCHES = 8  # that a GPU takes at a time, since it computes one of them as fast as all
SENT = 32  # batches of which the devices hold what was computed


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """A method on the clips of a feed, with its compiled functions in evaluation mode.

    fuse: (variables, data, inputs, lengths) -> features [B, ...]; see `compile_fusing`.
    judge: (variables, features) -> scores [B, C].
    """

    method: Method
    info: Info
    feed: Feed
    fuse: Callable
    judge: Callable

    def score_batch(self, variables: Vars, inputs: Any, lengths: Lengths) -> jax.Array:
        """Scores a batch, [B, C]."""
        return self.judge(variables, self.fuse(variables, self.feed.data, inputs, lengths))


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationBatches:
    """Yields (rows [B], inputs, lengths) of each evaluation batch, as often as it is asked: where
    the clips stay on the devices, the batches are placed there once."""

    feed: Feed
    buckets: list[Bucket]

    def __iter__(self) -> Iterator[tuple[np.ndarray, Any, Lengths]]:
        return self.feed.measured(self.buckets) if self.feed.streamed else iter(self._placed)

    @functools.cached_property
    def _placed(self) -> list[tuple[np.ndarray, Any, Lengths]]:
        return list(self.feed.measured(self.buckets))


def compile_fusing(method: Method, info: Info, feed: Feed) -> Callable:
    """Compiles `fuse(variables, data, inputs, lengths)`: the features of a batch in evaluation
    mode, [B, ...]."""
    whole = devices.replicated(feed.mesh)

    def fuse(variables, data, inputs, lengths):
        batch = feed.batch(data, inputs, lengths)

        def features(batch):
            # No dropout in evaluation: the key is never read.
            return method.features(info, variables, batch, jax.random.key(0), False)[0]

        at_once = clips_at_once(len(batch.label), lengths, feed.mesh)
        if at_once == len(batch.label):
            return features(batch)
        parts = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), batch)
        of_parts = jax.lax.map(features, parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), of_parts)

    return compile_function(
        fuse, info.config.device.precision, static_argnames="lengths", out_shardings=whole
    )


def compile_judging(method: Method, info: Info, mesh: Mesh) -> Callable:
    """Compiles `judge(variables, features) -> [B, C]`: scores of features."""
    return compile_function(
        functools.partial(method.scores, info), info.config.device.precision,
        out_shardings=devices.replicated(mesh),
    )


def clips_at_once(clips: int, lengths: Lengths, mesh: Mesh) -> int:
    """Returns how many clips of an evaluation batch are fused at a time.

    On one CPU long clips take turns: attention scores that leave the caches cost more than the
    products. Several devices share a batch out, and a GPU is faster with all of it.
    """
    if mesh.size > 1 or not devices.on_cpu(mesh):
        return clips
    return largest_divisor(clips, max(1, CACHED_TOKENS // sum(lengths)))


def batch_members(scorer: Scorer, members: Members, test: bool) -> EvaluationBatches:
    """Sorts `members` into evaluation batches under the limits for validation or test."""
    data = scorer.info.config.data
    limits = (
        Limits(data.test_max_audio, data.test_max_video)
        if test
        else Limits(data.val_max_audio, data.val_max_video)
    )
    return sort_clips(scorer, members, limits)


def sort_clips(
    scorer: Scorer, members: Members, limits: Limits, position: np.ndarray | None = None
) -> EvaluationBatches:
    """Sorts clips into evaluation batches; windows lie at `position` [n], else in the middle."""
    store, mesh, batch = scorer.feed.store, scorer.feed.mesh, scorer.info.config.eval.batch
    most = SHAPES
    if not devices.on_cpu(mesh):
        batch *= GPU_BATCHES
        if cut_lengths(store, limits).max(0).sum() <= SHORT_TOKENS:
            most = 1
    buckets = evaluation_buckets(store, members, limits, batch, most, position, mesh.size)
    return EvaluationBatches(scorer.feed, buckets)


def score_members(
    scorer: Scorer, variables: Vars, members: Members, batches: EvaluationBatches
) -> np.ndarray:
    """Scores [n, C] of `members` in their order; each clip once.

    Raises:
      UserError: a score is not a finite number.
    """
    sent = (
        (rows, scorer.score_batch(variables, inputs, lengths))
        for rows, inputs, lengths in batches
    )
    return check_scores(fetch_rows(sent, len(members.labels)))


def fetch_rows(sent: Iterable[tuple[np.ndarray, Any]], count: int) -> Any:
    """Collects what was computed of each batch, as NumPy arrays [count, ...].

    `SENT` batches are sent before the numbers of the first are read: the devices neither wait for
    the host nor hold what all batches come to.

    Args:
      sent: rows [B] of a batch, -1 for filler, and arrays [B, ...] on the devices.
    """
    waiting, whole = collections.deque(), None

    def read():
        nonlocal whole
        rows, arrays = waiting.popleft()
        real, arrays = rows >= 0, jax.device_get(arrays)
        if whole is None:
            whole = jax.tree.map(lambda x: np.zeros((count, *x.shape[1:]), x.dtype), arrays)
        for target, array in zip(jax.tree.leaves(whole), jax.tree.leaves(arrays), strict=True):
            target[rows[real]] = array[real]

    for batch in sent:
        waiting.append(batch)
        if len(waiting) > SENT:
            read()
    while waiting:
        read()
    return whole


def check_scores(scores: np.ndarray) -> np.ndarray:
    """Returns `scores` [n, C] as they are.

    Raises:
      UserError: one of them is not a finite number.
    """
    if bad := int((~np.isfinite(scores)).any(-1).sum()):
        raise UserError(
            f"the scores of {bad} of {len(scores)} clips are not finite: check the features for "
            "extreme values, or train with a lower train.learning_rate"
        )
    return scores


def fuse_members(
    scorer: Scorer, variables: Vars, batches: EvaluationBatches, count: int
) -> Any:
    """Features of the clips in `batches`, in the order of their rows, NumPy arrays [count, ...]."""
    sent = (
        (rows, scorer.fuse(variables, scorer.feed.data, inputs, lengths))
        for rows, inputs, lengths in batches
    )
    return fetch_rows(sent, count)
