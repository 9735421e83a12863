"""What the pictures of a run show, each drawn on given axes: classes in two blocks, base and novel,
and the numbers that a reader looks for in the title."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from avdiff_jax import metrics
from avdiff_jax.probabilities import Reliability

BASE, NOVEL = "tab:blue", "tab:orange"
SMALL = {"fontsize": 7}
# A class name may hold a dollar sign, which would start a formula.
NAME = {**SMALL, "parse_math": False}
LONGEST = 26  # characters of a name that are shown
MANY = 400  # classes that have a bar each
MOST_NAMES = 70  # at an axis
MOST_COLOURS = 80  # classes whose features are shown


class Classes(NamedTuple):
    """Names [C] of the classes and which of them are base."""

    names: Sequence[str]
    is_base: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Class numbers, base ones first, by name within a block."""
        return np.lexsort((np.array(self.names, str), ~np.asarray(self.is_base)))

    @property
    def base(self) -> int:
        """How many are base."""
        return int(np.sum(self.is_base))

    @property
    def novel(self) -> int:
        """How many are novel."""
        return len(self.names) - self.base

    def colours(self, order: np.ndarray) -> list[str]:
        """The colour of each class of `order`."""
        return [BASE if self.is_base[i] else NOVEL for i in order]


def _name(names: Sequence[str], labels: Iterable[int]) -> list[str]:
    """The names of classes by their numbers, for a picture."""
    return _shorten(names[label] for label in labels)


def _shorten(names: Iterable[str]) -> list[str]:
    """Of long names the start and the end."""
    end = LONGEST // 2 - 3
    return [
        name if len(name) <= LONGEST else f"{name[: LONGEST - end - 1]}…{name[-end:]}"
        for name in names
    ]


class DrawCurve(NamedTuple):
    """The B-N curve of a draw, what it is called, the point that was chosen, and the area."""

    label: str
    curve: metrics.Curve
    chosen: metrics.Point
    ausuc: float


