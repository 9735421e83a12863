"""Pictures: what is returned is what is in the file, odd inputs do not break them, and what a
reader looks for stands in them."""

import numpy as np
import pytest
from matplotlib.image import imread

from avdiff_jax import metrics
from avdiff_jax.probabilities import Reliability
from avdiff_jax.results import overview, panels
from avdiff_jax.results.panels import Classes, DrawCurve
from avdiff_jax.results.plots import (
    confusion_plot,
    curve_plot,
    features_plot,
    make_figure,
    predictions_plot,
    reliability_plot,
)
from avdiff_jax.results.results_json import read_results, results_json, write_results

BASE = np.array([True, False, True])
NAMES = ["a$b", "c$d$", "e_f^"]  # a dollar sign would start a formula


def in_file(path):
    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def check_same(picture, path):
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert len(np.unique(picture)) > 10 and min(picture.shape[:2]) >= 1000
    np.testing.assert_array_equal(picture, in_file(path))


@pytest.fixture
def axes():
    """Axes to draw on; the figure is drawn at the end, so that what cannot be drawn fails."""
    figure, axes = make_figure(4.0)
    yield axes
    figure.canvas.draw()


def texts(axes) -> str:
    legend = axes.get_legend()
    of_legend = [text.get_text() for text in legend.get_texts()] if legend else []
    return " | ".join([axes.get_title(), *of_legend, *(text.get_text() for text in axes.texts)])


# A class may have no clip; of many classes some are named.
@pytest.mark.parametrize("names", [NAMES, [f"class {i}" for i in range(150)]])
def test_confusion(tmp_path, names):
    matrix = np.eye(len(names)) * 3
    matrix[-1] = 0
    path = tmp_path / "plots" / "confusion.png"
    classes = Classes(names, np.arange(len(names)) % 3 > 0)
    check_same(confusion_plot(matrix, classes, path), path)


def test_confusion_refuses_a_matrix_of_other_classes(tmp_path):
    with pytest.raises(ValueError, match=r"\(3, 3\) for 2 class names"):
        confusion_plot(np.eye(3), Classes(["a", "b"], BASE[:2]), tmp_path / "confusion.png")


