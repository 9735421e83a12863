"""The grid of runs, its tables beside the paper's, and A against B: on made-up finished runs."""

import copy
import csv
import importlib.util
import io
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from avdiff_jax import metrics
from avdiff_jax.cli import configuration
from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import plain
from avdiff_jax.methods import METHODS
from avdiff_jax.results import benchmark, paired, plots, runs, tables
from avdiff_jax.results.results_json import results_json, write_results
from avdiff_jax.results.runs import Key
from tests import ROOT

UCF = str(ROOT / "configs" / "ucf.py")
NONE = (("generator", "none"),)
GAUSSIAN = (("generator", "gaussian"),)
# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def launch():
    """launch/benchmark.py as a module."""
    spec = importlib.util.spec_from_file_location("_benchmark", ROOT / "launch" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(printed: str) -> list[str]:
    """The lines of a table on a terminal, with single spaces."""
    return [" ".join(line.split()) for line in printed.splitlines()]


def call(capsys, *argv) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        launch().main([*map(str, argv)])
    return stopped.value.code, *capsys.readouterr()


def config(words="5shot,method=avdiff", seed=42, file=UCF, *overrides) -> dict:
    return plain(configuration.resolve(f"{file}:{words}", [*overrides, f"--config.seed={seed}"]))


def outcome(config: dict, numbers, wall=90.0) -> dict:
    """results.json of draws given as (B, N, FSL)."""
    points = [
        metrics.Point(0.3, b, n, float(metrics.harmonic_mean(b, n)), fsl) for b, n, fsl in numbers
    ]
    areas = [point.B / 2 for point in points]
    draws = [{**p._asdict(), "AUSUC": area} for p, area in zip(points, areas, strict=True)]
    return results_json(
        test={**metrics.aggregate(points, areas), "draws": draws},
        validation={}, chosen={}, config=config, device="cpu",
        timing={"wall_seconds": wall, "stage1_substage1": 12.0},
    )


def finish(workdir, words="5shot,method=avdiff", seed=42, numbers=None, overrides=(), **more):
    """A made-up finished run."""
    given = numbers or [(70.0, 40.0, 45.0), (72.0, 44.0, 47.0), (74.0, 42.0, 49.0)]
    made = outcome(config(words, seed, UCF, *overrides), given, **more)
    write_results(workdir, made)
    return runs.Finished(Path(workdir), made)


class FakeMain:
    """Stands for launch/main.py: writes what a run writes, or fails as told."""

    def __init__(self, grid, failing=()):
        self.by_workdir = {run.workdir: run for run in grid}
        self.failing, self.calls = failing, []

    def __call__(self, arguments, log):
        self.calls.append(list(arguments))
        (workdir,) = (a.split("=", 1)[1] for a in arguments if a.startswith("--workdir="))
        run = self.by_workdir[Path(workdir)]
        if run.key.method in self.failing:
            log.write_text("Traceback\nerror: out of memory\n\n")
            return 1
        write_results(run.workdir, outcome(run.config, [(60.0, 30.0, 35.0), (62.0, 32.0, 37.0)]))
        return 0


def small_grid(tmp_path, **more):
    given = dict(configs=[UCF], methods=["avdiff", "ncm"], shots=[5], seeds=[42], root=tmp_path)
    return benchmark.grid(**{**given, **more})


# ------------------------------------------------------------------------------ the grid


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


# ------------------------------------------------------------------- states and execution


def test_missing_is_run_interrupted_resumed_and_done_skipped(tmp_path):
    grid = small_grid(tmp_path, methods=["avdiff", "ncm", "linear"])
    done, begun, missing = grid
    write_results(done.workdir, outcome(done.config, [(1.0, 2.0, 3.0)]))
    begun.workdir.mkdir(parents=True)
    (begun.workdir / "config.json").write_text(json.dumps(begun.config))
    assert [benchmark.state(run) for run in grid] == ["done", "interrupted", "missing"]
    *lines, total = [line for line in benchmark.plan(grid).splitlines() if line[0] != " "]
    assert total == "3 runs: 1 to do, 1 interrupted, 1 done"
    assert [line.split()[0] for line in lines] == ["skip", "resume", "run"]
    main = FakeMain(grid)
    assert benchmark.execute(grid, main) == []
    assert main.calls == [begun.arguments(resume=True), missing.arguments()]
    assert benchmark.execute(grid, main) == [] and len(main.calls) == 2
    assert [benchmark.state(run) for run in grid] == ["done"] * 3


@pytest.mark.parametrize("file", ["config.json", "results.json"])
def test_a_workdir_of_another_configuration_stops_all_before_anything_runs(tmp_path, file):
    grid = small_grid(tmp_path)
    other = copy.deepcopy(grid[1].config)
    other["train"]["batch"] = 16
    grid[1].workdir.mkdir(parents=True)
    content = outcome(other, [(1.0, 2.0, 3.0)]) if file == "results.json" else other
    (grid[1].workdir / file).write_text(json.dumps(content))
    main = FakeMain(grid)
    with pytest.raises(UserError, match=r"train\.batch=16, now 64 .* another --root"):
        benchmark.execute(grid, main)
    assert main.calls == []


def test_a_failure_does_not_stop_the_rest(tmp_path):
    grid = small_grid(tmp_path, methods=["avdiff", "mbt", "ncm"])
    main = FakeMain(grid, failing=["mbt"])
    (failure,) = benchmark.execute(grid, main)
    assert len(main.calls) == 3
    assert (failure.run, failure.code, failure.reason) == (grid[1], 1, "error: out of memory")
    report = benchmark.failure_report([failure])
    assert report == (
        f"failed (exit 1): ucf 5-shot mbt seed 42: error: out of memory [{grid[1].log}]"
    )
    cells = benchmark.finished(grid)
    assert [len(members) for members in cells.values()] == [1, 0, 1]
    text = tables.markdown(tables.benchmark_table(cells))
    assert "| ucf | 5 | mbt | – | – (80.61) | – (32.72) | – (46.55) | – (34.53) | – | – |" in text


def test_success_without_results_is_a_failure(tmp_path):
    (failure,) = benchmark.execute(small_grid(tmp_path, methods=["ncm"]), lambda *_: 0)
    assert failure.code == 1 and failure.reason == "it printed nothing"


def test_progress_counts_the_runs_that_are_left(tmp_path):
    grid = small_grid(tmp_path)
    write_results(grid[0].workdir, outcome(grid[0].config, [(1.0, 2.0, 3.0)]))
    seen = []

    class Bar:
        def __init__(self, total, label):
            seen.append(total)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def step(self, n, note):
            seen.append((n, note))

    benchmark.execute(grid, FakeMain(grid), progress=Bar)
    assert seen == [1, (0, str(grid[1])), (1, str(grid[1]))]


def test_a_process_writes_its_log_and_gives_its_exit_code(tmp_path):
    program = "import sys; print('out', *sys.argv[1:]); print('bad', file=sys.stderr); sys.exit(3)"
    log = tmp_path / "x.log"
    assert benchmark.start_process([sys.executable, "-c", program], ["--a=1"], log) == 3
    assert sorted(log.read_text().split("\n")) == ["", "bad", "out --a=1"]


def test_a_stop_signal_lets_the_process_save(tmp_path):
    program = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_): pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)"
    )
    log, saved = tmp_path / "x.log", tmp_path / "saved"

    def ready_then_interrupt(*_):
        deadline = time.monotonic() + 20
        while "ready" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ready_then_interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            benchmark.start_process([sys.executable, "-c", program], [str(saved)], log)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert saved.read_text() == "saved"


