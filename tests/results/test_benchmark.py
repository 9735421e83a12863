"""Which runs a benchmark is made of."""

import itertools
import json

import pytest

from avdiff_jax.data.splits import split_file, stages
from avdiff_jax.errors import UserError
from avdiff_jax.methods import METHODS
from avdiff_jax.results import benchmark
from avdiff_jax.results.benchmark import ClassSplits
from avdiff_jax.results.results_json import ablation
from tests import ROOT, tiny
from tests.results.finished import GAUSSIAN, NONE, OWN, UCF, small_grid

# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_all_has_every_method_and_every_control():
    found = benchmark.rows(["all"])
    assert {(name, ()) for name in METHODS} < set(found)
    assert {("avdiff", NONE), ("avdiff", GAUSSIAN), ("ncm", ()), ("linear", ())} < set(found)
    assert len(found) == len(set(found)) == len(METHODS) + 2


def test_the_grid_is_the_product_and_resolves_as_main_does(tmp_path):
    synthetic = str(ROOT / "configs" / "synthetic.py")
    grid = small_grid(
        tmp_path, configs=[UCF, synthetic], shots=[1, 5], seeds=[42, 43],
        variants=["generator=none", "diffusion.steps=50"],
        overrides=["--config.data.split=s-{shots}.json", "--config.train.batch=32"],
    )
    rows = ["avdiff", "ncm", "avdiff,generator=none", "avdiff,diffusion.steps=50"]
    wanted = itertools.product(["ucf", "synthetic"], [1, 5], [42, 43], rows)
    assert [(r.key.dataset, r.key.shots, r.seed, r.key.label) for r in grid] == list(wanted)
    run = grid[-1]
    assert run.workdir == tmp_path / "synthetic-5shot" / "avdiff-diffusion.steps=50" / "seed43"
    assert run.log == run.workdir.parent / "seed43.log"
    assert run.arguments(resume=True) == [
        f"--config={synthetic}:5shot,method=avdiff", "--config.data.split=s-5.json",
        "--config.train.batch=32", "--config.diffusion.steps=50", "--config.seed=43",
        f"--workdir={run.workdir}", "--resume",
    ]
    assert run.config["diffusion"]["steps"] == 50 and run.config["seed"] == 43
    assert run.config["train"]["batch"] == 32 and run.config["data"]["split"] == "s-5.json"
    assert grid[2].arguments()[0].endswith(":1shot,method=avdiff,generator=none")
    assert grid[0].config["diffusion"]["steps"] == 300  # the file's value for one shot
    json.dumps(run.config)


def test_an_override_is_for_the_methods_that_read_it(tmp_path):
    """Where none does, it is refused: see below."""
    grid = small_grid(tmp_path, overrides=["--config.model.depth=3", "--config.train.batch=32"])
    flags = {run.key.label: run.flags[1:-1] for run in grid}
    assert flags == {
        "avdiff": ("--config.model.depth=3", "--config.train.batch=32"),
        "ncm": ("--config.train.batch=32",),
    }


def test_the_usual_value_of_a_variant_is_not_run_twice(tmp_path):
    grid = small_grid(tmp_path, variants=["diffusion.steps=200", "generator=diffusion"])
    assert [run.key.label for run in grid] == ["avdiff", "ncm"]


def test_a_method_may_have_another_usual_value(tmp_path):
    """AV-Diff+ has no generator unless one is asked for."""
    methods = ["avdiff_plus", "generator=diffusion", "avdiff_plus", "generator=none"]
    with_one, without = small_grid(tmp_path, methods=methods)
    assert with_one.key.label == "avdiff_plus,generator=diffusion"
    assert with_one.flags[0].endswith(",method=avdiff_plus,generator=diffusion")
    assert with_one.config["generator"] == "diffusion"
    assert without.key.label == "avdiff_plus" and without.config["generator"] == "none"
    assert ablation(with_one.config) == {"generator": "diffusion"}
    assert ablation(without.config) == {}


def test_a_field_and_its_word_are_the_same_variant():
    assert benchmark.setting("model.attention=full") == benchmark.setting("attention=full")