def test_base_and_novel_classes_are_blocks(axes):
    matrix = np.array([[2, 1, 0], [0, 4, 0], [3, 0, 5]])
    panels.draw_confusion(axes, matrix, Classes(NAMES, BASE), most_names=9)
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown, [[200 / 3, 0, 100 / 3], [37.5, 62.5, 0], [0, 0, 100]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a$b", "e_f^", "c$d$"]
    assert "base (2)" in texts(axes) and "novel (1)" in texts(axes) and "73.3 % of" in texts(axes)
    assert [line.get_ydata()[0] for line in axes.lines[:1]] == [1.5]  # the boundary


def test_of_many_classes_every_few_are_named(axes):
    names = [f"class {i:02}" for i in range(40)]
    panels.draw_confusion(axes, np.eye(40), Classes(names, np.arange(40) < 20), most_names=10)
    assert [label.get_text() for label in axes.get_xticklabels()] == names[::4]
    assert "one name for 4 classes" in axes.get_xlabel()


@pytest.mark.parametrize("n, m, d", [(40, 20, 8), (1, 1, 8), (5, 3, 1), (2, 0, 3)])
def test_features(tmp_path, n, m, d):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3, np.arange(m) % 2
    real, generated = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 2
    path = tmp_path / "features.png"
    picture = features_plot(real, labels[0], generated, labels[1], NAMES, "12 % overlap", path)
    check_same(picture, path)


def test_features_refuse_nan(tmp_path):
    with pytest.raises(ValueError, match="not a finite number"):
        features_plot(np.full((2, 3), np.nan), np.arange(2), np.zeros((1, 3)), np.zeros(1), NAMES,
                      "", tmp_path / "f.png")


@pytest.mark.parametrize("count, first", [(3, "class 0"), (30, "1 class 0")])
def test_the_legend_names_classes_and_numbers_many(axes, count, first):
    rows = np.random.default_rng(0).normal(size=(count, 4))
    labels, names = np.arange(count), [f"class {i}" for i in range(count)]
    panels.draw_features(axes, rows, labels, rows + 1, labels, names, "12 % overlap")
    assert texts(axes).startswith(f"12 % overlap | {first} | ")
    assert "cross: generated" in texts(axes)
    assert ("| 7 " in texts(axes)) == (count > 12)  # beside the points


def drawn_curve() -> DrawCurve:
    curve = metrics.Curve(np.arange(9.0), np.linspace(60, 0, 9), np.linspace(0, 50, 9))
    return DrawCurve("draw 2", curve, metrics.Point(0.25, 30.0, 20.0, 24.0, 50.0), 15.5)


def test_curve(tmp_path):
    path = tmp_path / "curve.png"
    check_same(curve_plot(drawn_curve(), Classes(NAMES, BASE), path), path)


def test_the_curve_says_hm_ausuc_and_what_guessing_reaches(axes):
    panels.draw_curve(axes, [drawn_curve()], Classes(NAMES, BASE))
    said = texts(axes)
    assert "AUSUC 15.5" in said and "draw 2: HM 24.0 at gamma 0.25" in said
    assert "guessing: AUSUC 25" in said  # B 50 or N 100, half of the rectangle
    (star,) = [line for line in axes.lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (30.0, 20.0)


def test_predictions(tmp_path, axes):
    """A row a clip, base classes first."""
    p = np.array([[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]])
    classes = Classes(NAMES, BASE)
    path = tmp_path / "predictions.png"
    check_same(predictions_plot(p, ["one", "two$"], classes, path), path)
    panels.draw_predictions(axes, p, ["one", "two$"], classes)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == [NAMES[i] for i in classes.order]
    np.testing.assert_allclose(axes.images[0].get_array(), 100 * p[:, classes.order])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two$"]
    assert "2 clips: base classes, then" in texts(axes)


def test_reliability(tmp_path):
    path = tmp_path / "reliability.png"
    found = Reliability(
        np.array([25.0, 99.0]), np.array([50.0, 90.0]), np.array([3, 200]), 4.2
    )
    check_same(reliability_plot(found, "draw 0", path), path)


def test_reliability_says_how_far_off_and_of_how_many_clips(axes):
    found = Reliability(
        np.array([25.0, 99.0]), np.array([50.0, 90.0]), np.array([3, 200]), 4.2
    )
    panels.draw_reliability(axes, [("draw 0", found)])
    assert "Off by 4.2 %" in texts(axes) and "3 | 200" in texts(axes)


def test_gains_over_a_control_are_sorted_in_blocks(axes):
    ours, control = np.array([50.0, 80.0, np.nan]), np.array([60.0, 50.0, 10.0])
    panels.draw_accuracies(axes, ours, control, "linear", Classes(NAMES, BASE))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c$d$", "a$b"]
    assert [bar.get_width() for bar in axes.patches[:2]] == [30.0, -10.0]
    said = texts(axes)
    assert "Gain of each class over linear" in said
    assert "base: -10.0 on average, 1 of 1 lose" in said


def test_without_a_control_accuracies_stand_beside_guessing(axes):
    panels.draw_accuracies(axes, np.array([50.0, 80.0, 70.0]), None, "", Classes(NAMES, BASE))
    assert "base: 60.0 % (guessing: 33.3 %)" in texts(axes)


def test_thousands_of_classes_are_drawn_in_seconds(axes):
    count = 3000
    names, is_base = [f"class {i}" for i in range(count)], np.arange(count) < 2000
    values = np.random.default_rng(0).uniform(0, 100, count)
    panels.draw_accuracies(axes, values, None, "", Classes(names, is_base))
    assert len(axes.patches) <= 2 and len(axes.collections) == 2


def test_features_of_many_classes_are_some_of_them(axes):
    rows, labels = np.random.default_rng(0).normal(size=(300, 4)), np.arange(300)
    panels.draw_features(axes, rows, labels, rows, labels, [f"c{i}" for i in labels], "x")
    assert "x (80 of 300 classes are shown)" in texts(axes) and "81 c80" not in texts(axes)
    assert len(axes.collections[0].get_offsets()) == 80


def test_a_long_name_keeps_start_and_end(axes):
    names = ["right arm swipe to the left side", "b"]
    panels.draw_accuracies(axes, np.ones(2), None, "", Classes(names, BASE[:2]))
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == ["b", "right arm swipe… left side"]


def finish(workdir, seed=0, method="avdiff", right=3.0, config=()):
    """The files of a finished run that its overview is drawn from, of two draws."""
    rng, is_base, labels = np.random.default_rng(seed), np.arange(6) < 4, np.arange(60) % 6
    points, areas = [], []
    for draw in range(2):
        scores = rng.normal(size=(60, 6)).astype(np.float32)
        scores[np.arange(60), labels] += right
        names = np.array([f"class {i}" for i in range(6)])
        workdir.mkdir(parents=True, exist_ok=True)
        np.savez(workdir / f"scores-draw{draw}.npz", scores=scores, labels=labels, classes=names,
                 is_base=is_base)
        (workdir / f"reliability-draw{draw}.csv").write_text(
            "probability,accuracy,clips\n25.0,40.0,20\n90.0,80.0,40\n")
        points.append(metrics.evaluate(scores, labels, is_base, 0.5))
        areas.append(metrics.ausuc(scores, labels, is_base))
    draws = [{**p._asdict(), "AUSUC": area} for p, area in zip(points, areas, strict=True)]
    config = {"dataset": "synthetic", "shots": 5, "method": method, "seed": 42, **dict(config)}
    write_results(workdir, results_json(
        test={**metrics.aggregate(points, areas), "draws": draws}, validation={}, chosen={},
        config=config, device="cpu", timing={}))
    return workdir


def test_overview_says_it_all(tmp_path, monkeypatch):
    """Drawn from the files; a control changes the panel of classes."""
    seen = {}
    for name in ("draw_curve", "draw_confusion", "draw_accuracies", "draw_reliability"):
        draw = getattr(panels, name)

        def spy(axes, *args, name=name, draw=draw, **more):
            draw(axes, *args, **more)
            seen[name] = (args, texts(axes))

        monkeypatch.setattr(panels, name, spy)
    run, control = finish(tmp_path / "run"), finish(tmp_path / "linear", 1, "linear", 1.0)
    path = overview.draw_overview(run)
    assert path == run / "plots" / "overview.png" and path.is_file()
    assert "Accuracy by class" in seen["draw_accuracies"][1]
    overview.draw_overview(run, control)
    assert "over linear" in seen["draw_accuracies"][1]
    told = read_results(run)["test"]
    assert f"AUSUC {told['mean']['AUSUC']:.1f}" in seen["draw_curve"][1]
    assert f"draw 1: HM {told['draws'][1]['HM']:.1f} at gamma 0.5" in seen["draw_curve"][1]
    assert seen["draw_confusion"][0][0].sum() == 120  # clips of both draws
    # |25 - 40| of 20 clips and |90 - 80| of 40
    assert f"Off by {(15 * 20 + 10 * 40) / 60:.1f} %" in seen["draw_reliability"][1]


def test_overview_of_a_draw_beside_files_of_others(tmp_path, monkeypatch):
    """As an evaluation of one draw leaves it in a folder that held three."""
    seen = []
    monkeypatch.setattr(panels, "draw_curve", lambda axes, draws, classes: seen.extend(draws))
    run = finish(tmp_path / "a$b$", config={"dataset": "$a^{$", "shots": 5, "method": "ncm"})
    results = read_results(run)
    results["test"]["draws"] = results["test"]["draws"][1:]
    write_results(run, results)
    overview.draw_overview(run, numbers=[1])
    assert [draw.label for draw in seen] == ["draw 1"]
    assert seen[0].chosen.HM == pytest.approx(results["test"]["draws"][0]["HM"])
