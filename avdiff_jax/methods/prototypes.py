"""Class prototypes: what a class looks like on average, in the space of the input."""

from functools import partial

import jax
import jax.numpy as jnp

from avdiff_jax.nn.pooling import mean_over_time, unit
from avdiff_jax.nn.trunk import scaled


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


@partial(jax.jit, static_argnames=("video_norm", "classes"))
def _sums(batch, buffers, video_norm, classes):
    one_hot = jax.nn.one_hot(batch.label, classes).T * batch.weight[None]
    return [one_hot @ part for part in clip_vector(batch, buffers, video_norm)]


def prototypes(batches, buffers, info):
    """Unit-length class averages of `clip_vector`, both modalities concatenated (Table 6).

    Args:
      batches: evaluation batches of the training clips.

    Returns:
      [C, Da + Dv]; zero for a class without clips.
    """
    video_norm, classes = info.config.model.video_norm, len(info.classes)
    total = None
    for batch in batches:
        part = _sums(batch, buffers, video_norm, classes)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return jnp.concatenate([unit(part) for part in total], axis=-1)