# ------------------------------------------------------------------------- the benchmark's table


def two_rows(tmp_path) -> dict:
    return runs.group([
        finish(tmp_path / "a42", seed=42),
        finish(tmp_path / "a43", seed=43, wall=150.0,
               numbers=[(80.0, 50.0, 55.0), (80.0, 50.0, 55.0), (80.0, 50.0, 55.0)]),
        finish(tmp_path / "ncm", "5shot,method=ncm", numbers=[(90.0, 20.0, 30.0)]),
    ])


def test_rows_are_means_over_seeds_with_the_spread_over_all_draws(tmp_path):
    found = runs.summary(two_rows(tmp_path)[Key("ucf", 5, "avdiff")])
    assert (found.seeds, found.draws, found.seconds) == (2, 6, 120.0)
    assert found.mean["B"] == pytest.approx((72 + 80) / 2)
    hm = metrics.harmonic_mean
    assert found.mean["HM"] == pytest.approx((hm(72, 42) + hm(80, 50)) / 2)
    assert found.std["B"] == pytest.approx(np.std([70, 72, 74, 80, 80, 80], ddof=1))
    draws = [hm(70, 40), hm(72, 44), hm(74, 42), *[hm(80, 50)] * 3]
    assert found.std["HM"] == pytest.approx(np.std(draws, ddof=1))


