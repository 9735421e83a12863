"""Control: nearest class mean on z-scored features pooled over eight time segments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.methods.method import Info, Method, Vars, scaling_buffers
from avdiff_jax.nn.layers import product, segment_means
from avdiff_jax.nn.trunk import modalities, scaled
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.runtime.hosts import fetch

SEGMENTS = 8
FAR = 1e3  # squared distance to a class that has no clips yet


def pooled(info: Info, buffers, batch):
    """Segment means of the scaled modalities, concatenated: [b, 8 (Da + Dv)]."""
    x = scaled(batch, buffers, info.config.model.video_norm)
    valid = {"audio": batch.audio_mask, "video": batch.video_mask}
    parts = [segment_means(x[n], valid[n], SEGMENTS) for n in modalities(info.config)]
    return jnp.concatenate(parts, axis=-1)


def init(key: jax.Array, info: Info, batch) -> Vars:
    """Nothing is trained; class means and z-scores are buffers."""
    buffers = scaling_buffers(info)
    width = pooled(info, buffers, batch).shape[-1]
    buffers["center"] = jnp.zeros(width)
    buffers["spread"] = jnp.ones(width)
    buffers["means"] = jnp.zeros((len(info.classes), width))
    buffers["known"] = jnp.zeros(len(info.classes))
    return Vars({}, {}, buffers)


def features(info: Info, vars: Vars, batch, key, train: bool):
    """z-scored pooled features."""
    b = vars.buffers
    return (pooled(info, b, batch) - b["center"][None]) / b["spread"][None], vars.stats


def pooled_clips(info: Info, buffers, clips):
    """Pooled features [n, d] and labels [n] of all training clips, on the host."""
    pool = compile_function(partial(pooled, info, buffers), info.config.device.precision)
    rows, labels = [], []
    for batch in clips():
        found, weight, label = fetch((pool(batch), batch.weight, batch.label))
        rows.append(found[weight > 0])
        labels.append(label[weight > 0])
    return np.concatenate(rows), np.concatenate(labels)


def z_scores(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per dimension; constant dimensions get deviation 1."""
    spread = rows.std(0)
    return rows.mean(0), np.where(spread > 1e-6 * (1 + np.abs(rows).max(0)), spread, 1.0)


def refresh(info: Info, vars: Vars, clips) -> Vars:
    """Class means of the substage's training clips."""
    rows, labels = pooled_clips(info, vars.buffers, clips)
    center, spread = z_scores(rows)
    one_hot = np.eye(len(info.classes), dtype=np.float32)[labels]
    count = one_hot.sum(0)
    means = one_hot.T @ ((rows - center) / spread) / np.maximum(count, 1)[:, None]
    new = {"center": center, "spread": spread, "means": means, "known": count > 0}
    new = {k: jnp.asarray(v, jnp.float32) for k, v in new.items()}
    return vars.replace(buffers={**vars.buffers, **new})


def scores(info: Info, vars: Vars, z):
    """Minus the root mean square distance to each class mean, [B, C].

    Per dimension, so that a step of 0.1 in gamma means the same for any feature width.
    """
    means, known = vars.buffers["means"], vars.buffers["known"]
    cross = product("bd,cd->bc", z, means)
    square = jnp.square(z).sum(-1)[:, None] - 2 * cross + jnp.square(means).sum(-1)[None]
    distance = jnp.maximum(square, 0) / z.shape[-1]
    return -jnp.sqrt(jnp.where(known[None] > 0, distance, FAR))


METHOD = Method(
    init=init, features=features, players=lambda info, substage: (), scores=scores,
    refresh=refresh,
)
