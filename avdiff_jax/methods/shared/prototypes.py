"""Class prototypes: what a class looks like on average, in the space of the input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.methods.method import Info
from avdiff_jax.nn.layers import mean_over_time, product, unit
from avdiff_jax.nn.trunk import scaled
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.runtime.hosts import fetch


def clip_vector(batch, buffers, video_norm: str):
    """Per clip the mean over valid tokens of each scaled modality, made unit length.

    Returns:
      audio [b, Da], video [b, Dv].
    """
    x = scaled(batch, buffers, video_norm)
    return (
        unit(mean_over_time(x["audio"], batch.audio_mask)),
        unit(mean_over_time(x["video"], batch.video_mask)),
    )


def class_statistics(info: Info, vector: Callable, batches):
    """Averages of the clips of each class of the stage.

    Args:
      info: classes and precision.
      vector: batch -> [b, d]; compiled here.
      batches: evaluation batches of the training clips.

    Returns:
      class means [C, d], zero for a class without clips; the standard deviation of a clip from
      the mean of its class [d], over all clips (the means take one degree of freedom each).
    """

    def sums(batch):
        x = vector(batch)
        one_hot = jax.nn.one_hot(batch.label, len(info.classes)).T * batch.weight[None]
        square = product("b,bd->d", batch.weight, jnp.square(x))
        return one_hot.sum(1), product("cb,bd->cd", one_hot, x), square

    compiled = compile_function(sums, info.config.device.precision)
    totals = [0.0, 0.0, 0.0]  # in float64: the variance is a difference of large sums
    for batch in batches:
        parts = fetch(compiled(batch))
        totals = [a + b.astype(np.float64) for a, b in zip(totals, parts, strict=True)]
    count, total, square = totals
    mean = total / np.maximum(count, 1)[:, None]
    inside = np.maximum(square - (count[:, None] * mean**2).sum(0), 0)
    deviation = np.sqrt(inside / max(count.sum() - (count > 0).sum(), 1))
    return jnp.asarray(mean, jnp.float32), jnp.asarray(deviation, jnp.float32)


def prototypes(batches, buffers, info):
    """Unit-length class averages of `clip_vector`, both modalities concatenated (Table 6).

    Args:
      batches: evaluation batches of the training clips.

    Returns:
      [C, Da + Dv]; zero for a class without clips.
    """

    def vector(batch):
        return jnp.concatenate(clip_vector(batch, buffers, info.config.model.video_norm), axis=-1)

    mean, _ = class_statistics(info, vector, batches)
    parts = jnp.split(mean, [len(info.audio_shift)], axis=-1)
    return jnp.concatenate([unit(part) for part in parts], axis=-1)
