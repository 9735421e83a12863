"""Clips and stores told apart by what they hold, whatever they are called."""

import hashlib

import numpy as np

from avdiff_jax.data.store import Store

SAMPLED = 4096  # clips of a store whose values are looked at
HALF = float(np.finfo(np.float16).smallest_normal), float(np.finfo(np.float16).max)


def fingerprint(*modalities: np.ndarray | None) -> int:
    """A number of 64 bits for the values [T, D] of a clip; None and no token are the same.

    Values are compared as float16 holds them, so that a clip is the same in a store of uint8,
    float16 or float32.
    """
    digest = hashlib.blake2b(digest_size=8)
    for values in modalities:
        values = np.zeros((0, 0)) if values is None else np.atleast_2d(values)
        if not values.size:
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
    fits = largest == 0 or HALF[0] <= largest <= HALF[1]
    return values.astype(np.float16) if fits else values


def identify(store: Store) -> str:
    """What the data of a store are known by, wherever the file lies and whatever it is called.

    It changes with clip ids, classes, groups, rates, types, lengths and values. Of the values, the
    middle token of a clip is read, of `SAMPLED` clips at most, evenly taken.
    """
    digest = hashlib.sha256()

    def add(array: np.ndarray) -> None:
        digest.update(f"{array.shape} {array.dtype.str} ".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)

    for names in (store.clip_ids, np.array(store.class_names), store.groups):
        digest.update(b"none" if names is None else "\0".join(names).encode())
        digest.update(b"\n")
    add(store.labels)
    taken = np.unique(np.linspace(0, len(store) - 1, SAMPLED).astype(int))
    for part in (store.audio, store.video):
        digest.update(f"{part.seconds!r} {part.values.shape} {part.values.dtype.str}".encode())
        add(part.offsets)
        there = taken[part.lengths[taken] > 0]
        add(part.values[part.offsets[there] + part.lengths[there] // 2])
    return digest.hexdigest()[:16]