def test_a_resumed_run_took_at_least_as_long_as_its_phases(tmp_path):
    assert runs.summary([finish(tmp_path, wall=3.0)]).seconds == 12.0


def test_the_table_has_bold_spread_paper_and_time(tmp_path):
    text = tables.markdown(tables.benchmark_table(two_rows(tmp_path)))
    header, _, avdiff, ncm = text.splitlines()[2:6]
    assert header == (
        "| data set | shots | method | seeds x draws | B | N | HM | FSL | AUSUC | minutes |"
    )
    assert avdiff == (
        "| ucf | 5 | avdiff | 2 x 3 | 76.00 ± 4.56 (74.11) | **46.00** ± 4.56 (50.35) | "
        "**57.30** ± 4.81 (59.96) | **51.00** ± 4.56 (51.45) | 38.00 ± 2.28 | 2.00 |"
    )
    # One draw has no spread; the paper has no such method; the best B and AUSUC are here.
    assert ncm == (
        "| ucf | 5 | ncm | 1 x 1 | **90.00** | 20.00 | 32.73 | 30.00 | **45.00** | 1.50 |"
    )


def test_best_is_per_data_set_and_shots_and_shared_by_what_prints_alike(tmp_path):
    cells = runs.group([
        finish(tmp_path / "a", numbers=[(50.001, 30.0, 30.0)]),
        finish(tmp_path / "b", "5shot,method=ncm", numbers=[(50.0, 20.0, 20.0)]),
        finish(tmp_path / "c", "1shot,method=ncm", numbers=[(10.0, 20.0, 20.0)]),
        finish(tmp_path / "d", "1shot,method=mbt", numbers=[(90.0, 10.0, 20.0)]),
        finish(tmp_path / "e", "10shot,method=mbt", numbers=[(99.0, 99.0, 99.0)]),
    ])
    table = tables.benchmark_table(cells)
    best = {(t[1], t[2]): [e.best for e in entries[:2]] for t, entries in table.rows}
    assert best == {
        ("1", "mbt"): [True, False], ("1", "ncm"): [False, True],
        ("5", "avdiff"): [True, True], ("5", "ncm"): [True, False],
        ("10", "mbt"): [False, False],  # alone
    }
    assert not any(entries[-1].best for _, entries in table.rows)  # slow is not good


def test_csv_and_latex_say_the_same(tmp_path):
    table = tables.benchmark_table(two_rows(tmp_path) | {Key("ucf", 5, "avdiff", NONE): []})
    read = list(csv.DictReader(io.StringIO(tables.csv_text(table))))
    assert [row["method"] for row in read] == ["avdiff", "ncm", "avdiff,generator=none"]
    assert float(read[0]["B"]) == 76.0 and float(read[0]["B_paper"]) == 74.11
    assert float(read[0]["B_std"]) == pytest.approx(4.5607, abs=1e-4)
    assert (read[1]["B_std"], read[1]["B_paper"], read[2]["B"]) == ("", "", "")
    lines = tables.latex(table).splitlines()
    assert lines[1] == r"\begin{tabular}{llllrrrrrr}" and lines[-1] == r"\end{tabular}"
    body = [line for line in lines if line.endswith(r"\\")]
    assert [line.count("&") for line in body] == [9] * 4
    assert r"\textbf{46.00} $\pm$ 4.56 (50.35)" in body[1] and "& -- &" in body[3]
    assert "booktabs" not in tables.latex(table) and "rule" not in tables.latex(table)
    fusion = table._replace(rows=[(("a_b&c", "5", "x", "y"), table.rows[0][1])])
    assert r"a\_b\&c &" in tables.latex(fusion)


# ------------------------------------------------------------------------------- grouping


