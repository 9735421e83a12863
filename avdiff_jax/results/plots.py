"""Pictures of a finished run: what is confused, what is generated, B against N."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avdiff_jax.io.files import draft


def confusion_plot(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> np.ndarray:
    """Which class is taken for which.

    Args:
      matrix: [C, C] counts, true class by row, predicted class by column.
      class_names: C names; written at the axes for up to 60 classes.
      path: the PNG to write.

    Returns:
      The picture, RGB uint8 [height, width, 3].
    """
    matrix = np.asarray(matrix, float)
    count = len(class_names)
    if matrix.shape != (count, count):
        raise ValueError(f"the matrix has shape {matrix.shape} for {count} class names")
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure, axes = _figure(size=max(5.0, min(0.16 * count + 2.5, 12.0)))
    mesh = axes.imshow(share, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    figure.colorbar(mesh, ax=axes, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if count <= 60:
        ticks = np.arange(count)
        # A name may hold a dollar sign, which would start a formula.
        plain = {"fontsize": 7, "parse_math": False}
        axes.set_xticks(ticks, class_names, rotation=90, **plain)
        axes.set_yticks(ticks, class_names, **plain)
    return _render(figure, path)


def features_plot(
    real: np.ndarray,
    real_labels: np.ndarray,
    generated: np.ndarray,
    generated_labels: np.ndarray,
    path: str | Path,
) -> np.ndarray:
    """Real features (dots) and generated ones (crosses) in their first two principal components.

    The components are those of both together, so that a gap between the two shows.

    Args:
      real, generated: [n, d] and [m, d].
      real_labels, generated_labels: [n] and [m]; a class has one colour.
      path: the PNG to write.

    Returns:
      The picture, RGB uint8 [height, width, 3].
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    together = np.concatenate([real, generated])
    if not np.isfinite(together).all():
        raise ValueError("a feature to plot is not a finite number")
    centred = together - together.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    flat = np.zeros((len(together), 2))  # one feature or one row has fewer than two components
    flat[:, : len(directions[:2])] = centred @ directions[:2].T
    share = np.zeros(2)
    share[: len(values[:2])] = values[:2] ** 2 / max((values**2).sum(), np.finfo(float).tiny)
    labels = np.concatenate([real_labels, generated_labels])
    _, colour = np.unique(labels, return_inverse=True)
    figure, axes = _figure(size=6.0)
    style = {"cmap": "gist_rainbow", "vmin": 0, "vmax": max(colour.max(initial=0), 1)}
    n = len(real)
    axes.scatter(*flat[:n].T, c=colour[:n], s=9, marker="o", alpha=0.5, label="real", **style)
    axes.scatter(*flat[n:].T, c=colour[n:], s=28, marker="x", label="generated", **style)
    axes.set(xlabel=f"component 1 ({share[0]:.0%})", ylabel=f"component 2 ({share[1]:.0%})")
    axes.legend()
    return _render(figure, path)


def curve_plot(
    B: np.ndarray, N: np.ndarray, chosen: tuple[float, float] | None, path: str | Path
) -> np.ndarray:
    """B against N over all calibration values, and the point that was chosen.

    Args:
      B, N: [k] percent, in the order of the calibration value.
      chosen: (B, N) at the value that was chosen on Val, if any.
      path: the PNG to write.

    Returns:
      The picture, RGB uint8 [height, width, 3].
    """
    figure, axes = _figure(size=5.0)
    axes.plot(B, N, marker=".", markersize=3)
    if chosen is not None:
        axes.plot(*chosen, marker="*", markersize=14, linestyle="", label="chosen on Val")
        axes.legend()
    axes.set(xlabel="B (%)", ylabel="N (%)", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    return _render(figure, path)


def reliability_plot(
    probability: np.ndarray,
    accuracy: np.ndarray,
    clips: np.ndarray,
    error: float,
    path: str | Path,
) -> np.ndarray:
    """How often the best class is right against how probable it was said to be.

    Args:
      probability, accuracy: [k] percent, of the clips of each tenth; clips: [k], how many.
      error: expected calibration error, percent.
      path: the PNG to write.

    Returns:
      The picture, RGB uint8 [height, width, 3].
    """
    figure, axes = _figure(size=5.0)
    axes.plot([0, 100], [0, 100], color="gray", linewidth=1, linestyle="--")
    axes.plot(probability, accuracy, marker="o")
    for x, y, count in zip(probability, accuracy, clips, strict=True):
        axes.annotate(f"{count}", (x, y), xytext=(-4, 6), textcoords="offset points", ha="right",
                      fontsize=8)
    axes.set(xlabel="probability of the best class (%)", ylabel="accuracy (%)",
             xlim=(0, 102), ylim=(0, 106),
             title=f"clips by tenths of probability; calibration error {error:.1f} %")
    axes.grid(alpha=0.3)
    return _render(figure, path)


def sweep_plot(
    x: Sequence[float],
    means: Mapping[str, Sequence[float]],
    spreads: Mapping[str, Sequence[float]],
    label: str,
    path: str | Path,
) -> np.ndarray:
    """Several numbers against one setting, such as B, N, HM and FSL against T.

    Args:
      x: [k] values of the setting, increasing.
      means, spreads: name -> [k] percent; the spread is drawn as a bar either way.
      label: of the x axis.
      path: the PNG to write.

    Returns:
      The picture, RGB uint8 [height, width, 3].
    """
    figure, axes = _figure(size=5.0)
    for name, values in means.items():
        axes.errorbar(x, values, yerr=spreads[name], marker="o", capsize=3, label=name)
    axes.set(xlabel=label, ylabel="percent", ylim=(0, None))
    axes.set_xticks(list(x))
    axes.grid(alpha=0.3)
    axes.legend()
    return _render(figure, path)


def _figure(size: float):
    """A square figure of `size` inches and its axes, without pyplot's global state."""
    from matplotlib.figure import Figure  # here, because importing it takes a second

    figure = Figure(figsize=(size, size), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _render(figure: Any, path: str | Path) -> np.ndarray:
    """Draws, writes the PNG and returns what it shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    save_png(Path(path), picture)
    return picture


def save_png(path: Path, picture: np.ndarray) -> None:
    """RGB uint8 [height, width, 3] -> a PNG file, in a folder that is made if missing."""
    from matplotlib.image import imsave

    with draft(path) as scratch:
        imsave(scratch, picture)
