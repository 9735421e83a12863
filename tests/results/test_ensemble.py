"""Seeds whose scores are averaged."""

import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.results.ensemble import average_seeds
from tests.results.finished import call, finish, rows

# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

# Two base classes, two novel ones, a clip of each; each seed takes another clip for its neighbour.
RIGHT = 0.6 * np.eye(4) + 0.1
SEEDS = {
    42: np.array([[0.4, 0.5, 0, 0.1], *RIGHT[1:]]),
    43: np.array([*RIGHT[:2], [0, 0.1, 0.4, 0.5], RIGHT[3]]),
}


def finish_seed(folder, seed, split=0, clips="abcd", **changes):
    numbers = [(50.0, 100.0, 100.0) if seed == 42 else (100.0, 50.0, 50.0)]
    run = finish(folder / f"split{split}-seed{seed}", seed=seed, numbers=numbers, split=split,
                 **changes)
    np.savez(
        run.workdir / "scores-draw0.npz", scores=SEEDS[seed], labels=np.arange(4),
        clips=np.array([*clips]), classes=np.array([*"wxyz"]), is_base=np.arange(4) < 2,
    )
    return run


@pytest.fixture
def row(tmp_path):
    """The runs of two seeds in each of two splits."""
    folder = tmp_path / "ucf-5shot" / "avdiff"
    return [
        finish_seed(folder, seed, split, clips) for split, clips in enumerate(("abcd", "efgh"))
        for seed in SEEDS
    ]


def test_averaged_scores_right_what_either_seed_takes_for_another(row):
    averaged = average_seeds(row)
    assert [run.place for run in averaged] == [run.place for run in row]
    for run in averaged:
        (draw,) = run.draws
        assert draw["gamma"] == pytest.approx(0.3)
        assert [draw[name] for name in ("B", "N", "HM", "FSL")] == [100.0] * 4


def test_the_command_compares_them_with_the_seeds_alone(row, tmp_path, capsys):
    code, text, _ = call(
        capsys, "compare", "avdiff", "avdiff", "--average=A", f"--root={tmp_path}")
    assert code == 0 and "A = avdiff, seeds averaged, B = avdiff;" in text
    assert "B 100.00 75.00 +25.00 +25.00 to +25.00 2 of 2 100.0 %" in rows(text)
    _, text, _ = call(capsys, "compare", "avdiff", "avdiff", "--average=B", f"--root={tmp_path}")
    assert any(line.startswith("N 75.00 100.00 -25.00") for line in rows(text))
    _, text, _ = call(capsys, "compare", "avdiff", "avdiff", "--average=both", f"--root={tmp_path}")
    assert any(line.startswith("HM 100.00 100.00 +0.00") for line in rows(text))


def test_a_seed_that_is_alone_is_left_out(row):
    assert {run.place for run in average_seeds(row[:3])} == {(0, 42), (0, 43)}
    with pytest.raises(UserError, match=r"have a seed each, .* several --seeds"):
        average_seeds([row[0], row[2]])


@pytest.mark.parametrize("changes, complaint", [
    ({"clips": "abce"}, r"scores-draw0\.npz hold other clips"),
    ({"overrides": ["--config.model.depth=2"]}, r"differ in model\.depth: only runs"),
])
def test_runs_that_cannot_be_averaged(row, tmp_path, changes, complaint):
    other = finish_seed(tmp_path / "other", 43, **changes)
    with pytest.raises(UserError, match=complaint):
        average_seeds([row[0], other])


def test_missing_scores_are_named(row):
    (row[1].workdir / "scores-draw0.npz").unlink()
    with pytest.raises(UserError, match=r"seed43/scores-draw0\.npz is missing: .*--run=evaluate"):
        average_seeds(row[:2])