def test_runs_are_grouped_by_what_departs_from_the_usual(tmp_path):
    folder = tmp_path / "runs"
    finish(folder / "a", seed=42)
    finish(folder / "b", seed=43)
    finish(folder / "again", seed=43)  # the same run in another folder counts once
    finish(folder / "deep" / "t", overrides=["--config.diffusion.steps=50"])
    finish(folder / "proto", "5shot,condition=prototype,generator=none")
    finish(folder / "ncm", "5shot,method=ncm")
    cells = runs.group(runs.find([folder, folder / "a"]))
    assert {key.label: [r.config["seed"] for r in found] for key, found in cells.items()} == {
        "avdiff": [42, 43],
        "avdiff,diffusion.steps=50": [42],
        "avdiff,condition=prototype,generator=none": [42],
        "ncm": [42],
    }


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


# --------------------------------------------------------------------------- the paper's tables


def test_the_papers_tables(tmp_path):
    finish(tmp_path / "main", numbers=[(70.0, 40.0, 45.0)])
    finish(tmp_path / "one", "1shot", numbers=[(60.0, 30.0, 35.0)])
    finish(tmp_path / "twenty", "20shot,method=mbt", numbers=[(81.0, 41.0, 43.0)])
    finish(tmp_path / "cross", "5shot,attention=cross", numbers=[(71.0, 41.0, 46.0)])
    finish(tmp_path / "gan", "5shot,method=avgan", numbers=[(72.0, 30.0, 31.0)])
    finish(tmp_path / "none", "5shot,generator=none", numbers=[(73.0, 20.0, 32.0)])
    finish(tmp_path / "audio", "5shot,modality=audio", numbers=[(50.0, 20.0, 33.0)])
    finish(tmp_path / "proto", "5shot,condition=prototype", numbers=[(52.0, 22.0, 34.0)])
    finish(tmp_path / "t50", overrides=["--config.diffusion.steps=50"], numbers=[(9.0, 8.0, 7.0)])
    made = {t.name: t for t in tables.paper_tables(runs.group(runs.find([tmp_path]), ucf_default))}
    shown = {
        name: {row[:len(table.heads)]: row[len(table.heads):] for row in printed(table)}
        for name, table in made.items()
    }
    two = shown["table2"]
    assert two["ucf", "avdiff"] == (
        "40.00 (51.50)", "35.00 (39.89)", "**50.91** (59.96)", "**45.00** (51.45)",
    )
    # of what was run, nothing is empty: no 10-shot columns, no rows of other methods
    assert two.keys() == {("ucf", name) for name in ("avdiff", "avdiff,generator=none", "avgan")}
    assert made["table2"].numbers == ("1-shot HM", "1-shot FSL", "5-shot HM", "5-shot FSL")
    assert two["ucf", "avdiff,generator=none"][3] == "32.00"
    assert shown["supplement1"]["ucf", "20", "mbt"] == (
        "81.00 (81.73)", "41.00 (42.35)", "54.44 (55.80)", "43.00 (44.58)",
    )
    assert len(shown["supplement1"]) == 5
    assert shown["table3"] == {
        ("ucf", "cross"): (
            "**71.00** (82.89)", "**41.00** (44.33)", "**51.98** (57.77)", "**46.00** (47.02)"),
        ("ucf", "hybrid"): ("70.00 (74.11)", "40.00 (50.35)", "50.91 (59.96)", "45.00 (51.45)"),
    }
    assert [row[1] for row in shown["table4"]] == ["avgan", "none", "diffusion"]
    assert shown["table4"]["ucf", "avgan"][3] == "31.00 (37.33)"
    assert shown["table4"]["ucf", "none"][0] == "**73.00**"
    assert shown["table5"]["ucf", "audio"][0] == "50.00 (55.31)"
    assert shown["table5"]["ucf", "both"][0] == "**70.00** (74.11)"
    assert shown["table6"]["ucf", "prototype"][0] == "52.00 (83.38)"
    assert shown["figure1"] == {
        ("ucf", "5", "50"): ("9.00", "8.00", "8.47", "7.00"),
        ("ucf", "5", "200"): ("**70.00**", "**40.00**", "**50.91**", "**45.00**"),
    }


def ucf_default(dataset, shots):
    return config(f"{shots}shot") if dataset == "ucf" else {}


