"""The outcome of a run: results.json, and the table beside the paper's row."""

import contextlib
import importlib.metadata
import importlib.resources
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

import avdiff_jax
from avdiff_jax.cli.choices import fields
from avdiff_jax.errors import UserError
from avdiff_jax.io.files import plain, write_atomically
from avdiff_jax.io.text_files import text_of
from avdiff_jax.results.paper import CHOICES, paper, paper_row
from avdiff_jax.runtime import devices

SCHEMA = "avdiff_jax.results"
VERSION = 1
NUMBERS = ("B", "N", "HM", "FSL")


def dataset(config: Mapping) -> str:
    """What tables call the data set of a configuration: own-utd for data/utd.h5 with own.py."""
    name, store = config["dataset"], config.get("data", {}).get("store")
    return f"{name}-{Path(str(store)).stem}" if name == "own" and store else name


def versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    found = {"python": platform.python_version(), "avdiff_jax": avdiff_jax.__version__}
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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
        "schema": SCHEMA,
        "version": VERSION,
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
    content = json.dumps(plain(results), indent=2, sort_keys=True, ensure_ascii=False)
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content + "\n")
    return path


def read_results(path: str | Path) -> dict:
    """The content of a results.json, given by its path or by its workdir.

    Raises:
      UserError: missing, not JSON, not of this schema or version, or without test numbers.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    if not path.exists():
        raise UserError(
            f"{path} does not exist: name the workdir of a run that has finished, "
            "or finish it with --resume"
        )
    try:
        results = json.loads(text_of(path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): name another file") from None
    fields = results if isinstance(results, dict) else {}
    schema, version = fields.get("schema"), fields.get("version")
    if (schema, version) != (SCHEMA, VERSION):
        raise UserError(
            f"{path} has schema {schema!r} version {version!r} where {SCHEMA!r} version {VERSION} "
            "is read: name the results.json of a run of this code, or run again"
        )
    missing = {"mean", "mean_of_hm", "std", "draws"} - set(results.get("test") or {})
    if missing:
        raise UserError(f"{path} lacks {sorted(missing)} in its part 'test': run again")
    if part := _odd_part(results):
        raise UserError(f"{path} has a part {part!r} that no run writes: run again")
    return results


def _odd_part(results: Mapping) -> str | None:
    """The first part that `results_json` would not make so, as far as tables look at it."""

    def numbers(part, needed=()):
        return isinstance(part, dict) and set(needed) <= set(part) and all(
            isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n)
            for n in part.values()
        )

    config, test = results.get("config"), results["test"]
    kinds = {"dataset": str, "method": str, "shots": int, "seed": int}
    if not isinstance(config, dict) or any(
        not isinstance(config.get(name), kind) for name, kind in kinds.items()
    ) or any(not isinstance(config.get(part, {}), dict) for part in ("data", "diffusion", "model")
             ) or any(
        not isinstance(value, str | int | float | None) for _, value in fields(config)
    ):
        return "config"
    draws = test["draws"]
    if not isinstance(draws, list) or not draws or not numbers({"": test["mean_of_hm"]}) or any(
        not numbers(part, NUMBERS) for part in (test["mean"], *draws)
    ) or not numbers(test["std"], test["mean"]) or any(
        set(test["mean"]) - set(draw) for draw in draws
    ):
        return "test"
    if not numbers(results.get("timing")):
        return "timing"
    chosen, data = results.get("chosen", {}), results.get("data", {})
    if not isinstance(chosen, dict) or any(
        not isinstance(choice, dict) or not {"value", "on"} <= set(choice)
        for choice in chosen.values()
    ):
        return "chosen"
    if not isinstance(data, dict) or not isinstance(data.get("classes", 1), int):
        return "data"
    return None


def ablation(config: Mapping) -> dict[str, str]:
    """The choices in which a configuration departs from the main table, as `paper_row` takes them.

    A field that the configuration lacks counts as no departure.
    """
    found = {}
    for name, (path, usual) in CHOICES.items():
        value = config
        for field in path:
            value = value.get(field, {})
        if value and value != usual:
            found[name] = value
    return found


def table(results: Mapping) -> str:
    """The outcome of a run as Markdown: ours, the paper's row where there is one, each draw."""
    config, test = results["config"], results["test"]
    name, shots, method = config["dataset"], config["shots"], config["method"]
    departures = ablation(config)
    columns = (*NUMBERS, "AUSUC")
    ours = [
        f"**{test['mean'][name]:.2f}** ± {test['std'][name]:.2f}" if name in test["mean"] else ""
        for name in columns
    ]
    rows = [
        ["", *columns, "gamma"],
        ["---", *["---:"] * 6],
        [f"**ours**, mean ± std of {len(test['draws'])}", *ours, ""],
    ]
    published = paper_row(name, shots, method, departures)
    if published and _same_classes(name, results.get("data")):
        rows.append(["paper", *(f"{published[name]:.2f}" for name in NUMBERS), "", ""])
    for i, draw in enumerate(test["draws"]):
        numbers = [f"{draw[name]:.2f}" if name in draw else "" for name in columns]
        rows.append([f"draw {i}", *numbers, f"{draw['gamma']:.4g}" if "gamma" in draw else ""])
    words = [dataset(config), f"{shots}-shot", method, *(f"{k} {v}" for k, v in departures.items())]
    lines = [
        f"**{', '.join(words)}**: test, percent",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "HM of ours is that of the mean B and mean N, as in the paper; "
        f"the mean of the draws' own HM is {test['mean_of_hm']:.2f}.",
    ]
    for name, choice in sorted(results.get("chosen", {}).items()):
        lines.append(f"{name} = {choice['value']}, chosen on {choice['on']}.")
    return "\n".join(lines) + "\n"


def _same_classes(dataset: str, data: Mapping | None) -> bool:
    """Whether a run saw as many classes as the paper's data set of that name has: another store
    under a benchmark configuration is not to be compared with the paper."""
    if not data:
        return True
    return data["classes"] == paper()["counts_5shot"][dataset]["classes"]["all"]