def draw_confusion(axes: Any, confusion: np.ndarray, classes: Classes, most_names: int) -> None:
    """Which class is taken for which: [C, C] counts, true class by row. Where there are more than
    `most_names` classes, every second, third ... is named."""
    order = classes.order
    counts = np.asarray(confusion, np.float32)[np.ix_(order, order)]
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    mesh = axes.imshow(share, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    axes.figure.colorbar(mesh, ax=axes, label="% of the true class", shrink=0.8)
    for line in (axes.axhline, axes.axvline):
        line(classes.base - 0.5, color=NOVEL, linewidth=1)
    blocks = (("base", 0, classes.base), ("novel", classes.base, classes.novel))
    for kind, start, size in blocks:
        axes.text(start + size / 2 - 0.5, 1.01, f"{kind} ({size})", ha="center", va="bottom",
                  transform=axes.get_xaxis_transform(), **SMALL)
    every = -(-len(order) // most_names)
    ticks = np.arange(0, len(order), every)
    names = _name(classes.names, order[ticks])
    axes.set_xticks(ticks, names, rotation=90, **NAME)
    axes.set_yticks(ticks, names, **NAME)
    note = "" if every == 1 else f"; one name for {every} classes"
    axes.set(xlabel=f"predicted{note}", ylabel="true")
    right = 100 * np.trace(counts) / max(counts.sum(), 1)
    _title(axes, f"Predictions: {right:.1f} % of clips right", pad=16)


def draw_predictions(
    axes: Any, probabilities: np.ndarray, clip_ids: Sequence[str], classes: Classes
) -> None:
    """How probable each class is for each clip: [n, C] in 0..1, a row a clip."""
    order = classes.order
    mesh = axes.imshow(100 * np.asarray(probabilities)[:, order], vmin=0, vmax=100, cmap="Blues",
                       interpolation="nearest", aspect="auto")
    axes.figure.colorbar(mesh, ax=axes, label="probability (%)", shrink=0.8)
    axes.axvline(classes.base - 0.5, color=NOVEL, linewidth=1)
    ticks = np.arange(0, len(order), -(-len(order) // MOST_NAMES))
    axes.set_xticks(ticks, _name(classes.names, order[ticks]), rotation=90, **NAME)
    axes.set_yticks(range(len(clip_ids)), _shorten(clip_ids), **NAME)
    _title(axes, f"{len(clip_ids)} clips: base classes, then those known from few clips")


def draw_curve(axes: Any, draws: Sequence[DrawCurve], classes: Classes) -> None:
    """B against N over all calibration values, with the points that were chosen, lines of equal HM,
    and what guessing reaches."""
    chance = 100 / classes.base, 100 / classes.novel
    star = {"marker": "*", "markersize": 12, "markeredgecolor": "black", "linestyle": ""}
    _draw_equal_hm(axes)
    for number, draw in enumerate(draws):
        colour, point = f"C{number}", draw.chosen
        axes.plot(draw.curve.B, draw.curve.N, color=colour, linewidth=1.5,
                  label=f"{draw.label}: HM {point.HM:.1f} at gamma {point.gamma:.3g}")
        axes.plot(point.B, point.N, color=colour, **star)
    axes.plot([], [], color="white", **star, label="that gamma, chosen on Val")
    area = chance[0] * chance[1] / 200
    axes.plot([chance[0], 0], [0, chance[1]], color="gray", linestyle=":",
              label=f"guessing: AUSUC {area:.2g}")
    axes.set(xlabel="B: accuracy on base classes (%)", ylabel="N: accuracy on novel classes (%)",
             xlim=(0, 102), ylim=(0, 102))
    axes.legend(loc="lower left", bbox_to_anchor=(0.03, 0.03), **SMALL)
    areas = [draw.ausuc for draw in draws]
    spread = f" ± {np.std(areas, ddof=1):.1f}" if len(areas) > 1 else ""
    _title(axes, f"B against N over all gamma: AUSUC {np.mean(areas):.1f}{spread}")


def _draw_equal_hm(axes: Any) -> None:
    """Thin lines on which HM is 20, 40, 60, 80."""
    for hm in (20, 40, 60, 80):
        b = np.linspace(hm / 2 + 0.01, 100, 200)
        n = hm * b / (2 * b - hm)
        inside = n <= 100
        axes.plot(b[inside], n[inside], color="lightgray", linewidth=0.8, zorder=0)
        axes.annotate(f"HM {hm}", (hm, hm), color="gray", ha="center", va="center", fontsize=6,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5}, zorder=0)


def draw_reliability(
    axes: Any, reliabilities: Sequence[tuple[str, Reliability]]
) -> None:
    """How often the best class is right against how probable it was said to be, for each draw."""
    axes.plot([0, 100], [0, 100], color="gray", linestyle="--", linewidth=1,
              label="as it should be")
    for number, (label, found) in enumerate(reliabilities):
        colour = f"C{number}"
        axes.plot(found.probability, found.accuracy, color=colour, linewidth=1, label=label)
        sizes = 8 + 80 * found.clips / found.clips.max()  # a dot is as large as it is sure
        axes.scatter(found.probability, found.accuracy, sizes, color=colour, zorder=3)
        if len(reliabilities) > 1:
            continue
        for x, y, count in zip(found.probability, found.accuracy, found.clips, strict=True):
            axes.annotate(f"{count}", (x, y), xytext=(-4, 6), textcoords="offset points",
                          ha="right", **SMALL)
    axes.set(xlabel="probability of the best class (%)", ylabel="how often it is right (%)",
             xlim=(0, 102), ylim=(0, 106))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", **SMALL)
    error = np.mean([found.error for _, found in reliabilities])
    _title(axes, f"Can probabilities be believed? Off by {error:.1f} % on average")


def draw_accuracies(
    axes: Any, ours: np.ndarray, control: np.ndarray | None, name: str, classes: Classes
) -> None:
    """The gain of each class over a control, in points, or where there is none its accuracy.

    Args:
      ours, control: [C] percent by class; NaN for a class without clips.
      name: of the control.
    """
    values = ours if control is None else ours - control
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.lexsort((values[known], ~np.asarray(classes.is_base)[known]))][::-1]
    rows = np.arange(len(order))
    if len(rows) <= MANY:
        axes.barh(rows, values[order], color=classes.colours(order), height=0.8)
    else:  # so many bars would take minutes
        for colour, is_base in ((BASE, True), (NOVEL, False)):
            kind = np.asarray(classes.is_base)[order] == is_base
            axes.fill_betweenx(rows, np.where(kind, values[order], 0), step="mid", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    shown = rows if len(rows) <= 40 else rows[:: -(-len(rows) // 40)]
    axes.set_yticks(shown, _name(classes.names, order[shown]), **NAME)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="x", alpha=0.3)
    kinds = (("base", BASE, True), ("novel", NOVEL, False))
    for kind, colour, is_base in kinds:
        of_kind = values[known][np.asarray(classes.is_base)[known] == is_base]
        if control is None:
            chance = 100 / (classes.base + classes.novel)
            text = f"{kind}: {of_kind.mean():.1f} % (guessing: {chance:.1f} %)"
        else:
            lose = f"{np.sum(of_kind < 0)} of {len(of_kind)} lose"
            text = f"{kind}: {of_kind.mean():+.1f} on average, {lose}"
        axes.barh([0], [0], color=colour, label=text)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, **SMALL)
    label = "accuracy (%)" if control is None else f"points over {name}"
    text = "Accuracy by class, among all" if control is None else f"Gain of each class over {name}"
    axes.set(xlabel=label)
    _title(axes, text, pad=20)


def draw_features(
    axes: Any, real: np.ndarray, real_labels: np.ndarray, generated: np.ndarray,
    generated_labels: np.ndarray, names: Sequence[str], told: str,
) -> None:
    """Real features (dots) and generated ones (crosses) in their first two principal components,
    which are those of both together, so that a gap between the two shows.

    Args:
      real, generated: [n, d] and [m, d].
      real_labels, generated_labels: [n] and [m], numbers of `names`.
      told: the numbers of both, for the title.
    """
    every = np.union1d(real_labels, generated_labels)
    if len(every) > MOST_COLOURS:
        told = f"{told} ({MOST_COLOURS} of {len(every)} classes are shown)"
    shown = [np.isin(of, every[:MOST_COLOURS]) for of in (real_labels, generated_labels)]
    real, generated = real[shown[0]], generated[shown[1]]
    flat, share = _project(np.concatenate([real, generated]))
    labels = np.concatenate([real_labels[shown[0]], generated_labels[shown[1]]]).astype(int)
    present, colour = np.unique(labels, return_inverse=True)
    style = {"cmap": "gist_rainbow", "vmin": 0, "vmax": max(len(present) - 1, 1)}
    n = len(real)
    dots = axes.scatter(*flat[:n].T, c=colour[:n], s=14, marker="o", edgecolors="black",
                        linewidths=0.4, zorder=3, **style)
    axes.scatter(*flat[n:].T, c=colour[n:], s=18, marker="x", linewidths=0.8, alpha=0.6, **style)
    numbered = len(present) > 12
    for number, (label, name) in enumerate(zip(present, _name(names, present), strict=True)):
        text = f"{number + 1} {name}" if numbered else name
        if numbered:
            axes.annotate(f"{number + 1}", flat[labels == label].mean(0), fontsize=6, zorder=4)
        axes.plot([], [], "o", markersize=4, color=dots.cmap(dots.norm(number)), label=text)
    axes.plot([], [], "o", color="gray", markersize=4, label="dot: real")
    axes.plot([], [], "x", color="gray", markersize=4, label="cross: generated")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
                         ncols=-(-len(present) // 40), fontsize=5 if len(present) > 40 else 7)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set(xlabel=f"component 1 ({share[0]:.0%} of the variance)",
             ylabel=f"component 2 ({share[1]:.0%})")
    _title(axes, told)


def _project(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First two principal components [n, 2] of rows, and their shares [2] of the variance; one
    feature or one row has fewer, which are 0."""
    rows = np.asarray(rows, np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("a feature to plot is not a finite number")
    centred = rows - rows.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    flat, share = np.zeros((len(rows), 2)), np.zeros(2)
    flat[:, : len(directions[:2])] = centred @ directions[:2].T
    share[: len(values[:2])] = values[:2] ** 2 / max((values**2).sum(), np.finfo(float).tiny)
    return flat, share


def _title(axes: Any, text: str, pad: float = 6) -> None:
    """A title that stays inside the picture."""
    axes.set_title(text, fontsize=9, wrap=True, pad=pad)