def printed(table) -> list[tuple[str, ...]]:
    """The cells of the Markdown, row by row."""
    lines = [line for line in tables.markdown(table).splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def test_the_picture_of_a_sweep_shows_its_numbers(tmp_path):
    def draw(means):
        path = tmp_path / "sweep.png"
        spreads = {name: [1.0] * 3 for name in means}
        return plots.sweep_plot([50, 100, 200], means, spreads, "T", path), path

    one, path = draw({"B": [70.0, 71.0, 72.0], "N": [40.0, 44.0, 42.0]})
    assert path.is_file() and one.dtype == np.uint8 and one.shape[2] == 3
    other, _ = draw({"B": [70.0, 71.0, 72.0], "N": [40.0, 41.0, 42.0]})
    assert (one != other).any()


def test_a_table_that_would_compare_nothing_is_left_out(tmp_path):
    made = tables.paper_tables(runs.group([
        finish(tmp_path / "a"), finish(tmp_path / "b", "5shot,modality=audio"),
        finish(tmp_path / "c", overrides=["--config.dataset=mine"]),
        finish(tmp_path / "d", "5shot,modality=video", overrides=["--config.dataset=mine"]),
    ]))
    assert [table.name for table in made] == ["table2", "table5", "supplement1"]
    assert [texts for texts, _ in made[0].rows] == [("ucf", "avdiff")]  # the paper's only
    assert [texts for texts, _ in made[1].rows] == [
        ("ucf", "audio"), ("ucf", "both"), ("mine", "video"), ("mine", "both"),
    ]


def test_the_legend_explains_what_is_there(tmp_path):
    parts = ("In parentheses the paper's number.", "Bold:", "A dash:", "minutes:")

    def told(cells):
        return [part in tables.markdown(tables.benchmark_table(cells)) for part in parts]

    assert told(two_rows(tmp_path)) == [True, True, False, True]
    mine = finish(tmp_path / "mine", overrides=["--config.dataset=mine"])
    assert told(runs.group([mine])) == [False, False, False, True]
    assert told(runs.group([mine]) | {Key("mine", 5, "ncm"): []}) == [False, False, True, True]


OWN = str(ROOT / "configs" / "own.py")


def own(workdir, store, method="avdiff", seed=42):
    """A finished run on a user's own store."""
    made = outcome(config(f"5shot,method={method}", seed, OWN, f"--config.data.store={store}",
                          "--config.data.split=s.json"), [(60.0, 30.0, 35.0), (62.0, 32.0, 37.0)])
    write_results(workdir, made)


def test_own_data_sets_go_by_their_stores(tmp_path, capsys):
    for store in ("utd", "auslan"):
        for method in ("avdiff", "ncm"):
            own(tmp_path / store / method, f"data/{store}.h5", method)
    code, out, _ = call(capsys, "tables", tmp_path)
    assert code == 0 and "data.store" not in out
    for name in ("own-auslan", "own-utd"):
        assert any(row.startswith(f"{name} 5 ncm 1 x 2") for row in rows(out))
    words = ("compare", "avdiff", "ncm", f"--root={tmp_path}")
    code, out, _ = call(capsys, *words)
    assert code == 0 and "2 data sets; --dataset=own-auslan shows one of them." in out
    assert "**own-auslan, 5-shot: A" in out and "**own-utd, 5-shot: A" in out
    code, out, _ = call(capsys, *words, "--dataset=own-utd")
    assert code == 0 and "own-auslan" not in out and "**own-utd, 5-shot: A" in out
    code, _, err = call(capsys, *words, "--dataset=utd")
    assert code == 2 and "there are runs on own-auslan, own-utd only" in err
    run, = benchmark.grid(
        configs=[OWN], methods=["ncm"], shots=[5], seeds=[1], root=tmp_path,
        overrides=["--config.data.store=data/utd.h5", "--config.data.split=s.json"])
    assert run.workdir == tmp_path / "own-utd-5shot" / "ncm" / "seed1"


# ---------------------------------------------------------------------------------- A against B


def test_paired_by_hand():
    """d = 1, 2, 3, 6: mean 3, s^2 = 14/3, t(3, 0.975) = 3.182446."""
    d = paired.paired([11, 22, 33, 46], [10, 20, 30, 40])
    half = 3.182446 * np.sqrt(14 / 3) / 2
    assert (d.a, d.b, d.mean, d.ahead, d.n) == (28, 25, 3, 4, 4)
    assert d.interval == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert paired.paired([1, 5, 2], [3, 1, 2]).ahead == 1
    assert paired.paired([1], [2]).interval is None


def compared(tmp_path):
    """Two rows over two seeds, with differences in B of 1, 3, 2, 6 and in N of -1 each."""
    a, b = tmp_path / "ucf-5shot" / "avdiff", tmp_path / "ucf-5shot" / "avdiff-generator=none"
    for seed, gains in ((42, (1, 3)), (43, (2, 6))):
        finish(a / f"seed{seed}", seed=seed, numbers=[(50 + g, 39, 40) for g in gains])
        finish(b / f"seed{seed}", "5shot,generator=none", seed, [(50, 40, 40)] * 2)
    return a, b


def test_compare_pairs_seeds_and_draws(tmp_path, capsys):
    a, b = compared(tmp_path)
    by_folder = call(capsys, "compare", a, b)
    by_name = call(capsys, "compare", "avdiff", "avdiff,generator=none", f"--root={tmp_path}")
    for code, text, _ in (by_folder, by_name):
        assert code == 0
        half = 3.182446 * np.std([1, 3, 2, 6], ddof=1) / 2
        interval = f"{3 - half:+.2f} to {3 + half:+.2f}"
        assert f"| B | 53.00 | 50.00 | +3.00 | {interval} | 4 of 4 |" in text
        assert "| N | 39.00 | 40.00 | -1.00 | -1.00 to -1.00 | 0 of 4 |" in text
        assert "| AUSUC |" in text and "paired t-interval" in text and "share a base model" in text
        assert "n = 4 pairs: seeds 42, 43 x 2 draws" in text
        assert "The two differ in: generator." in text


def test_a_run_without_a_partner_is_named(tmp_path, capsys):
    a, b = compared(tmp_path)
    (b / "seed43" / "results.json").unlink()
    code, text, _ = call(capsys, "compare", a, b)
    assert code == 0 and "n = 2 pairs: seeds 42 x 2 draws" in text
    assert f"{a / 'seed43'} has no partner and is left out." in text


def scores(workdir, clips):
    arrays = {"clips": np.array(clips), "labels": np.arange(len(clips))}
    np.savez(Path(workdir) / "scores-draw0.npz", **arrays)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (dict(overrides=["--config.data.split=other.json"]), r"data\.split= and .* other\.json"),
        (dict(overrides=["--config.data.shuffle_labels=true"]), r"data\.shuffle_labels"),
        (dict(numbers=[(1.0, 2.0, 3.0)]), "3 draws and .* has 1"),
        (dict(seed=43), "nothing to pair: A has ucf 5-shot seed 42 and B has ucf 5-shot seed 43"),
        (dict(words="1shot,method=ncm"), "B has ucf 1-shot seed 42"),
        (dict(clips=["x", "z"]), r"scores-draw0\.npz hold other clips"),
        (dict(split="{}"), r"split\.json hold other clips"),
    ],
)
def test_runs_on_other_data_are_refused(tmp_path, change, complaint):
    change = dict(change)
    clips, split = change.pop("clips", ["x", "y"]), change.pop("split", "[]")
    a = finish(tmp_path / "a")
    b = finish(tmp_path / "b", **{"words": "5shot,method=ncm", **change})
    for run, names, text in ((a, ["x", "y"], "[]"), (b, clips, split)):
        scores(run.workdir, names)
        (run.workdir / "split.json").write_text(text)
    with pytest.raises(UserError, match=complaint):
        paired.report([a], [b], ("a", "b"))


