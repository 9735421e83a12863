"""The raw branch: principal components of what a clip looks like before anything is learned.

A trunk that learns on few classes keeps what tells these apart and may lose what tells new ones
apart. The branch keeps the input's own main directions beside the fused token.
"""

from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.data.feed import Batch
from avdiff_jax.methods.method import Clips, Info
from avdiff_jax.methods.ncm import measure_spread, pool_segments
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.runtime.hosts import fetch

COMPONENTS = 96
FITTED = 2048  # clips at most that the components are found from; their memory is bounded so


def sample_rows(
    vector: Callable[[Batch], jax.Array],
    batches: Iterable[Batch],
    wanted: np.ndarray,
    limit: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [n, d] and labels [n] of at most `limit` clips, drawn without replacement.

    Args:
      vector: batch -> [b, d].
      batches: evaluation batches.
      wanted: [C] booleans, the classes whose clips count.
    """
    rng = np.random.default_rng(seed)
    rows, labels, order = [], [], []
    for batch in batches:
        found, weight, label = fetch((vector(batch), batch.weight, batch.label))
        kept = (weight > 0) & wanted[label]
        rows.append(found[kept])
        labels.append(label[kept])
        order.append(rng.random(kept.sum()))
        if sum(map(len, rows)) > limit:  # those that come first in a random order
            first = np.sort(np.argsort(np.concatenate(order))[:limit])
            rows, labels, order = ([np.concatenate(x)[first]] for x in (rows, labels, order))
    return np.concatenate(rows), np.concatenate(labels)


def principal_map(rows: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """The map of rows [n, p] to their scaled principal components.

    Component j of the z-scored rows has the deviation s_j. It is divided by sqrt(s_j s_1), which
    whitens halfway, and the whole by the mean of the deviations that are left, so that the
    components are as large as z-scored features are.

    Returns:
      center [p] and matrix [p, components], for (x - center) @ matrix. Columns beyond the rank of
      the rows are zero.
    """
    center, spread = measure_spread(rows)
    _, s, directions = np.linalg.svd((rows - center) / spread, full_matrices=False)
    s = s[:components] / np.sqrt(len(rows))
    rank = int((s > 1e-5 * s[0]).sum()) if s[0] > 0 else 0
    deviation = np.sqrt(s[:rank] / s[0])  # of the components, once they are divided
    factor = deviation / s[:rank] / (deviation.mean() if rank else 1)
    matrix = np.zeros((rows.shape[1], components))
    matrix[:, :rank] = directions[:rank].T * factor / spread[:, None]
    return center, matrix


def init_raw(info: Info, buffers: dict, batch: Batch) -> dict:
    """The branch's buffers for batches like `batch`, which map everything to zero.

    Args:
      buffers: those that scale the input.
    """
    width = pool_segments(info, buffers, batch).shape[-1]
    return {"raw_center": jnp.zeros(width), "raw_matrix": jnp.zeros((width, COMPONENTS))}


def fit_raw(info: Info, buffers: dict, clips: Clips) -> dict:
    """The buffers that base clips ask for.

    Args:
      clips: iterates over training clips as evaluation batches; those of base classes count.
    """
    pool = compile_function(partial(pool_segments, info, buffers), info.config.device.precision)
    rows, _ = sample_rows(pool, clips(), info.is_base, FITTED, info.config.seed)
    center, matrix = principal_map(rows.astype(np.float64), COMPONENTS)
    return {
        "raw_center": jnp.asarray(center, jnp.float32),
        "raw_matrix": jnp.asarray(matrix, jnp.float32),
    }


def raw_features(info: Info, buffers: dict, batch: Batch) -> jax.Array:
    """Scaled principal components [b, 96] of the segment means of a clip's scaled features."""
    centered = pool_segments(info, buffers, batch) - buffers["raw_center"][None]
    return centered @ buffers["raw_matrix"]