@pytest.mark.parametrize(
    "more, complaint",
    [
        (dict(methods=["avdif"]), "unknown method=avdif; known: avdiff"),
        (dict(configs=["configs/none.py"]), "configs/none.py names no file"),
        (dict(configs=[UCF + ":5shot"]), "leave out the words"),
        (dict(shots=[0]), "unknown config word '0shot'"),
        (dict(variants=["depth=3"]), "variant 'depth=3' is not one of attention"),
        (dict(variants=["generator="]), "followed by =value"),
        (dict(methods=["mbt"], variants=["generator=none"]), "means nothing to mbt: .* avdiff"),
        (dict(overrides=["--config.seed=3"]), "--config.seed=3: use --seeds"),
        (dict(overrides=["--config.model.dims=3"]), r"--config.model.dims=3: .* mean model.dim\?"),
        (dict(overrides=["--config.model.dim=x"]), "model.dim=x must be a whole number"),
        (dict(methods=["ncm"], overrides=["--config.model.attention=full"]),
         "means nothing to method=ncm"),
        (dict(configs=[UCF, str(ROOT / "configs/vggsound.py")],
              overrides=["--config.dataset=ucf"]), "are both dataset=ucf"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(tmp_path, more, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        small_grid(tmp_path, **more)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------- rows and class splits


def test_a_setting_behind_a_method_is_its_row():
    found = benchmark.rows(
        ["avdiff", "avdiff", "generator=none", "avdiff", "diffusion.steps=50", "generator=none",
         "avdiff", "generator=diffusion", "ncm"]
    )
    assert found == [
        ("avdiff", ()), ("avdiff", NONE), ("avdiff", (*NONE, ("diffusion.steps", "50"))),
        ("ncm", ()),
    ]


@pytest.mark.parametrize("methods", [["generator=none"], ["all", "generator=none"]])
def test_a_setting_of_no_method_is_one_sentence(methods):
    with pytest.raises(UserError, match="is a setting of no method: write avdiff,generator=none"):
        benchmark.rows(methods)


def split_grid(tmp_path, **more):
    store, _ = tiny.world()
    given = dict(
        configs=[OWN], shots=[2], overrides=[f"--config.data.store={store}"],
        splits=ClassSplits(2, base=6, novel1=3, novel2=3),
    )
    return small_grid(tmp_path, **{**given, **more})


def test_all_rows_of_a_split_share_its_file(tmp_path):
    grid = split_grid(tmp_path, seeds=[42, 43])
    assert [(run.split, run.seed, run.key.label) for run in grid] == [
        (split, seed, name) for split in (0, 1) for seed in (42, 43) for name in ("avdiff", "ncm")
    ]
    run = grid[-1]
    path = tmp_path / "splits" / "own-tiny-2shot-6-3-3" / "split1.json"
    assert run.workdir == tmp_path / "own-tiny-2shot" / "ncm" / "split1-seed43"
    assert f"--config.data.split={path}" in run.arguments()
    assert run.config["data"]["split"] == str(path) and str(run).endswith("ncm split 1 seed 43")
    assert not path.exists()


def test_splits_are_made_once_and_stay(tmp_path):
    grid, splits = split_grid(tmp_path), ClassSplits(2, base=6, novel1=3, novel2=3)
    first, second = splits.make(grid)
    one, two = split_file.load(first), split_file.load(second)
    assert (one["seed"], two["seed"]) == (0, 1) and one["classes"] != two["classes"]
    assert one["sets"]["train2_novel"] != two["sets"]["train2_novel"]
    assert stages.describe_origin(two) == stages.SplitOrigin("synthetic", "group", (6, 3, 3), 1)
    text = first.read_text().replace('"synthetic"', '"other"')
    first.write_text(text)
    second.unlink()
    assert splits.make(grid) == [second] and split_file.load(second) == two
    assert first.read_text() == text


@pytest.mark.parametrize(
    "more, complaint",
    [
        (dict(overrides=["--config.data.split=s.json"]), "use either it or --splits"),
        (dict(configs=[str(ROOT / "configs" / "synthetic.py")], overrides=[]), "needs a store"),
    ],
)
def test_what_cannot_be_split_is_one_sentence(tmp_path, more, complaint):
    with pytest.raises(UserError, match=complaint):
        split_grid(tmp_path, **more)
