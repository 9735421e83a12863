"""What base clips have beyond the mean of their class, lent to clips of other classes.

Base classes have many clips, so how a clip departs from its class is known from them; a few-shot
class has hardly any of it. Drawing features of novel classes from the statistics of base ones is
distribution calibration (Yang et al., ICLR 2021); here whole residuals are drawn, not a Gaussian.
"""

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.methods.method import Info
from avdiff_jax.methods.shared.gaussian_head import average_rows

KEPT = 1024  # residuals, so that what a model holds does not grow with the training set
SCALE = 2  # of a residual that is transferred
RESIDUALS = ("residuals", "class_means")  # the buffers


def init_residuals(classes: int, width: int) -> dict[str, jax.Array]:
    """Makes room for the `RESIDUALS`: [KEPT, width] and [C, width]."""
    return {"residuals": jnp.zeros((KEPT, width)), "class_means": jnp.zeros((classes, width))}


def collect_residuals(
    info: Info, features: np.ndarray, labels: np.ndarray
) -> dict[str, jax.Array]:
    """Computes both buffers from the features [n, width] and labels [n] of all training clips:
    class means, and `KEPT` residuals of base clips, some of them twice where there are fewer."""
    means = average_rows(features, labels, len(info.classes))
    residuals = (features - means[labels])[info.is_base[labels]]
    turns = -(-KEPT // len(residuals))
    rows = np.random.default_rng(0).permutation(len(residuals))
    kept = residuals[np.tile(rows, turns)[:KEPT]]
    return {
        name: jnp.asarray(x, jnp.float32) for name, x in zip(RESIDUALS, (kept, means), strict=True)
    }


def draw_residuals(buffers: dict[str, jax.Array], count: int, key: jax.Array) -> jax.Array:
    """Draws residuals [count, width] of base clips."""
    rows = jax.random.randint(key, (count,), 0, KEPT)
    return buffers["residuals"][rows]


def transfer(buffers: dict[str, jax.Array], labels: jax.Array, key: jax.Array) -> jax.Array:
    """Features [n, width] of the classes `labels` [n]: the mean of a class, moved by `SCALE` times
    the residual of a base clip."""
    return buffers["class_means"][labels] + SCALE * draw_residuals(buffers, len(labels), key)
