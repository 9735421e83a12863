"""Class prototypes: what a class looks like on average, in the space of the input."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.data.feed import Batch
from avdiff_jax.methods.method import Info, Vars
from avdiff_jax.nn.layers import mean_over_time, product, unit
from avdiff_jax.nn.trunk import scaled
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.runtime.hosts import fetch


def average_clips(
    batch: Batch, buffers: Mapping[str, jax.Array], video_norm: str
) -> tuple[jax.Array, jax.Array]:
    """Averages each scaled modality over its valid tokens and makes the mean unit length.

    Returns:
      audio [b, Da], video [b, Dv].
    """
    x = scaled(batch, buffers, video_norm)
    return (
        unit(mean_over_time(x["audio"], batch.audio_mask)),
        unit(mean_over_time(x["video"], batch.video_mask)),
    )


def average_classes(
    info: Info, embed: Callable[[Batch], jax.Array], batches: Iterable[Batch]
) -> tuple[jax.Array, jax.Array]:
    """Averages the clips of each class of the stage.

    Args:
      info: of the stage; its classes and precision are read.
      embed: batch -> [b, d]; it is compiled here.
      batches: evaluation batches of the training clips.

    Returns:
      class means [C, d], zero for a class without clips; the standard deviation of a clip from
      the mean of its class [d], over all clips (the means take one degree of freedom each).
    """

    def sum_up(batch):
        x = embed(batch)
        one_hot = jax.nn.one_hot(batch.label, len(info.classes)).T * batch.weight[None]
        square = product("b,bd->d", batch.weight, jnp.square(x))
        return one_hot.sum(1), product("cb,bd->cd", one_hot, x), square

    compiled = compile_function(sum_up, info.config.device.precision)
    totals: list[Any] = [0.0, 0.0, 0.0]  # in float64: the variance is a difference of large sums
    for batch in batches:
        parts = fetch(compiled(batch))
        totals = [a + b.astype(np.float64) for a, b in zip(totals, parts, strict=True)]
    count, total, square = totals
    mean = total / np.maximum(count, 1)[:, None]
    inside = np.maximum(square - (count[:, None] * mean**2).sum(0), 0)
    deviation = np.sqrt(inside / max(count.sum() - (count > 0).sum(), 1))
    return jnp.asarray(mean, jnp.float32), jnp.asarray(deviation, jnp.float32)


def average_prototypes(info: Info, variables: Vars, batches: Iterable[Batch]) -> jax.Array:
    """Averages `average_clips` over each class, unit length each, both modalities concatenated
    (Table 6).

    Args:
      info: of the stage.
      variables: the scaling buffers are read.
      batches: evaluation batches of the training clips.

    Returns:
      [C, Da + Dv]; zero for a class without clips.
    """

    def embed(batch):
        parts = average_clips(batch, variables.buffers, info.config.model.video_norm)
        return jnp.concatenate(parts, axis=-1)

    mean, _ = average_classes(info, embed, batches)
    parts = jnp.split(mean, [len(info.audio_shift)], axis=-1)
    return jnp.concatenate([unit(part) for part in parts], axis=-1)
