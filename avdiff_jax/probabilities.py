"""From scores to probabilities of classes, and how far these can be trusted.

Arrays in, numbers out, in NumPy float64.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, softmax

from avdiff_jax.metrics import Number, blocks, calibrated, check_scores

LOWEST, HIGHEST = 1e-3, 1e3  # temperatures


def compute_probabilities(
    scores: np.ndarray, is_base: np.ndarray, gamma: Number, temperature: Number | None
) -> np.ndarray:
    """Class probabilities whose order is that of the calibrated scores.

    softmax((scores - gamma * is_base) / temperature), for scores of any kind, with the temperature
    of `fit_temperature`. Without one, which asks for scores that are probabilities: what
    remains of them after gamma, cut at 0, over its sum.

    Returns:
      [n, C] float64; rows sum to 1.
    """
    shifted = calibrated(scores, is_base, gamma)
    if temperature is not None:
        return softmax(shifted / temperature, axis=1)
    rest = np.maximum(shifted, np.finfo(np.float32).tiny)
    return rest / rest.sum(1, keepdims=True)


def fit_temperature(
    scores: np.ndarray, labels: np.ndarray, is_base: np.ndarray, gamma: Number
) -> float:
    """The temperature of `compute_probabilities` under which the labels are the likeliest, a class
    counting the same however many clips it has. For use on validation clips only.

    But of n clips, of which the share a is right, the best class has a probability of
    (n a + 1) / (n + 2) at most, on average (Laplace's rule of succession): scores that do not err
    on ten clips may still err on the next.

    Args and raises: as `metrics.evaluate`.
    """
    scores, labels, is_base = check_scores(scores, labels, is_base)
    weight = 1 / np.bincount(labels, minlength=is_base.size)[labels]
    weight /= weight.sum()
    count, bounds = len(labels), np.log([LOWEST, HIGHEST])

    def judge(log_temperature: float) -> tuple[float, float]:
        """Minus the mean log-likelihood, and how much more probable the best class is than it may
        be, in the mean over classes."""
        loss = right = claimed = 0.0
        first = 0
        for part in blocks(scores):
            rows = slice(first, first + len(part))
            shifted = calibrated(part, is_base, gamma) / np.exp(log_temperature)
            log_p = log_softmax(shifted, axis=1)
            loss -= weight[rows] @ log_p[np.arange(len(part)), labels[rows]]
            right += weight[rows] @ (log_p.argmax(1) == labels[rows])
            claimed += weight[rows] @ np.exp(log_p.max(1))
            first = rows.stop
        return float(loss), float(claimed - (count * right + 1) / (count + 2))

    likeliest: Any = minimize_scalar(lambda t: judge(t)[0], bounds=bounds, method="bounded")
    if judge(likeliest.x)[1] <= 0:
        return float(np.exp(likeliest.x))
    if judge(bounds[1])[1] >= 0:
        return HIGHEST
    root: Any = brentq(lambda t: judge(t)[1], likeliest.x, bounds[1])
    return float(np.exp(root))


class Reliability(NamedTuple):
    """How often the best class is right, by how probable it was said to be.

    One entry for each tenth of probability that has clips: mean probability, accuracy (both
    percent) and clips. `error` is the expected calibration error: |accuracy - probability|
    averaged over clips, percent.
    """

    probability: np.ndarray
    accuracy: np.ndarray
    clips: np.ndarray
    error: float


def measure_reliability(best: np.ndarray, right: np.ndarray) -> Reliability:
    """Of the probabilities [n] of the best class of each clip, and whether that class is right."""
    tenth = np.minimum((10 * best).astype(int), 9)
    clips = np.bincount(tenth, minlength=10)
    used = clips > 0
    probability = 100 * np.bincount(tenth, best, 10)[used] / clips[used]
    accuracy = 100 * np.bincount(tenth, right, 10)[used] / clips[used]
    error = float(clips[used] @ np.abs(accuracy - probability) / clips.sum())
    return Reliability(probability, accuracy, clips[used], error)
