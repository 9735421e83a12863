"""Clips told apart by what they hold, whatever they are called."""

import hashlib
from collections.abc import Iterable

import numpy as np

from avdiff_jax.data.store import Sequences, Store

HALF = np.finfo(np.float16)


def fingerprint(*modalities: np.ndarray | None) -> int:
    """A number of 64 bits for the values [T, D] of a clip; None and no token are the same.

    Values are compared as float16 holds them, so that a clip is the same in a store of uint8,
    float16 or float32.
    """
    digest = hashlib.blake2b(digest_size=8)
    for values in modalities:
        if values is None or not values.size:
            digest.update(b"none")
            continue
        digest.update(str(values.shape).encode())
        digest.update(np.ascontiguousarray(_as_kept(values)).data)
    return int.from_bytes(digest.digest(), "little")


def _as_kept(values: np.ndarray) -> np.ndarray:
    """Values as float16 where it can hold them, else as float32."""
    if values.dtype == np.uint8:
        return values.astype(np.float16)
    with np.errstate(over="ignore"):  # such values are refused where they are used
        values = values.astype(np.float32, copy=False)
    largest = max(float(values.max()), -float(values.min()))
    fits = largest == 0 or HALF.smallest_normal <= largest <= HALF.max
    return values.astype(np.float16) if fits else values


def fingerprint_clips(store: Store, clips: Iterable[int]) -> np.ndarray:
    """The fingerprints [n] uint64 of some clips of a store."""

    def part(sequences: Sequences, i: int):
        return sequences.values[sequences.offsets[i] : sequences.offsets[i + 1]]

    prints = (fingerprint(part(store.audio, i), part(store.video, i)) for i in clips)
    return np.fromiter(prints, np.uint64)
