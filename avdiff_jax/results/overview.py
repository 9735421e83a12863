"""One picture that says how a run went: B against N, what is confused, which classes gain, and
whether probabilities can be believed. It is drawn from the files of the run."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avdiff_jax import metrics
from avdiff_jax.results import panels
from avdiff_jax.results.panels import Classes, DrawCurve
from avdiff_jax.results.plots import make_figure, render
from avdiff_jax.results.results_json import dataset, read_results


class Scores(NamedTuple):
    """The file scores-drawN.npz of a run: of test clips, with what the draw is called."""

    draw: str
    scores: np.ndarray  # [n, C]
    labels: np.ndarray  # [n]
    classes: Classes
    gamma: float

    def confusion(self) -> np.ndarray:
        """[C, C] counts, true class by row."""
        predicted = metrics.calibrated(self.scores, self.classes.is_base, self.gamma).argmax(1)
        counts = np.zeros((len(self.classes.names),) * 2, int)
        np.add.at(counts, (self.labels, predicted), 1)
        return counts

    def curve(self) -> DrawCurve:
        """B against N."""
        data = self.scores, self.labels, self.classes.is_base
        point = metrics.evaluate(*data, self.gamma)
        return DrawCurve(self.draw, metrics.curve(*data), point, metrics.ausuc(*data))


def draw_overview(workdir: Path, control: Path | None = None) -> Path:
    """Draws the picture of a finished run, plots/overview.png.

    Args:
      control: workdir of a finished run on the same test clips, that classes are compared with.
    """
    results, draws = read_results(workdir), read_scores(workdir)
    test, config, classes = results["test"], results["config"], draws[0].classes
    confusion = np.sum([draw.confusion() for draw in draws], axis=0)
    of_control = None
    name = ""
    if control:
        name = read_results(control)["config"]["method"]
        of_control = class_accuracies(
            np.sum([draw.confusion() for draw in read_scores(control)], axis=0)
        )
    figure, axes = make_figure(11.0, 13.0, 2, 2)
    panels.draw_curve(axes[0, 0], [draw.curve() for draw in draws], classes)
    panels.draw_confusion(axes[0, 1], confusion, classes, most_names=45)
    panels.draw_accuracies(
        axes[1, 0], class_accuracies(confusion), of_control, name, classes
    )
    panels.draw_reliability(axes[1, 1], [
        (draw.draw, read_reliability(workdir / f"reliability-{draw.draw.replace(' ', '')}.csv"))
        for draw in draws
    ])
    numbers = ", ".join(f"{n} {test['mean'][n]:.1f}" for n in ("B", "N", "HM", "FSL", "AUSUC"))
    figure.suptitle(
        f"{dataset(config)}, {config['shots']}-shot, {config['method']}: {numbers} "
        f"(guessing: FSL {100 / classes.novel:.1f})", fontsize=12,
    )
    path = workdir / "plots" / "overview.png"
    render(figure, path)
    return path


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """[C] percent right of each class; NaN for a class without clips."""
    clips = confusion.sum(1)
    return np.divide(100.0 * confusion.diagonal(), clips, out=np.full(len(clips), np.nan),
                     where=clips > 0)


def read_scores(workdir: Path) -> list[Scores]:
    """The scores of each draw of a finished run."""
    draws, told = [], read_results(workdir)["test"]["draws"]
    for path in sorted(workdir.glob("scores-draw*.npz")):
        number = path.stem.removeprefix("scores-draw")
        with np.load(path, allow_pickle=False) as file:
            classes = Classes([str(name) for name in file["classes"]], file["is_base"])
            gamma = told[len(draws)]["gamma"]
            draws.append(
                Scores(f"draw {number}", file["scores"], file["labels"], classes, gamma)
            )
    return draws


def read_reliability(path: Path) -> metrics.Reliability:
    """The file reliability-drawN.csv of a run."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]
    probability, accuracy, clips = np.array(rows).T
    error = float(clips @ np.abs(accuracy - probability) / clips.sum())
    return metrics.Reliability(probability, accuracy, clips.astype(int), error)
