"""How good are scores: class accuracy, calibrated stacking, HM, FSL and AUSUC.

Arrays in, numbers out, in NumPy float64. Every accuracy is in percent. B is the accuracy on clips
of base classes, N on clips of novel classes (both against all classes), FSL on clips of novel
classes against novel classes only; each is a mean over classes, so that a class counts the same
however many clips it has. Where classes tie, the lowest index wins.

Source: Section 4.1 of the paper; calibrated stacking, the B-N curve and the area under it are
those of Chao et al. 2016 ("An empirical study and analysis of generalized zero-shot learning").
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# The calibration values that the published code tries.
GRID = tuple(step / 10 for step in range(11))


Number = float | int | np.number
BLOCK = 1 << 22  # scores that are looked at as float64 at a time


class Point(NamedTuple):
    """The four numbers of the paper's tables at one calibration value; percent."""

    gamma: float
    B: float
    N: float
    HM: float
    FSL: float


class Leaders(NamedTuple):
    """The best base class and the best novel class of each clip, [n], with their scores: all that
    predictions at any gamma depend on."""

    base: np.ndarray
    base_score: np.ndarray
    novel: np.ndarray
    novel_score: np.ndarray

    def predict(self, gamma: Number) -> np.ndarray:
        """Class indices [n] at a calibration value: the largest of `calibrated`."""
        base_score = self.base_score - gamma
        tied_first = (base_score == self.novel_score) & (self.base < self.novel)
        return np.where((base_score > self.novel_score) | tied_first, self.base, self.novel)


