"""What comes after training: memory that does not grow with the square of the classes, the same
numbers whatever is done at a time, and models that outlive a report."""

import shutil
import tracemalloc
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from avdiff_jax import metrics
from avdiff_jax.inference import model as models
from avdiff_jax.methods.shared.gaussian_head import average_rows
from avdiff_jax.probabilities import fit_temperature
from avdiff_jax.train import measure, protocol, report
from tests import tiny


def peak(function, *args) -> int:
    """The most bytes that a call held at one time beyond what was there before."""
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def made_up_context(classes, width):
    """Of a generator whose features say their class, for novel classes alone."""
    text = np.random.default_rng(0).standard_normal((classes, width)).astype(np.float32)
    config = SimpleNamespace(seed=0, eval=SimpleNamespace(generated=20))
    is_base = np.zeros(classes, bool)
    members = SimpleNamespace(labels=np.repeat(np.arange(classes), 2))
    info = SimpleNamespace(config=config, is_base=is_base)

    def generate(variables, labels, key):
        return text[labels] + 0.1 * jax.random.normal(key, (len(labels), width))

    return SimpleNamespace(
        info=info, generate=generate, embed=lambda variables, features: features,
        stage=SimpleNamespace(novel=[members]),
    ), text[members.labels]


def test_many_classes_take_little_memory(monkeypatch):
    """1500 novel classes with 20 synthetic features each: all distances alone would take 11 GB."""
    context, real = made_up_context(1500, 64)
    monkeypatch.setattr(measure, "fuse_training_clips", lambda *_: real)
    outcome = SimpleNamespace(
        state=SimpleNamespace(vars=None), record=SimpleNamespace(last={"novel/main/noise_loss": 1})
    )
    monkeypatch.setattr(measure, "FEATURES_AT_ONCE", 4096)
    found = []
    most = peak(lambda: found.append(measure.measure_generator(context, outcome, 0)))
    print(f"quality of 30,000 features of 1500 classes: {most / 1e6:.0f} MB")
    assert most < 200e6
    assert found[0].report["recognised"] == 100 and found[0].report["noise_loss_novel"] == 1
    np.testing.assert_allclose(found[0].report["variance_synthetic"], 0.01, rtol=0.01)


@pytest.mark.parametrize(
    "function", [metrics.evaluate, metrics.curve, metrics.ausuc,
                 pytest.param(fit_temperature, marks=pytest.mark.slow)]
)
def test_scores_are_not_copied(function):
    rng = np.random.default_rng(0)
    scores = rng.random((8000, 3000), np.float32)
    is_base, labels = np.arange(3000) < 2000, rng.integers(3000, size=8000)
    more = (0.1,) if function in (metrics.evaluate, fit_temperature) else ()
    most = peak(function, scores, labels, is_base, *more)
    print(f"{function.__name__}: {most / scores.nbytes:.2f} times the scores")
    assert most < 2 * scores.nbytes  # which a copy in float64 takes alone


def test_means_of_many_classes():
    rng = np.random.default_rng(0)
    rows, labels = rng.random((20_000, 8), np.float32), rng.integers(3000, size=20_000)
    assert peak(average_rows, rows, labels, 3000) < 20e6
    found = average_rows(rows, labels, 3001)
    for label in (0, 17, 2999):
        np.testing.assert_allclose(found[label], rows[labels == label].mean(0), rtol=1e-5)
    assert not found[3000].any()


@pytest.mark.parametrize("at_once", [1, 7, 10, 4096])
def test_parts_do_not_matter(at_once, monkeypatch):
    monkeypatch.setattr(measure, "FEATURES_AT_ONCE", at_once)
    context, _ = made_up_context(5, 3)
    labels = np.repeat(np.arange(5), 2)
    made = measure.generate_features(context, None, labels, jax.random.key(0))
    assert made.shape == (10, 3)
    means = context.generate(None, np.arange(5), jax.random.key(1))
    nearest = ((made[:, None] - np.asarray(means)[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(measure.find_nearest(made, np.asarray(means)), nearest)


@pytest.mark.usefixtures("small_programs")
def test_a_report_that_dies_leaves_the_models(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    for draw in range(3):
        models.model_file(workdir, draw).unlink()

    def die(*_):
        raise MemoryError("Unable to allocate 18.6 GiB")

    monkeypatch.setattr(report, "measure_members", die)
    with pytest.raises(MemoryError):
        protocol.run(tiny.config(), workdir, "evaluate")
    for draw in range(3):
        model = models.load(workdir, draw)
        tiny.same(jax.device_get(model.vars), finished[2][draw].vars)
