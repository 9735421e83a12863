"""Pictures of a finished run, as PNG files of 200 dots an inch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from avdiff_jax.io.files import draft
from avdiff_jax.probabilities import Reliability
from avdiff_jax.results import panels
from avdiff_jax.results.panels import Classes, DrawCurve

DOTS = 200  # an inch


def confusion_plot(confusion: np.ndarray, classes: Classes, path: str | Path) -> np.ndarray:
    """Which class is taken for which.

    Args:
      confusion: [C, C] counts, true class by row, predicted class by column.
      path: the PNG to write.

    Returns:
      The picture, RGB uint8 [height, width, 3]; as of the others.
    """
    count = len(classes.names)
    if np.shape(confusion) != (count, count):
        raise ValueError(f"the matrix has shape {np.shape(confusion)} for {count} class names")
    figure, axes = make_figure(max(5.0, min(0.14 * count + 3.5, 12.0)))
    panels.draw_confusion(axes, confusion, classes, most_names=70)
    return render(figure, path)


def features_plot(
    real: np.ndarray, real_labels: np.ndarray, generated: np.ndarray,
    generated_labels: np.ndarray, names: Sequence[str], told: str, path: str | Path,
) -> np.ndarray:
    """Real features against generated ones; arguments as of `panels.draw_features`."""
    figure, axes = make_figure(6.0, width=8.0)
    panels.draw_features(axes, real, real_labels, generated, generated_labels, names, told)
    return render(figure, path)


def curve_plot(draw: DrawCurve, classes: Classes, path: str | Path) -> np.ndarray:
    """B against N over all calibration values, and the point that was chosen."""
    figure, axes = make_figure(5.0)
    panels.draw_curve(axes, [draw], classes)
    return render(figure, path)


def reliability_plot(found: Reliability, label: str, path: str | Path) -> np.ndarray:
    """How often the best class is right against how probable it was said to be; beside each tenth
    of probability stands how many clips it has."""
    figure, axes = make_figure(5.0)
    panels.draw_reliability(axes, [(label, found)])
    return render(figure, path)


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
    """
    figure, axes = make_figure(5.0)
    for name, values in means.items():
        axes.errorbar(x, values, yerr=spreads[name], marker="o", capsize=3, label=name)
    axes.set(xlabel=label, ylabel="percent", ylim=(0, None))
    axes.set_xticks(list(x))
    axes.grid(alpha=0.3)
    axes.legend()
    return render(figure, path)


def predictions_plot(
    probabilities: np.ndarray, clip_ids: Sequence[str], classes: Classes, path: str | Path
) -> np.ndarray:
    """How probable each class is for each clip; arguments as of `panels.draw_predictions`."""
    clips, count = np.shape(probabilities)
    figure, axes = make_figure(
        max(5.0, min(0.16 * clips + 2.5, 14.0)), width=max(5.0, min(0.16 * count + 4.0, 14.0)))
    panels.draw_predictions(axes, probabilities, clip_ids, classes)
    return render(figure, path)


def make_figure(height: float, width: float | None = None, rows: int = 1, columns: int = 1):
    """A figure of so many inches, square by default, and its axes, without pyplot's global
    state."""
    from matplotlib.figure import Figure  # here, because importing it takes a second

    figure = Figure(figsize=(width or height, height), dpi=DOTS, layout="constrained")
    return figure, figure.subplots(rows, columns)


def render(figure: Any, path: str | Path) -> np.ndarray:
    """Draws, writes the PNG and returns what it shows, RGB uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    save_png(Path(path), picture)
    return picture


def save_png(path: Path, picture: np.ndarray) -> None:
    """RGB uint8 [height, width, 3] -> a PNG file, in a folder that is made if missing."""
    with draft(path) as scratch:
        # The least compression: a fifth more bytes in a third of the time.
        Image.fromarray(picture).save(scratch, "png", compress_level=1)
