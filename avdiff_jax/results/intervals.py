"""What few numbers say about the mean of all that might have been drawn: Student's t."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


def half_interval(values: Sequence[float] | np.ndarray) -> float | None:
    """Half the width of the interval of the mean, at `LEVEL`; None for a single value."""
    n = len(values)
    if n < 2:
        return None
    return float(stdtrit(n - 1, (1 + LEVEL) / 2) * np.std(values, ddof=1) / np.sqrt(n))


def chance_above_zero(values: Sequence[float] | np.ndarray) -> float | None:
    """Chance, 0..1, that the mean lies above zero where nothing was known before: the share of the
    t-distribution around the mean of `values`; None for a single value."""
    n = len(values)
    if n < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(n))
    if error == 0:
        return 0.5 * (1 + np.sign(mean))
    return float(stdtr(n - 1, mean / error))
