"""Control: nearest class mean on z-scored features pooled over eight time segments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.data.feed import Batch
from avdiff_jax.methods.method import Clips, Info, Method, Vars, scaling_buffers
from avdiff_jax.nn.layers import product, segment_means
from avdiff_jax.nn.trunk import modalities, scaled
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.runtime.hosts import fetch

READS = ("model.video_norm", "model.modality")  # of the configuration
SEGMENTS = 8
FAR = 1e3  # squared distance to a class that has no clips yet


def pool_segments(info: Info, buffers: dict[str, jax.Array], batch: Batch) -> jax.Array:
    """Concatenates the segment means of the scaled modalities: [b, 8 (Da + Dv)]."""
    x = scaled(batch, buffers, info.config.model.video_norm)
    valid = {"audio": batch.audio_mask, "video": batch.video_mask}
    parts = [segment_means(x[n], valid[n], SEGMENTS) for n in modalities(info.config)]
    return jnp.concatenate(parts, axis=-1)


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Makes room for class means and z-scores, which are buffers: nothing is trained."""
    buffers = scaling_buffers(info)
    width = pool_segments(info, buffers, batch).shape[-1]
    buffers["center"] = jnp.zeros(width)
    buffers["spread"] = jnp.ones(width)
    buffers["means"] = jnp.zeros((len(info.classes), width))
    buffers["known"] = jnp.zeros(len(info.classes))
    return Vars({}, {}, buffers)


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """z-scored pooled features [b, d], and the statistics."""
    buffers = variables.buffers
    pooled = pool_segments(info, buffers, batch)
    return (pooled - buffers["center"][None]) / buffers["spread"][None], variables.stats


def pool_clips(info: Info, variables: Vars, clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """Computes pooled features [n, d] and labels [n] of all training clips, on the host."""
    pool = compile_function(
        partial(pool_segments, info, variables.buffers), info.config.device.precision
    )
    rows, labels = [], []
    for batch in clips():
        pooled, weight, label = fetch((pool(batch), batch.weight, batch.label))
        rows.append(pooled[weight > 0])
        labels.append(label[weight > 0])
    return np.concatenate(rows), np.concatenate(labels)


def measure_spread(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [d] of rows [n, d]; constant dimensions get deviation 1."""
    spread = rows.std(0)
    return rows.mean(0), np.where(spread > 1e-6 * (1 + np.abs(rows).max(0)), spread, 1.0)


def refresh(info: Info, variables: Vars, clips: Clips) -> Vars:
    """Computes the class means of the substage's training clips."""
    rows, labels = pool_clips(info, variables, clips)
    center, spread = measure_spread(rows)
    one_hot = np.eye(len(info.classes), dtype=np.float32)[labels]
    count = one_hot.sum(0)
    means = one_hot.T @ ((rows - center) / spread) / np.maximum(count, 1)[:, None]
    new = {"center": center, "spread": spread, "means": means, "known": count > 0}
    new = {k: jnp.asarray(v, jnp.float32) for k, v in new.items()}
    return variables.replace(buffers={**variables.buffers, **new})


def scores(info: Info, variables: Vars, z: jax.Array) -> jax.Array:
    """Minus the root mean square distance of z [B, d] to each class mean, [B, C].

    It is a mean over dimensions, so that a step of 0.1 in gamma means the same for any feature
    width.
    """
    means, known = variables.buffers["means"], variables.buffers["known"]
    cross = product("bd,cd->bc", z, means)
    square = jnp.square(z).sum(-1)[:, None] - 2 * cross + jnp.square(means).sum(-1)[None]
    distance = jnp.maximum(square, 0) / z.shape[-1]
    return -jnp.sqrt(jnp.where(known[None] > 0, distance, FAR))


METHOD = Method(
    init=init, features=features, players=lambda info, substage: (), scores=scores,
    refresh=refresh, reads=READS,
)