class Curve(NamedTuple):
    """B and N as step functions of gamma, one entry for each stretch on which both are constant.

    `gamma` lies inside its stretch: halfway between two breakpoints, and beyond the outermost
    breakpoints at either end. It increases, B (percent) never rises from its largest value to 0,
    N (percent) never falls from 0 to its largest value, which is FSL.
    """

    gamma: np.ndarray
    B: np.ndarray
    N: np.ndarray


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Percent of the clips of each class that are predicted right.

    Args:
      predicted: [n] class indices.
      labels: [n] class indices, 0..n_classes - 1.
      n_classes: C.

    Returns:
      [C] float64; NaN for a class without a clip, about which nothing can be said.

    Raises:
      ValueError: the two differ in shape, or a label is out of range.
    """
    predicted, labels = np.asarray(predicted), _class_indices(labels, n_classes)
    if predicted.shape != labels.shape:
        raise ValueError(f"predicted has shape {predicted.shape} but labels {labels.shape}")
    clips = np.bincount(labels, minlength=n_classes)
    right = np.bincount(labels[predicted == labels], minlength=n_classes)
    return np.divide(100.0 * right, clips, out=np.full(n_classes, np.nan), where=clips > 0)


def mean_class_accuracy(
    predicted: np.ndarray, labels: np.ndarray, n_classes: int, classes: np.ndarray | None = None
) -> float:
    """Mean of `per_class_accuracy` over the classes that have clips; percent, never NaN.

    The published code averages over every class and so returns NaN when one has no clip. Splits
    made here cannot have such a class (`data.splits.audit`); in other data it is left out.

    Args:
      predicted, labels, n_classes: as for `per_class_accuracy`.
      classes: [C] bool, the classes to average over; default all.

    Raises:
      ValueError: none of the classes has a clip.
    """
    accuracy = per_class_accuracy(predicted, labels, n_classes)
    accuracy = accuracy if classes is None else accuracy[np.asarray(classes, bool)]
    present = accuracy[~np.isnan(accuracy)]
    if not present.size:
        raise ValueError(f"none of {accuracy.size} classes has a clip to score")
    return float(present.mean())


def harmonic_mean(b: Number | np.ndarray, n: Number | np.ndarray) -> float | np.ndarray:
    """HM = 2 b n / (b + n) of numbers >= 0, element by element; 0 where both are 0."""
    b, n = np.broadcast_arrays(np.asarray(b, np.float64), np.asarray(n, np.float64))
    total = b + n
    return np.divide(2 * b * n, total, out=np.zeros_like(total), where=total > 0)[()]


def calibrated(scores: np.ndarray, is_base: np.ndarray, gamma: Number) -> np.ndarray:
    """Calibrated stacking: `scores - gamma * is_base`, [n, C] float64; gamma in units of score."""
    return np.asarray(scores, np.float64) - gamma * np.asarray(is_base, np.float64)


def blocks(scores: np.ndarray) -> list[np.ndarray]:
    """The rows of `scores` [n, C] in parts of about `BLOCK` numbers, in order."""
    return np.array_split(scores, max(1, -(-scores.size // BLOCK)))


def find_leaders(scores: np.ndarray, is_base: np.ndarray) -> Leaders:
    """Finds the best class of each kind for each clip; where classes tie, the lowest index."""
    columns = np.flatnonzero(is_base), np.flatnonzero(~np.asarray(is_base))
    found: list[list[np.ndarray]] = [[], [], [], []]
    for part in blocks(scores):
        rows = np.arange(len(part))
        for kind, of_kind in enumerate(columns):
            best = of_kind[part[:, of_kind].argmax(1)]
            found[2 * kind].append(best)
            found[2 * kind + 1].append(part[rows, best].astype(np.float64))
    return Leaders(*map(np.concatenate, found))


def evaluate(scores: np.ndarray, labels: np.ndarray, is_base: np.ndarray, gamma: Number) -> Point:
    """B, N, HM and FSL at one calibration value.

    Args:
      scores: [n, C], larger is better; for gamma in 0..1 to mean anything, softmax probabilities.
      labels: [n] class indices of clips of base and novel classes.
      is_base: [C] bool.
      gamma: how much the scores of base classes are lowered.

    Raises:
      ValueError: scores that are not finite, shapes that disagree, a label out of range, no clip
        or no class of one kind, a gamma that is not finite.
    """
    return sweep(scores, labels, is_base, (gamma,))[0]


def sweep(
    scores: np.ndarray, labels: np.ndarray, is_base: np.ndarray, grid: Iterable[Number] = GRID
) -> list[Point]:
    """`evaluate` at every value of `grid`, in its order. FSL does not depend on gamma."""
    scores, labels, is_base = check_scores(scores, labels, is_base)
    n_classes, leaders, novel_clips = is_base.size, find_leaders(scores, is_base), ~is_base[labels]
    among_novel = leaders.novel[novel_clips]
    fsl = mean_class_accuracy(among_novel, labels[novel_clips], n_classes, ~is_base)
    points = []
    for gamma in map(float, grid):
        if not np.isfinite(gamma):
            raise ValueError(f"gamma must be finite, got {gamma}")
        predicted = leaders.predict(gamma)
        b = mean_class_accuracy(predicted, labels, n_classes, is_base)
        n = mean_class_accuracy(predicted, labels, n_classes, ~is_base)
        points.append(Point(gamma, b, n, float(harmonic_mean(b, n)), fsl))
    return points


def evaluate_kind(
    scores: np.ndarray, labels: np.ndarray, is_base: np.ndarray, gamma: Number
) -> Point:
    """`evaluate` of clips that are all of base classes or all of novel ones: what needs clips of
    the other kind is NaN.

    Raises:
      ValueError: as `evaluate`, or there are clips of both kinds.
    """
    kinds = np.asarray(is_base)[labels]
    if kinds.size and kinds.min() != kinds.max():
        raise ValueError("there are clips of base and of novel classes: see evaluate")
    scores, labels, is_base = check_scores(scores, labels, is_base, kinds=1)
    leaders, nan = find_leaders(scores, is_base), float("nan")
    right = mean_class_accuracy(leaders.predict(gamma), labels, is_base.size)
    if kinds[0]:
        return Point(float(gamma), right, nan, nan, nan)
    fsl = mean_class_accuracy(leaders.novel, labels, is_base.size)
    return Point(float(gamma), nan, right, nan, fsl)


def best(points: Sequence[Point]) -> Point:
    """The point with the highest HM; of equals, the one whose gamma is nearest 0.

    So no calibration (0) wins where calibration gains nothing, and of a grid >= 0 the smallest
    value. For use on validation clips only.

    Raises:
      ValueError: there are no points.
    """
    if not points:
        raise ValueError("no points to choose a calibration value from")
    return min(points, key=lambda point: (-point.HM, abs(point.gamma), point.gamma))


def curve(scores: np.ndarray, labels: np.ndarray, is_base: np.ndarray) -> Curve:
    """The exact B-N curve over all real gamma, in O(n C + n log n).

    A clip is given its best base class while gamma is below its margin (best base score - best
    novel score) and its best novel class above. So B and N change only at the margins of clips
    that are right on the side they belong to: these are the breakpoints.

    Args and raises: as `evaluate`.
    """
    scores, labels, is_base = check_scores(scores, labels, is_base)
    leaders = find_leaders(scores, is_base)
    margin = leaders.base_score - leaders.novel_score
    # Only clips of base classes can equal a base class, so these two do not meet.
    lose, gain = leaders.base == labels, leaders.novel == labels

    # What one clip adds to its mean class accuracy when it is right.
    clips = np.bincount(labels, minlength=is_base.size)
    present = np.where(is_base, (clips[is_base] > 0).sum(), (clips[~is_base] > 0).sum())
    weight = 100.0 / (clips * present)[labels]

    moves = lose | gain
    edges, at = np.unique(margin[moves], return_inverse=True)
    lost = np.bincount(at, (weight * lose)[moves], minlength=edges.size)
    gained = np.bincount(at, (weight * gain)[moves], minlength=edges.size)
    # Rounded so that neither the order of clips nor the last bit of a sum decides between equals.
    b = np.round(lost.sum() - np.concatenate([[0.0], np.cumsum(lost)]), 10)
    n = np.round(np.concatenate([[0.0], np.cumsum(gained)]), 10)
    return Curve(_between(edges), np.maximum(b, 0.0), n)


def ausuc(scores: np.ndarray, labels: np.ndarray, is_base: np.ndarray) -> float:
    """Area under the B-N curve, B over N, in percent: 100 means that some gamma errs nowhere.

    Trapezoids between consecutive entries of `curve`. Where B and N change at different
    breakpoints this is the area of the staircase itself; where base and novel clips share a
    breakpoint, no gamma parts them and the diagonal stands for a coin toss between them.
    At most FSL * (B without novel classes) / 100.
    """
    _, b, n = curve(scores, labels, is_base)
    return float(np.sum(np.diff(n) * (b[1:] + b[:-1]) / 2) / 100.0)


def exact_gamma(scores: np.ndarray, labels: np.ndarray, is_base: np.ndarray) -> float:
    """The gamma of `curve` with the highest HM, ties as in `best`: `calibration=exact`.

    It is the middle of the stretch of equally good values, and may be negative. For use on
    validation clips only.
    """
    gamma, b, n = curve(scores, labels, is_base)
    hm = np.round(harmonic_mean(b, n), 10)
    tied = gamma[hm == hm.max()]
    return float(tied[np.lexsort((tied, np.abs(tied)))[0]])


class ClassRow(NamedTuple):
    """How one class fares: its clips, percent right, the class it is taken for most often when it
    is not (-1 where it never is), and how often."""

    clips: int
    accuracy: float
    taken_for: int
    times: int


def class_table(confusion: np.ndarray) -> list[ClassRow]:
    """A row for each class of a confusion matrix [C, C] of counts, true class by row; the accuracy
    of a class without clips is NaN."""
    rows = []
    for label, counts in enumerate(np.asarray(confusion, int)):
        clips, wrong = int(counts.sum()), np.where(np.arange(len(counts)) == label, 0, counts)
        accuracy = 100.0 * counts[label] / clips if clips else float("nan")
        times = int(wrong.max())
        rows.append(ClassRow(clips, float(accuracy), int(wrong.argmax()) if times else -1, times))
    return rows


def aggregate(points: Sequence[Point], areas: Sequence[Number]) -> dict:
    """Several draws of the few shots as one row.

    Args:
      points: one for each draw.
      areas: AUSUC of each draw, percent.

    Returns:
      `mean`: B, N, FSL and AUSUC averaged over draws, HM of the averaged B and N, which is the
      paper's aggregate and at least as large as `mean_of_hm`, the average of the draws' own HM.
      `std`: sample standard deviation over draws (ddof 1) of B, N, HM, FSL, AUSUC; 0 for one draw.
      What is NaN in a draw, since no clip is of the kind that it needs, is left out.

    Raises:
      ValueError: no draw, or as many points as areas are not given.
    """
    if not points or len(points) != len(areas):
        raise ValueError(f"got {len(points)} points and {len(areas)} areas; give one each a draw")
    draws = {name: [getattr(point, name) for point in points] for name in ("B", "N", "HM", "FSL")}
    draws["AUSUC"] = list(areas)
    draws = {name: values for name, values in draws.items() if not np.isnan(values).any()}
    mean = {name: float(np.mean(values)) for name, values in draws.items()}
    one = len(points) == 1
    std = {name: 0.0 if one else float(np.std(values, ddof=1)) for name, values in draws.items()}
    if "HM" not in mean:
        return {"mean": mean, "std": std}
    mean_of_hm, mean["HM"] = mean["HM"], float(harmonic_mean(mean["B"], mean["N"]))
    return {"mean": mean, "mean_of_hm": mean_of_hm, "std": std}


def _between(edges: np.ndarray) -> np.ndarray:
    """One gamma in each stretch that the increasing `edges` [K] cut the line into: [K + 1]."""
    if not edges.size:
        return np.zeros(1)
    first = edges[0] - max(1.0, abs(edges[0]))
    last = edges[-1] + max(1.0, abs(edges[-1]))
    return np.concatenate([[first], edges[:-1] + np.diff(edges) / 2, [last]])


def _class_indices(labels: np.ndarray, n_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise ValueError(f"labels must be [n] integers, got {labels.dtype} {labels.shape}")
    if labels.size and not (0 <= labels.min() and labels.max() < n_classes):
        raise ValueError(
            f"labels lie in {labels.min()}..{labels.max()} but there are {n_classes} classes"
        )
    return labels.astype(np.int64)


def check_scores(
    scores, labels, is_base, kinds: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scores, int64 labels and bool, after the checks that `evaluate` documents; clips of so
    many `kinds` are needed."""
    scores, is_base = np.asarray(scores), np.asarray(is_base)
    if is_base.dtype != bool or is_base.ndim != 1:
        raise ValueError(f"is_base must be [C] bool, got {is_base.dtype} {is_base.shape}")
    labels = _class_indices(labels, is_base.size)
    if scores.shape != (labels.size, is_base.size):
        raise ValueError(
            f"scores have shape {scores.shape} but {labels.size} labels and {is_base.size} "
            "classes ask for [labels, classes]"
        )
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"scores[{row}, {column}] is {scores[row, column]}, not a finite number")
    clips = is_base[labels]
    missing = [kind for kind, of_kind in (("base", clips), ("novel", ~clips)) if not of_kind.any()]
    if len(missing) > 2 - kinds:
        raise ValueError(f"no clip of a {missing[0]} class among {labels.size} clips to score")
    return scores, labels, is_base
