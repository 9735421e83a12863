"""The sets of a split: what they are called, which classes they hold, clips by class.

    train1_base, train1_novel, val_base, val_novel    stage 1; train1_novel holds k clips a class
    train2_novel[d], test_base, test_novel[d]         stage 2; d = 0, 1, 2 are the draws of k shots

The base training set of stage 2 is the union of the four sets of stage 1 and is not written out.
Source: Section 3.2, Table 1.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

DRAWS = 3
KINDS: tuple[str, ...] = ("base1", "novel1", "novel2")
STAGE_1 = ("train1_base", "train1_novel", "val_base", "val_novel")
SINGLE = (*STAGE_1, "test_base")
DRAWN = ("train2_novel", "test_novel")
# Which classes a set holds clips of.
HOLDS = {
    "train1_base": ("base1",),
    "train1_novel": ("novel1",),
    "val_base": ("base1",),
    "val_novel": ("novel1",),
    "train2_novel": ("novel2",),
    "test_base": ("base1", "novel1"),
    "test_novel": ("novel2",),
}
SHOTS = ("train1_novel", "train2_novel")

Clips = dict[str, list[str]]  # class name -> clip ids


class Labelled(Protocol):
    """What a store and a source of clips say of their clips beside features."""

    @property
    def name(self) -> str: ...

    @property
    def clip_ids(self) -> np.ndarray: ...  # [n] str

    @property
    def labels(self) -> np.ndarray: ...  # [n] int32, index into class_names

    @property
    def class_names(self) -> tuple[str, ...]: ...


class Part(NamedTuple):
    """One set, or one draw of a set that is drawn several times."""

    label: str  # as in messages: "test_novel[0]"
    key: str
    draw: int | None
    clips: Clips


def parts(sets: Mapping) -> list[Part]:
    """All sets and draws of a split."""
    drawn = [
        Part(f"{key}[{d}]", key, d, clips) for key in DRAWN for d, clips in enumerate(sets[key])
    ]
    return [Part(key, key, None, sets[key]) for key in SINGLE] + drawn


def sort_clips(clips: Mapping[str, Iterable[str]]) -> Clips:
    """Sorted, without classes that have no clip."""
    return {str(name): ids for name in sorted(clips) if (ids := sorted(map(str, clips[name])))}


def count(clips: Clips) -> int:
    """How many clips."""
    return sum(map(len, clips.values()))


def repeated(items: Iterable[str]) -> str | None:
    """An item that occurs more than once, or None."""
    return next((item for item, times in Counter(items).items() if times > 1), None)


def examples(items: Iterable[str]) -> str:
    """The first three of them, for messages."""
    items = sorted(items)
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
