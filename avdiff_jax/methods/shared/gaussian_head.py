"""The Gaussian head: discriminant analysis with a covariance that all classes share.

Every class is a Gaussian around the mean of its clips. The covariance is pooled from base classes,
which have many clips, and from few-shot classes, whose clips spread otherwise because nothing was
trained on them. What comes out, in closed form, is a Linear: weights and bias. The same rule is a
strong baseline on CLIP features (Wang et al., ICLR 2024, arXiv 2402.04087).

Everything is float64 NumPy on the host: there is little to compute, and a solution that is exact to
rounding does not depend on the order of clips and classes.
"""

import numpy as np

BASE_SHARE = 0.7  # of the covariance of base classes, scaled to the spread of the shots
SHRINKAGE = 0.1  # towards a multiple of the identity of the same trace


def average_rows(rows: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The mean [C, d] of the rows [n, d] of each class, zero for a class without any."""
    total = np.zeros((classes, rows.shape[1]))
    np.add.at(total, labels, rows)
    return total / np.maximum(np.bincount(labels, minlength=classes), 1)[:, None]


def pool_covariance(residual: np.ndarray, classes: int) -> np.ndarray:
    """The covariance [d, d] within classes, from clips less the mean of their class, [n, d]; each
    of the `classes` takes a degree of freedom. Zero where none is left."""
    return residual.T @ residual / max(len(residual) - classes, 1)


def share_covariance(base: np.ndarray, novel: np.ndarray) -> np.ndarray:
    """The covariance Q [d, d] that all classes share; it is positive definite.

    Q is 0.7 S_b tr S_n / tr S_b + 0.3 S_n, then 0.9 Q + 0.1 (tr Q / d) I, where S_b and S_n are
    those within base and within few-shot classes. Where one of the two is nothing, as with one shot
    a class, the other one stands alone; where both are, Q is the identity and the head the nearest
    class mean.
    """
    d, base_trace, novel_trace = len(base), np.trace(base), np.trace(novel)
    if base_trace > 0 and novel_trace > 0:
        q = BASE_SHARE * base * (novel_trace / base_trace) + (1 - BASE_SHARE) * novel
    else:
        q = base + novel
    if np.trace(q) <= 0:
        return np.eye(d)
    return (1 - SHRINKAGE) * q + SHRINKAGE * np.trace(q) / d * np.eye(d)


def solve_head(
    rows: np.ndarray, labels: np.ndarray, is_base: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits the head to clips.

    W = Q^-1 mu^T and b = -diag(mu Q^-1 mu^T) / 2 (see `share_covariance`). Dimensions in which all
    clips are zero are as good as absent. A class without clips has zero weights and bias: leave it
    out of comparisons.

    Args:
      rows: [n, d] one feature vector a clip.
      labels: [n] positions in `is_base`.
      is_base: [C] booleans.

    Returns:
      weights [d, C] and bias [C], float64: x @ weights + bias are log-likelihoods in nats, up to a
      number that all classes of a clip share.
    """
    used = (rows != 0).any(0)
    x = np.asarray(rows[:, used], np.float64)
    mean = average_rows(x, labels, len(is_base))
    residual = x - mean[labels]
    covariances = [
        pool_covariance(residual[mine], len(np.unique(labels[mine])))
        for mine in (is_base[labels], ~is_base[labels])
    ]
    weights = np.zeros((rows.shape[1], len(is_base)))
    weights[used] = np.linalg.solve(share_covariance(*covariances), mean.T)
    return weights, -0.5 * np.einsum("cd,dc->c", mean, weights[used])
