"""Class text vectors: which vector is whose, by name and never by position."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath

MAX_NAMED = 20  # names in one message
NONE = "none"  # the source of text that is not there


class ClassText(NamedTuple):
    """Text vectors of classes and where they are from.

    vectors: [C, Dt] float32; Dt is 0 where the classes have no text.
    source: the name of a file, what identifies an encoder of names, or `NONE`.
    notes: remarks for a report.
    """

    vectors: np.ndarray
    source: str
    notes: tuple[str, ...] = ()


def lack_text(count: int, notes: tuple[str, ...] = ()) -> ClassText:
    """The text of so many classes that have none."""
    return ClassText(np.zeros((count, 0), np.float32), NONE, notes)


def unify(name: str) -> str:
    """The name with each letter and its accents as one sign, as most keyboards write it; some file
    systems keep them apart, and the two look the same."""
    return unicodedata.normalize("NFC", name)


def fold(name: str) -> str:
    """What names have in common that differ in case or in how accents are spelled alone."""
    return unify(unify(name).casefold())


class NameMatcher:
    """Finds a name in a list: exactly, or else but for how accents are spelled, or else without
    regard to case too, where that is unique."""

    def __init__(self, known: Iterable[str]):
        self._same: tuple[dict[str, list[str]], ...] = ({}, {}, {})
        for name in dict.fromkeys(known):
            for key, same in zip(self._keys(name), self._same, strict=True):
                same.setdefault(key, []).append(name)

    def _keys(self, name: str) -> tuple[str, str, str]:
        return name, unify(name), fold(name)

    def __call__(self, name: str):
        """The known spelling, or None."""
        for key, same in zip(self._keys(name), self._same, strict=True):
            if len(found := same.get(key, ())) == 1:
                return found[0]
        return None


def match_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The known spelling of each name: exactly, or else without regard to case, where no other name
    and no other known one is the same but for case. Names without any are left out."""
    find, others = NameMatcher(known), Counter(map(fold, set(names)))
    spelled = {}
    for name in names:
        known_as = find(name)
        if known_as == name or (known_as and others[fold(name)] == 1):
            spelled[name] = known_as
    return spelled


def near(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The names most like `name`, in whatever case."""
    folded = {fold(other): other for other in known}
    return [folded[close] for close in difflib.get_close_matches(fold(name), folded, count)]


def list_names(names: Mapping[str, Sequence[str]]) -> str:
    """Names with what they are close to, for messages: 'doge' (close to 'dog'), 'cow'."""
    shown = [
        repr(name) + (f" (close to {', '.join(map(repr, close))})" if close else "")
        for name, close in list(names.items())[:MAX_NAMED]
    ]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def respell(class_names: Sequence[str], manual: Mapping[str, str] | None) -> list[str]:
    """What to look each class up by: its entry in `manual`, or else its own name."""
    manual = manual or {}
    find = NameMatcher(manual)
    entries = [(name, find(name)) for name in class_names]
    return [name if entry is None else manual[entry] for name, entry in entries]


def match_text(
    class_names: Sequence[str],
    vectors: Mapping[str, np.ndarray],
    path: FilePath,
    manual: Mapping[str, str] | None = None,
) -> np.ndarray:
    """Rows [C, Dt] float32 for the classes, by name.

    Args:
      vectors: by name, as from `importers.text_vectors.read_text`.
      path: of `vectors`, for messages.
      manual: class name -> name in `vectors`, where the two are spelled apart.

    Raises:
      UserError: names every class without a vector, and what is close to it.
    """
    find = NameMatcher(vectors)
    wanted = respell(class_names, manual)
    keys = [find(name) for name in wanted]
    lacking = {
        class_name: near(name, vectors)
        for class_name, name, key in zip(class_names, wanted, keys, strict=True) if key is None
    }
    if lacking:
        raise UserError(f"{path} has no text vector for {len(lacking)} of {len(class_names)} "
                        f"classes: {list_names(lacking)}: add them or respell them with --text-map")
    return np.stack([vectors[key] for key in keys if key is not None])


def check_text(path: FilePath, class_names: Sequence[str], class_text: np.ndarray) -> None:
    """Raises UserError naming every class of `path` whose vector cannot be used. Vectors of no
    dimension say that there is no text."""
    if class_text.ndim == 2 and class_text.shape[1] == 0:
        return
    if class_text.ndim != 2:
        raise UserError(f"text vectors for {path} have shape {class_text.shape} instead of "
                        f"(classes, dimensions)")
    # a vector of zeros is how embedding files mark a word that they do not know
    usable = np.isfinite(class_text).all(1) & (class_text != 0).any(1)
    if not usable.all():
        names = {name: () for name, good in zip(class_names, usable, strict=True) if not good}
        raise UserError(f"{path} has no usable text vector (all zeros, NaN or infinite) for "
                        f"{len(names)} of {len(class_names)} classes: {list_names(names)}: "
                        f"give them in the text file")


def unit(vectors: np.ndarray) -> np.ndarray:
    """[C, Dt] float32 of length 1 each; none may be all zeros."""
    vectors = vectors.astype(np.float64)
    vectors /= np.abs(vectors).max(1, keepdims=True)  # so that no square underflows
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def find_twins(class_names: Sequence[str], class_text: np.ndarray) -> str | None:
    """A remark on two classes with the same vector, where there are such."""
    if not class_text.shape[1]:
        return None
    seen: dict[bytes, str] = {}
    for name, vector in zip(class_names, class_text + 0.0, strict=True):  # -0 is 0
        other = seen.setdefault(vector.tobytes(), name)
        if other is not name:
            return (f"the classes {other!r} and {name!r} have the same text vector, so text cannot "
                    f"tell them apart")
    return None
