"""Pictures: what is returned is what is in the file, and odd inputs do not break them."""

import numpy as np
import pytest
from matplotlib.image import imread

from avdiff_jax.results.plots import confusion_plot, curve_plot, features_plot, reliability_plot


def in_file(path):
    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def check_same(picture, path):
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert len(np.unique(picture)) > 10
    np.testing.assert_array_equal(picture, in_file(path))


# A dollar sign would start a formula; a class may have no clip; many classes go unnamed.
@pytest.mark.parametrize("names", [["a$b", "c$d$", "e_f^"], [f"class {i}" for i in range(70)]])
def test_confusion(tmp_path, names):
    matrix = np.eye(len(names)) * 3
    matrix[-1] = 0
    path = tmp_path / "plots" / "confusion.png"
    check_same(confusion_plot(matrix, names, path), path)


def test_confusion_refuses_a_matrix_of_other_classes(tmp_path):
    with pytest.raises(ValueError, match=r"\(3, 3\) for 2 class names"):
        confusion_plot(np.eye(3), ["a", "b"], tmp_path / "confusion.png")


@pytest.mark.parametrize("n, m, d", [(40, 20, 8), (1, 1, 8), (5, 3, 1), (2, 0, 3)])
def test_features(tmp_path, n, m, d):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3 * 10, np.arange(m) % 2 * 10
    real, generated = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 2
    path = tmp_path / "features.png"
    check_same(features_plot(real, labels[0], generated, labels[1], path), path)


def test_features_refuse_nan(tmp_path):
    with pytest.raises(ValueError, match="not a finite number"):
        features_plot(np.full((2, 3), np.nan), [0, 1], np.zeros((1, 3)), [0], tmp_path / "f.png")


@pytest.mark.parametrize("chosen", [None, (30.0, 20.0)])
def test_curve(tmp_path, chosen):
    path = tmp_path / "curve.png"
    check_same(curve_plot(np.linspace(60, 0, 9), np.linspace(0, 50, 9), chosen, path), path)


def test_reliability(tmp_path):
    path = tmp_path / "reliability.png"
    args = np.array([25.0, 99.0]), np.array([50.0, 90.0]), np.array([3, 200]), 4.2
    check_same(reliability_plot(*args, path), path)
