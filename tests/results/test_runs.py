"""Finished runs: which row of a table each belongs to, and several of a row as one."""

import numpy as np
import pytest

from avdiff_jax import metrics
from avdiff_jax.errors import UserError
from avdiff_jax.results import runs
from avdiff_jax.results.intervals import chance_above_zero, half_interval
from avdiff_jax.results.runs import Key
from tests.results.finished import finish, two_rows

# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_rows_are_means_over_seeds_with_the_spread_over_all_draws(tmp_path):
    found = runs.summary(two_rows(tmp_path)[Key("ucf", 5, "avdiff")])
    assert (found.splits, found.runs, found.draws, found.seconds) == (1, 2, 3, 120.0)
    assert found.mean["B"] == pytest.approx((72 + 80) / 2)
    hm = metrics.harmonic_mean
    assert found.mean["HM"] == pytest.approx((hm(72, 42) + hm(80, 50)) / 2)
    assert found.spread["B"] == pytest.approx(np.std([70, 72, 74, 80, 80, 80], ddof=1))
    draws = [hm(70, 40), hm(72, 44), hm(74, 42), *[hm(80, 50)] * 3]
    assert found.spread["HM"] == pytest.approx(np.std(draws, ddof=1))


def test_a_resumed_run_took_at_least_as_long_as_its_phases(tmp_path):
    assert runs.summary([finish(tmp_path, wall=3.0)]).seconds == 12.0


def test_runs_are_grouped_by_what_departs_from_the_usual(tmp_path):
    folder = tmp_path / "runs"
    finish(folder / "a", seed=42)
    finish(folder / "b", seed=43)
    finish(folder / "again", seed=43)  # the same run in another folder counts once
    finish(folder / "deep" / "t", overrides=["--config.diffusion.steps=50"])
    finish(folder / "proto", "5shot,condition=prototype,generator=none")
    finish(folder / "ncm", "5shot,method=ncm")
    finish(folder / "a" / "controls" / "linear", "5shot,method=linear")  # belongs to its run
    cells = runs.group(runs.find([folder, folder / "a"]))
    assert {key.label: [r.config["seed"] for r in found] for key, found in cells.items()} == {
        "avdiff": [42, 43],
        "avdiff,diffusion.steps=50": [42],
        "avdiff,condition=prototype,generator=none": [42],
        "ncm": [42],
    }


def test_transductive_numbers_are_a_row_of_their_own(tmp_path):
    plain = finish(tmp_path / "a")
    centered = plain._replace(results={**plain.results, "transductive": "center_groups"})
    assert {key.label: found for key, found in runs.group([plain, centered]).items()} == {
        "avdiff": [plain], "avdiff,transductive=center_groups": [centered]}


def test_as_many_of_each_the_other_methods_then_the_file_decide(tmp_path):
    small = finish(tmp_path / "a", overrides=["--config.diffusion.steps=50"])
    usual = finish(tmp_path / "b")
    other = finish(tmp_path / "c", "5shot,method=ncm")
    wanted = {"avdiff", "avdiff,diffusion.steps=50"}
    assert {key.label for key in runs.group([small, usual, other])} == {*wanted, "ncm"}
    default = {"diffusion": {"steps": 200}}
    assert {k.label for k in runs.group([small, usual], lambda *_: default)} == wanted
    assert "avdiff,diffusion.steps=200" in {k.label for k in runs.group([small, usual])}


@pytest.mark.parametrize("name, complaint", [("x", "x is no folder"), ("", "no results.json")])
def test_no_runs_is_one_sentence(tmp_path, name, complaint):
    with pytest.raises(UserError, match=complaint):
        runs.find([tmp_path / name])


def on_splits(tmp_path, words="5shot,method=avdiff", gain=0.0) -> list[runs.Finished]:
    """Three class splits of two seeds each, with a file of its own for each split."""
    return [
        finish(
            tmp_path / words / f"split{split}-seed{seed}", words, seed,
            [(60.0 + 10 * split + gain, 40.0, 45.0), (62.0 + 10 * split + gain, 40.0, 45.0)],
            [f"--config.data.split=s{split}.json"], split=split,
        )
        for split in range(3)
        for seed in (42, 43)
    ]


def test_class_splits_of_one_kind_are_one_row(tmp_path):
    cells = runs.group(on_splits(tmp_path))
    assert {key.label: [run.place for run in found] for key, found in cells.items()} == {
        "avdiff": [(split, seed) for split in range(3) for seed in (42, 43)]
    }


def test_splits_of_another_kind_or_without_a_seed_are_other_rows(tmp_path):
    first, second, *_ = on_splits(tmp_path)
    second.results["data"]["split"]["sizes"] = [30, 9, 9]
    unknown = finish(tmp_path / "u", overrides=["--config.data.split=s0.json"])
    labels = {key.label for key in runs.group([first, second, unknown])}
    assert len(labels) == 3 and any("ucf-by-group-30-9-9" in label for label in labels)


def test_a_row_of_several_splits_is_their_mean_with_its_interval(tmp_path):
    """Means 61, 71, 81: deviation 10, t(2, 0.975) = 4.302653."""
    found = runs.summary(on_splits(tmp_path))
    assert (found.splits, found.runs, found.draws) == (3, 6, 2)
    assert found.mean["B"] == pytest.approx(71) and found.spread["N"] == pytest.approx(0)
    assert found.spread["B"] == pytest.approx(4.302653 * 10 / np.sqrt(3), rel=1e-6)


def test_interval_and_chance_by_hand():
    """1, 2, 3: error 1/sqrt(3), t = 2 sqrt(3) with 2 degrees of freedom, whose distribution is
    (1 + t / sqrt(2 + t^2)) / 2."""
    assert half_interval([1, 2, 3]) == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    t = 2 * np.sqrt(3)
    assert chance_above_zero([1, 2, 3]) == pytest.approx((1 + t / np.sqrt(2 + t**2)) / 2)
    assert chance_above_zero([-1, -2, -3]) == pytest.approx(1 - chance_above_zero([1, 2, 3]))
    assert [chance_above_zero([x, x]) for x in (-1, 0, 1)] == [0, 0.5, 1]
    assert half_interval([1]) is None and chance_above_zero([1]) is None
