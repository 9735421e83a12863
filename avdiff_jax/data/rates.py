"""Seconds per token of two places: whether they agree, and tokens at another rate."""

import math

import numpy as np

from avdiff_jax.errors import UserError

Seconds = tuple[float | None, float | None]  # per token of audio and of video, as far as known
TOLERANCE = 1e-3  # relative; a hundredth of a second over a clip of ten


def agree(seconds: float | None, other: float) -> bool:
    """Whether tokens of so many seconds are of the same rate; those of nobody knows what are
    taken to be."""
    return seconds is None or math.isclose(seconds, other, rel_tol=TOLERANCE)


def check_seconds(seconds: Seconds, place: str) -> None:
    """Raises UserError where a duration of a token makes no sense."""
    for modality, given in zip(("audio", "video"), seconds, strict=True):
        if given is not None and not 0 < given < math.inf:
            raise UserError(f"{place} has {given} seconds per {modality} token, which must be "
                            "a positive number: change it")


def resample(values: np.ndarray, seconds: float, wanted: float) -> np.ndarray:
    """Tokens [T, D] of `seconds` each as tokens [ceil(T seconds / wanted), D] of `wanted` seconds.

    A new token is the mean of the old ones over its span of time, each by the part of the span
    that it covers; the last one may reach less far. Tokens that were repeated come out as they
    were.
    """
    if not len(values):
        return values
    count = max(1, math.ceil(len(values) * seconds / wanted - TOLERANCE))
    edges = np.minimum(np.arange(count + 1) * (wanted / seconds), len(values))  # in old tokens
    before = np.floor(edges).astype(int)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0, np.float64)])
    here = np.asarray(values[np.minimum(before, len(values) - 1)], np.float64)
    upto = sums[before] + (edges - before)[:, None] * here
    return (np.diff(upto, axis=0) / np.diff(edges)[:, None]).astype(np.float32)