def test_the_same_clips_are_accepted(tmp_path):
    a, b = finish(tmp_path / "a"), finish(tmp_path / "b", "5shot,method=ncm")
    for run in (a, b):
        scores(run.workdir, ["x", "y"])
    assert "n = 3 pairs" in paired.report([a], [b], ("a", "b"))


def test_two_runs_of_the_same_seed_on_one_side_are_refused(tmp_path):
    two = [finish(tmp_path / "a"), finish(tmp_path / "b", "5shot,method=ncm")]
    with pytest.raises(UserError, match="are both ucf 5-shot seed 42"):
        paired.pairs(two, two)


# ----------------------------------------------------------------------------------- the command


def test_the_command_runs_reports_and_writes(tmp_path, capsys, monkeypatch):
    grid = small_grid(tmp_path, methods=["avdiff", "mbt"], seeds=[7],
                      overrides=["--config.train.batch=32"])
    main = FakeMain(grid, failing=["mbt"])
    commands = []

    def start(command, arguments, log):
        commands.append(command)
        return main(arguments, log)

    monkeypatch.setattr(benchmark, "start_process", start)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    argv = (f"--config={UCF}", "--methods=avdiff,mbt", "--seeds=7", f"--root={tmp_path}",
            "--config.train.batch=32")
    code, out, _ = call(capsys, *argv, "--dry-run")
    assert code == 0 and commands == [] and out.count("python launch/main.py") == 2
    code, out, err = call(capsys, *argv)
    assert code == 1 and "failed (exit 1): ucf 5-shot mbt seed 7: error: out of memory" in err
    assert commands == [[sys.executable, str(ROOT / "launch" / "main.py")]] * 2
    assert all("--config.train.batch=32" in call for call in main.calls)
    assert any(row.startswith("ucf 5 avdiff 1 x 2 61.00 ± 1.41 (74.11)") for row in rows(out))
    assert {p.name for p in tmp_path.glob("benchmark.*")} == {
        "benchmark.md", "benchmark.csv", "benchmark.tex",
    }
    main.failing = ()
    assert call(capsys, *argv)[0] == 0 and len(main.calls) == 3


