"""The numbers of the tables of the paper."""

import importlib.resources
import json
from collections.abc import Mapping

from avdiff_jax.cli.choices import OF_WORD
from avdiff_jax.cli.configuration import differences, find_usual
from avdiff_jax.results.results_json import ablation

# Fields that say where and how fast a run computes, or which of equal runs it is.
FREE = (
    "seed", "dataset", "data.store", "data.split", "data.residence", "data.synthetic.", "device.",
    "train.draws", "train.steps_per_dispatch", "eval.batch", "eval.generated",
)


def paper() -> dict:
    """Every number of the paper's tables, in percent.

    `main[dataset][shots][method]` (Table 2), `ablations_5shot[what][value][dataset]` (Tables 3-6,
    without the rows that repeat the main table) and `counts_5shot[dataset]` (Table 1).
    """
    file = importlib.resources.files("avdiff_jax").joinpath("paper.json")
    return json.loads(file.read_text(encoding="utf-8"))


def paper_row(
    dataset: str, shots: int, method: str, departures: Mapping[str, str] | None = None
) -> dict | None:
    """The paper's B, N, HM and FSL (percent) for a run, or None where it has none.

    Args:
      departures: words of choices and their values, such as {"attention": "cross"}; one that is
        left out has the value of the main table.
    """
    numbers = paper()
    choices = {word: choice.usual for word, choice in OF_WORD.items()}
    asked = {k: v for k, v in (departures or {}).items() if v != choices.get(k)}
    if not asked:
        row = numbers["main"].get(dataset, {}).get(str(shots), {}).get(method)
        if row or method != "avgan":
            return row
        asked = {"generator": "avgan"}  # Table 4 has AV-GAN as a choice of generator
    elif method != "avdiff":
        return None
    if shots != 5 or len(asked) > 1:
        return None
    ((name, value),) = asked.items()
    return numbers["ablations_5shot"].get(name, {}).get(value, {}).get(dataset)


def count_classes(results: Mapping) -> tuple[int, int]:
    """Counts the classes that a run saw, and those of the paper's data set of that name; equal
    where the run does not say."""
    theirs = paper()["counts_5shot"][results["config"]["dataset"]]["classes"]["all"]
    return results.get("data", {}).get("classes", theirs), theirs


def describe_departures(results: Mapping) -> str:
    """Says in what a run is another experiment than the paper's row of its data set and method:
    another store under that name, or another schedule than its configuration file has with or
    without the word `published`. Empty where it is the same."""
    config, (classes, of_paper) = results["config"], count_classes(results)
    parts = ["the features are made up"] if results.get("data", {}).get("made_up") else []
    parts += [f"{classes} classes, not {of_paper}"] if classes != of_paper else []
    words = [f"{word}={value}" for word, value in ablation(config).items()]
    ours = differences(config, find_usual(config, *words))
    published = differences(config, find_usual(config, *words, "published"))
    parts += [
        f"{name} = {value}, not {usual}"
        for name, (value, usual) in ours.items()
        if name in published and None not in (value, usual) and not name.startswith(FREE)
    ]
    return "; ".join(parts)
