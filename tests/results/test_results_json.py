"""results.json, and the paper's numbers."""

import copy
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax import metrics
from avdiff_jax.errors import UserError
from avdiff_jax.results.paper import paper, paper_row
from avdiff_jax.results.results_json import (
    ablation,
    read_results,
    results_json,
    versions,
    write_results,
)

CONFIG = {
    "dataset": "ucf",
    "shots": 5,
    "method": "avdiff",
    "seed": 42,
    "generator": "diffusion",
    "model": {"attention": "hybrid", "modality": "both"},
    "diffusion": {"condition": "text"},
}
POINTS = [metrics.Point(0.3, 70.0, 50.0, 58.33, 52.0), metrics.Point(0.3, 80.0, 40.0, 53.33, 50.0)]


def outcome(**changes) -> dict:
    areas = [41.0, 43.0]
    draws = [{**point._asdict(), "AUSUC": area} for point, area in zip(POINTS, areas, strict=True)]
    parts = {
        "test": {**metrics.aggregate(POINTS, areas), "draws": draws},
        "validation": {"stage1": {"HM": jnp.float32(0.5), "epochs": np.int64(7)}},
        "chosen": {"gamma": {"value": 0.3, "on": "Val of stage 1"}},
        "config": CONFIG,
        "device": "cpu",
        "timing": {"stage1": 1.5, "stage2": 2},
    }
    return results_json(**{**parts, **changes})


def test_round_trip(tmp_path):
    path = write_results(tmp_path / "run", outcome(generator={"noise_loss": 0.8}))
    for place in (path, tmp_path / "run", str(path)):
        read = read_results(place)
        assert read["schema"] == "avdiff_jax.results" and read["version"] == 1
        assert read["test"]["mean"]["B"] == 75.0 and read["test"]["mean"]["N"] == 45.0
        assert read["test"]["mean"]["HM"] == pytest.approx(56.25)
        assert read["test"]["mean_of_hm"] == pytest.approx(55.83)
        assert read["test"]["draws"][1] == dict(
            B=80.0, N=40.0, HM=53.33, FSL=50.0, AUSUC=43.0, gamma=0.3
        )
        assert read["validation"] == {"stage1": {"HM": 0.5, "epochs": 7}}
        assert read["generator"] == {"noise_loss": 0.8}
        assert read["versions"] == versions()
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_equal_runs_differ_in_timing_only(tmp_path):
    one = write_results(tmp_path / "one", outcome(timing={"stage1": 1.0}))
    config = dict(reversed(CONFIG.items()))
    two = write_results(tmp_path / "two", outcome(config=config, timing={"stage1": 2.0}))
    pairs = zip(one.read_text().splitlines(), two.read_text().splitlines(), strict=True)
    assert [(a.strip(), b.strip()) for a, b in pairs if a != b] == [
        ('"stage1": 1.0', '"stage1": 2.0')
    ]


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf"), jnp.float32("nan")])
def test_what_is_not_finite_is_never_written(tmp_path, bad):
    results = copy.deepcopy(outcome())
    results["test"]["draws"][1]["HM"] = bad
    with pytest.raises(ValueError, match=r"test\.draws\[1\]\.HM is (nan|inf)"):
        write_results(tmp_path, results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content, complaint",
    [
        (None, r"results.json does not exist: .*--resume"),
        ("{", "results.json is not JSON .*: run again"),
        ("[]", "holds a list where a results file is an object"),
        ('{"schema": "avdiff_jax.results", "version": 2}', "version 2 where .* version 1 is read"),
        ('{"schema": "avdiff_jax.results", "version": 1}', "config is missing: run again"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=complaint) as error:
        read_results(tmp_path if content else tmp_path / "results.json")
    assert "\n" not in str(error.value)


def test_versions_name_what_decides_the_numbers():
    names = {"python", "avdiff_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    assert set(versions()) == names


@pytest.mark.parametrize(
    "run, hm",
    [
        (("vggsound", 5, "avdiff"), 31.19),
        (("activitynet", 20, "mbt"), 31.96),
        (("ucf", 1, "avca", {"attention": "hybrid"}), 43.61),
        (("ucf", 5, "avdiff", {"attention": "self"}), 47.18),
        (("ucf", 5, "avdiff", {"modality": "audio", "condition": "text"}), 45.87),
        (("activitynet", 5, "avdiff", {"condition": "prototype"}), 25.79),
        (("vggsound", 5, "avgan"), 29.64),
        (("vggsound", 10, "avgan"), None),
        (("ucf", 10, "avdiff", {"attention": "self"}), None),
        (("ucf", 5, "avdiff", {"attention": "self", "modality": "audio"}), None),
        (("ucf", 5, "avdiff", {"generator": "none"}), None),
        (("ucf", 5, "mbt", {"modality": "audio"}), None),
        (("ucf", 3, "avdiff"), None),
        (("ucf", 5, "ncm"), None),
        (("synthetic", 5, "avdiff"), None),
    ],
)
def test_paper_row(run, hm):
    row = paper_row(*run)
    assert (row and row["HM"]) == hm


def test_ablation():
    assert ablation(CONFIG) == ablation({}) == {}
    config = {**CONFIG, "generator": "none", "diffusion": {"condition": "prototype"}}
    assert ablation(config) == {"condition": "prototype", "generator": "none"}


def rows(node):
    """Every row of numbers in the paper's tables."""
    if "HM" in node:
        yield node
    else:
        for child in node.values():
            if isinstance(child, dict):
                yield from rows(child)


def test_the_papers_rows_agree_with_themselves():
    """HM is the harmonic mean of B and N up to rounding; two rows of the paper miss it slightly."""
    everything = list(rows({k: paper()[k] for k in ("main", "ablations_5shot")}))
    assert len(everything) == 3 * 4 * 11 + 3 * (4 + 1 + 2 + 1)
    off = [
        r["HM"] for r in everything if abs(metrics.harmonic_mean(r["B"], r["N"]) - r["HM"]) > 0.011
    ]
    assert off == [26.82, 29.98]


def test_the_papers_numbers_are_those_of_the_reference_material(shared: Path):
    reference = json.loads((shared / "paper_tables.json").read_text())
    ours = paper()
    assert ours["counts_5shot"] == reference["table1_5shot"]
    for dataset, by_shots in reference["main"].items():
        for shots, by_method in by_shots.items():
            assert ours["main"][dataset][shots.removesuffix("shot")] == by_method
    for name, by_value in ours["ablations_5shot"].items():
        (reference_name,) = [n for n in reference["ablation"] if f"_{name}_" in n]
        assert by_value.items() <= reference["ablation"][reference_name].items()