def test_one_command_remakes_every_table(tmp_path, capsys):
    finish(tmp_path / "a")
    finish(tmp_path / "b", overrides=["--config.diffusion.steps=50"])
    code, out, _ = call(capsys, "tables", tmp_path, f"--out={tmp_path / 'out'}")
    assert code == 0
    names = ["benchmark", "table2", "supplement1", "figure1"]
    wanted = {f"{name}.{kind}" for name in names for kind in ("csv", "tex")}
    wanted |= {"tables.md", "figure1-ucf-5shot.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
    text = (tmp_path / "out" / "tables.md").read_text()
    numbers = re.compile(r"\d+\.\d\d\b")
    assert numbers.findall(text) == numbers.findall(out)
    for title in ("Test", "Table 2:", "Supplement, Table 1", "Supplement, Figure 1"):
        assert f"**{title}" in text
    # configs/ucf.py tells which T is the usual one.
    assert "| ucf | 5 | avdiff,diffusion.steps=50 |" in text


@pytest.mark.parametrize(
    "argv, complaint",
    [
        ([], "name a data set"),
        (["--config=configs/ucf.py", "--shots=x"], "--shots"),
        (["--config=configs/ucf.py", "--confg=3"], "unrecognized arguments: --confg=3"),
        (["--config=configs/ucf.py", "--methods=nmc"], "unknown method=nmc"),
        (["tables"], "required: DIR"),
        (["compare", "avdiff"], "required: B"),
        (["table", "runs"], "invalid choice: 'table'"),
        (["--config=configs/ucf.py", "--config.train.batch"], "write --config.field=value"),
        (["tables", "nowhere"], "nowhere is no folder"),
        (["tables", "x", "--config.seed=3"], "means nothing to finished runs"),
        (["compare", "avdiff", "ncm", "--root=nowhere"], "there is no folder nowhere"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(capsys, argv, complaint):
    code, out, err = call(capsys, *argv)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and complaint in err and err.count("\n") == 1


def test_an_unknown_row_lists_the_rows(tmp_path, capsys):
    finish(tmp_path / "a")
    code, _, err = call(capsys, "compare", "avdiff", "ncm", f"--root={tmp_path}")
    assert code == 2 and f"ncm is neither a folder nor a row below {tmp_path}: avdiff\n" in err


@pytest.mark.slow
def test_a_real_run_of_the_controls(tmp_path):
    argv = [sys.executable, str(ROOT / "launch" / "benchmark.py"), "--config=configs/synthetic.py",
            "--methods=ncm", f"--root={tmp_path}", "--config.data.synthetic.classes=12",
            "--config.data.synthetic.clips_per_class=20"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert any(row.startswith("synthetic 5 ncm 1 x 3") for row in rows(done.stdout))
    config = ConfigDict(json.loads(next(tmp_path.rglob("config.json")).read_text()))
    assert config.data.synthetic.classes == 12
