"""One picture that says how a run went: B against N, what is confused, which classes gain, and
whether probabilities can be believed. It is drawn from the files of the run."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avdiff_jax import metrics
from avdiff_jax.probabilities import Reliability
from avdiff_jax.results import panels
from avdiff_jax.results.panels import Classes, DrawCurve
from avdiff_jax.results.plots import make_figure, render
from avdiff_jax.results.results_json import dataset, read_results


class DrawOutcome(NamedTuple):
    """What the test scores of a draw say."""

    label: str
    classes: Classes
    confusion: np.ndarray  # [C, C] counts, true class by row
    curve: DrawCurve
    reliability: Reliability


def draw_overview(
    workdir: Path, control: Path | None = None, numbers: Sequence[int] | None = None
) -> Path:
    """Draws the picture of a finished run, plots/overview.png.

    Args:
      control: workdir of a finished run on the same test clips, that classes are compared with.
      numbers: of the draws that were measured; 0, 1, ... if not given.
    """
    results, draws = read_results(workdir), read_draws(workdir, numbers)
    classes, name, of_control = draws[0].classes, "", None
    confusion = sum_confusions(draws)
    if control:
        name = read_results(control)["config"]["method"]
        of_control = class_accuracies(sum_confusions(read_draws(control)))
    figure, axes = make_figure(11.0, 13.0, 2, 2)
    panels.draw_curve(axes[0, 0], [draw.curve for draw in draws], classes)
    panels.draw_confusion(axes[0, 1], confusion, classes, most_names=45)
    panels.draw_accuracies(axes[1, 0], class_accuracies(confusion), of_control, name, classes)
    panels.draw_reliability(axes[1, 1], [(draw.label, draw.reliability) for draw in draws])
    config, mean = results["config"], results["test"]["mean"]
    means = ", ".join(f"{n} {mean[n]:.1f}" for n in ("B", "N", "HM", "FSL", "AUSUC"))
    figure.suptitle(
        f"{dataset(config)}, {config['shots']}-shot, {config['method']}: {means} "
        f"(guessing: FSL {100 / classes.novel:.1f})", fontsize=12, parse_math=False,
    )
    path = workdir / "plots" / "overview.png"
    render(figure, path)
    return path


def sum_confusions(draws: Sequence[DrawOutcome]) -> np.ndarray:
    """The confusion matrix of all draws."""
    return np.sum([draw.confusion for draw in draws], axis=0)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """[C] percent right of each class; NaN for a class without clips."""
    return np.array([row.accuracy for row in metrics.class_table(confusion)])


def read_draws(workdir: Path, numbers: Sequence[int] | None = None) -> list[DrawOutcome]:
    """Reads the files of each draw of a finished run, one after the other; `numbers` as of
    `draw_overview`."""
    told = read_results(workdir)["test"]["draws"]
    return [
        read_draw(workdir, number, draw["gamma"])
        for number, draw in zip(numbers or range(len(told)), told, strict=True)
    ]


def read_draw(workdir: Path, number: int, gamma: float) -> DrawOutcome:
    """Reads scores-drawN.npz and reliability-drawN.csv."""
    with np.load(workdir / f"scores-draw{number}.npz", allow_pickle=False) as file:
        classes = Classes([str(name) for name in file["classes"]], file["is_base"])
        scores, labels = file["scores"], file["labels"]
    data, count = (scores, labels, classes.is_base), len(classes.names)
    confusion = np.zeros((count, count), int)
    np.add.at(confusion, (labels, metrics.find_leaders(scores, classes.is_base).predict(gamma)), 1)
    label = f"draw {number}"
    curve = DrawCurve(
        label, metrics.curve(*data), metrics.evaluate(*data, gamma), metrics.ausuc(*data)
    )
    trust = read_reliability(workdir / f"reliability-draw{number}.csv")
    return DrawOutcome(label, classes, confusion, curve, trust)


def read_reliability(path: Path) -> Reliability:
    """The file reliability-drawN.csv of a run."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]
    probability, accuracy, clips = np.array(rows).T
    error = float(clips @ np.abs(accuracy - probability) / clips.sum())
    return Reliability(probability, accuracy, clips.astype(int), error)
