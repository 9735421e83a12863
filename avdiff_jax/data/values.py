"""How feature values lie: range, mean and deviation, and whether two lots of them are alike."""

import math
from typing import NamedTuple

import numpy as np

GROSS_OUTSIDE, NOTED_OUTSIDE = 0.2, 0.01  # share of values beyond the range of the others
GROSS_SHIFT, NOTED_SHIFT = 4.0, 2.0  # of the mean, in deviations
GROSS_SCALE, NOTED_SCALE = 8.0, 3.0  # of the deviation, as a factor


class Values(NamedTuple):
    """How the values of a modality lie, all its features taken together."""

    least: float
    most: float
    mean: float
    deviation: float

    def __str__(self):
        return (f"{self.least:.4g} to {self.most:.4g} (mean {self.mean:.4g}, deviation "
                f"{self.deviation:.4g})")


class Tally:
    """Counts values as they come, to say how they lie and how many leave the range of others.

    `usual` is how the others lie; None where that is not known.
    """

    def __init__(self, usual: Values | None = None):
        self.usual = usual
        self.count = self.outside = 0
        self._total = self._square = 0.0
        self._least, self._most = math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        """Takes values of any shape and number type."""
        if not values.size:
            return
        least, most = float(values.min()), float(values.max())
        self.count += values.size
        self._total += float(values.sum(dtype=np.float64))
        # Not by a product of BLAS, whose threads cost more than so few numbers.
        self._square += float(np.square(values, dtype=np.float64).sum())
        self._least, self._most = min(self._least, least), max(self._most, most)
        if self.usual and (least < self.usual.least or most > self.usual.most):
            self.outside += int(((values < self.usual.least) | (values > self.usual.most)).sum())

    def values(self) -> Values:
        """How those so far lie; zeros where there are none."""
        if not self.count:
            return Values(0.0, 0.0, 0.0, 0.0)
        mean = self._total / self.count
        variance = max(self._square / self.count - mean**2, 0.0)
        return Values(self._least, self._most, mean, math.sqrt(variance))

    def is_gross(self) -> bool:
        """Whether those so far are of another scale or kind than the usual ones."""
        return self._differs(GROSS_OUTSIDE, GROSS_SHIFT, GROSS_SCALE)

    def is_notable(self) -> bool:
        """Whether those so far are unlike the usual ones, if not grossly so."""
        return self._differs(NOTED_OUTSIDE, NOTED_SHIFT, NOTED_SCALE)

    def _differs(self, outside: float, shift: float, scale: float) -> bool:
        if not self.usual or not self.count:
            return False
        ours, usual = self.values(), self.usual
        if self.outside > outside * self.count:
            return True
        if usual.deviation == 0:
            return False
        # Constant values, of silence or of a black picture, are of no scale.
        ratio = ours.deviation / usual.deviation or 1.0
        return abs(ours.mean - usual.mean) > shift * usual.deviation or not (
            1 / scale <= ratio <= scale
        )
