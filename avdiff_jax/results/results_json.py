"""The outcome of a run: results.json."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import avdiff_jax
from avdiff_jax.cli.choices import OF_WORD, fields, find_usual_value
from avdiff_jax.cli.configuration import differences, find_usual
from avdiff_jax.cli.upgrade import upgrade
from avdiff_jax.errors import UserError
from avdiff_jax.io import documents
from avdiff_jax.runtime import devices

NUMBERS = ("B", "N", "HM", "FSL")


class Test(TypedDict):
    """Percent by name (`NUMBERS`, AUSUC), over all draws and of each, with its gamma."""

    mean: dict[str, float]
    mean_of_hm: NotRequired[float]
    std: dict[str, float]
    draws: list[dict[str, float]]


class Choice(TypedDict):
    """A value and the set that it was chosen on."""

    value: Any
    on: str


class Config(TypedDict):
    """The fields of a configuration that tables look at."""

    dataset: str
    method: str
    shots: int
    seed: int
    data: NotRequired[dict]
    diffusion: NotRequired[dict]
    model: NotRequired[dict]


class SplitOrigin(TypedDict):
    """Where the split of a run comes from, as `data.splits.stages.SplitOrigin`."""

    name: str
    by: str
    sizes: list[int]
    seed: int | None


class Data(TypedDict):
    """What a run saw: the name of its store, how many classes, whether it is made up, its split."""

    store: NotRequired[str]
    classes: NotRequired[int]
    made_up: NotRequired[bool]
    split: NotRequired[SplitOrigin]


class Results(TypedDict):
    """What `results_json` makes, as far as tables and comparisons read it."""

    test: Test
    config: Config
    timing: dict[str, float]
    chosen: NotRequired[dict[str, Choice]]
    data: NotRequired[Data]
    transductive: NotRequired[str]


FILE = documents.Document("results file", Results, "run again", "avdiff_jax.results", 1)


def dataset(config: Mapping) -> str:
    """What tables call the data set of a configuration: own-utd for data/utd.h5 with own.py."""
    name, store = config["dataset"], config.get("data", {}).get("store")
    return f"{name}-{Path(str(store)).stem}" if name == "own" and store else name


def versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    numbers = {"python": platform.python_version(), "avdiff_jax": avdiff_jax.__version__}
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            numbers[name] = importlib.metadata.version(name)
    return numbers


def results_json(
    *,
    test: Mapping,
    validation: Mapping,
    chosen: Mapping,
    config: Mapping,
    device: Mapping | str,
    timing: Mapping,
    **more,
) -> dict:
    """The content of results.json.

    Args:
      test: `mean`, `mean_of_hm` and `std` (`metrics.aggregate` makes them) and `draws`, a list with
        `B`, `N`, `HM`, `FSL`, `AUSUC` (all percent) and `gamma` of each draw.
      validation: what was measured on Val, in any form.
      chosen: name -> {"value": ..., "on": the set it was chosen on}.
      config: the resolved configuration, nested.
      device: what the run ran on.
      timing: seconds by phase; the only part that two equal runs do not share.
      **more: further parts, for instance `generator`.
    """
    return {
        "schema": FILE.schema,
        "version": FILE.version,
        "test": test,
        "validation": validation,
        "chosen": chosen,
        "config": config,
        "device": device,
        "timing": timing,
        "versions": versions(),
        "flags": devices.flags(),
        **more,
    }


def write_results(workdir: str | Path, results: Mapping) -> Path:
    """Writes results.json atomically, with sorted keys; returns its path.

    Raises:
      ValueError: a number that is not finite, named by its place.
    """
    path = Path(workdir) / "results.json"
    documents.write(path, results)
    return path


def read_results(path: str | Path) -> dict:
    """The content of a results.json, given by its path or by its workdir.

    Raises:
      UserError: missing, not JSON, not of this schema or version, or not what a run writes.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    results = FILE.read(
        path, "name the workdir of a run that has finished, or finish it with --resume"
    )
    test = results["test"]
    parts = {"mean": test["mean"], "std": test["std"]}
    parts |= {f"draws[{i}]": draw for i, draw in enumerate(test["draws"])}
    for name, part in parts.items():
        if absent := sorted({*NUMBERS, *test["mean"]} - {*part}):
            raise UserError(
                f"results file {path}: test.{name}.{absent[0]} is missing: run again, on test "
                "clips of base and novel classes"
            )
    if not test["draws"]:
        raise UserError(f"results file {path}: test.draws is empty: run again")
    for name, value in fields(results["config"]):
        if not isinstance(value, str | int | float | None):
            raise UserError(f"results file {path}: config.{name} is {value}: run again")
    return {**results, "config": upgrade(results["config"])}


def compared_by(config: Mapping) -> dict[str, Any]:
    """What HParams compare a run by: data set, method, shots, seed, and every field in which it
    departs from the file of its data set."""
    fields = {name: ours for name, (ours, _) in differences(config, find_usual(config)).items()}
    fields.pop("data.store", None)  # the data set is called after it
    row = {name: config[name] for name in ("method", "shots", "seed")}
    return {"data set": dataset(config), **row, **fields}


def ablation(config: Mapping) -> dict[str, str]:
    """The choices in which a configuration departs from what is usual for its method, which is the
    main table for those of the paper, as `paper_row` takes them.

    A field that the configuration lacks counts as no departure.
    """
    departures = {}
    for name, choice in OF_WORD.items():
        value = config
        for part in choice.field.split("."):
            value = value.get(part, {})
        if value and value != find_usual_value(choice.field, config.get("method", "")):
            departures[name] = value
    return departures
