"""Made-up finished runs, a stand-in for launch/main.py, and launch/benchmark.py as a module."""

import importlib.util
from pathlib import Path

import pytest

from avdiff_jax import metrics
from avdiff_jax.cli import configuration
from avdiff_jax.io.documents import plain
from avdiff_jax.results import benchmark, runs
from avdiff_jax.results.results_json import results_json, write_results
from tests import ROOT

UCF = str(ROOT / "configs" / "ucf.py")
NONE = (("generator", "none"),)
GAUSSIAN = (("generator", "gaussian"),)
OWN = str(ROOT / "configs" / "own.py")


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


def outcome(config: dict, numbers, wall=90.0, split: int | None = None) -> dict:
    """results.json of draws given as (B, N, FSL); `split` is the seed of the class split."""
    points = [
        metrics.Point(0.3, b, n, float(metrics.harmonic_mean(b, n)), fsl) for b, n, fsl in numbers
    ]
    areas = [point.B / 2 for point in points]
    draws = [{**p._asdict(), "AUSUC": area} for p, area in zip(points, areas, strict=True)]
    return results_json(
        test={**metrics.aggregate(points, areas), "draws": draws},
        validation={}, chosen={}, config=config, device="cpu",
        timing={"wall_seconds": wall, "stage1_substage1": 12.0},
        **({} if split is None else {"data": {"classes": 48, "split": origin(split)}}),
    )


def origin(seed: int) -> dict:
    """Of a class split."""
    return {"name": "ucf", "by": "group", "sizes": [24, 12, 12], "seed": seed}


def finish(workdir, words="5shot,method=avdiff", seed=42, numbers=None, overrides=(), **more):
    """A made-up finished run; more as of `outcome`."""
    given = numbers or [(70.0, 40.0, 45.0), (72.0, 44.0, 47.0), (74.0, 42.0, 49.0)]
    made = outcome(config(words, seed, UCF, *overrides), given, **more)
    write_results(workdir, made)
    return runs.Finished(Path(workdir), made)


class FakeMain:
    """Stands for launch/main.py: writes what a run writes, or fails as told."""

    def __init__(self, grid, failing=()):
        self.by_workdir = {run.workdir: run for run in grid}
        self.failing, self.calls = failing, []

    def stop(self):
        pass

    def run(self, arguments, log):
        self.calls.append(list(arguments))
        (workdir,) = (a.split("=", 1)[1] for a in arguments if a.startswith("--workdir="))
        run = self.by_workdir[Path(workdir)]
        if run.key.method in self.failing:
            log.write_text("Traceback\nerror: out of memory\n\n")
            return 1
        write_results(run.workdir, outcome(run.config, [(60.0, 30.0, 35.0), (62.0, 32.0, 37.0)]))
        return 0


def two_rows(tmp_path) -> dict:
    return runs.group([
        finish(tmp_path / "a42", seed=42),
        finish(tmp_path / "a43", seed=43, wall=150.0,
               numbers=[(80.0, 50.0, 55.0), (80.0, 50.0, 55.0), (80.0, 50.0, 55.0)]),
        finish(tmp_path / "ncm", "5shot,method=ncm", numbers=[(90.0, 20.0, 30.0)]),
    ])


def small_grid(tmp_path, **more):
    given = dict(configs=[UCF], methods=["avdiff", "ncm"], shots=[5], seeds=[42], root=tmp_path)
    return benchmark.grid(**{**given, **more})


def own(workdir, store, method="avdiff", seed=42):
    """A finished run on a user's own store."""
    made = outcome(config(f"5shot,method={method}", seed, OWN, f"--config.data.store={store}",
                          "--config.data.split=s.json"), [(60.0, 30.0, 35.0), (62.0, 32.0, 37.0)])
    write_results(workdir, made)
