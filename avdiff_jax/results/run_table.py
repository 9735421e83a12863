"""The outcome of one run as a table: ours, the paper's row where there is one, each draw."""

from collections.abc import Mapping

from avdiff_jax.results import text_table
from avdiff_jax.results.paper import count_classes, describe_departures, paper_row
from avdiff_jax.results.results_json import NUMBERS, ablation, dataset
from avdiff_jax.results.text_table import TextTable

COLUMNS = (*NUMBERS, "AUSUC")


def markdown(results: Mapping) -> str:
    """The table as results.md has it."""
    return text_table.markdown(tabulate_run(results, bold="**{}**"))


def plain(results: Mapping) -> str:
    """The table for a terminal."""
    return text_table.plain(tabulate_run(results))


def tabulate_run(results: Mapping, bold: str = "{}") -> TextTable:
    """The table of a run; `bold` is the format of its first row."""
    config, test = results["config"], results["test"]
    draws, departures = test["draws"], ablation(config)
    published = paper_row(config["dataset"], config["shots"], config["method"], departures)
    # Another store under a benchmark configuration is not to be compared with the paper.
    beside_paper = bool(published) and len({*count_classes(results)}) == 1
    name = "ours" if beside_paper else config["method"]
    rows = [[_name_row(name, len(draws), bold), *write_numbers(test, bold), ""]]
    if published and beside_paper:
        rows.append(["paper", *(f"{published[name]:.2f}" for name in NUMBERS), "", ""])
    for i, draw in enumerate(draws):
        numbers = [f"{draw[name]:.2f}" if name in draw else "" for name in COLUMNS]
        rows.append([f"draw {i}", *numbers, f"{draw['gamma']:.4g}" if "gamma" in draw else ""])
    if len(draws) == 1:  # it is our own row
        rows[0][-1] = rows.pop()[-1]
    words = [dataset(config), f"{config['shots']}-shot", config["method"],
             *(f"{k} {v}" for k, v in departures.items())]
    return TextTable(
        title=f"{', '.join(words)}: test, percent", heads=["", *COLUMNS, "gamma"], rows=rows,
        notes=_notes(results, name),
    )


def _name_row(name: str, draws: int, bold: str) -> str:
    return bold.format(name) + (f", mean ± std of {draws} draws" if draws > 1 else ", one draw")


def write_numbers(test: Mapping, bold: str = "{}") -> list[str]:
    """The mean of each number, with its spread over draws where there are several."""
    cells = []
    for name in COLUMNS:
        cell = bold.format(f"{test['mean'][name]:.2f}") if name in test["mean"] else ""
        spreads = cell and len(test["draws"]) > 1
        cells.append(f"{cell} ± {test['std'][name]:.2f}" if spreads else cell)
    return cells


def _notes(results: Mapping, name: str) -> list[str]:
    notes = []
    if name == "ours" and (departures := describe_departures(results)):
        notes.append(f"Not the paper's experiment: {departures}.")
    if "HM" not in results["test"]["mean"]:
        unknown = [name for name in COLUMNS if name not in results["test"]["mean"]]
        kind = "base" if "B" in unknown else "novel"
        notes.append(f"No test clip is of a {kind} class: {', '.join(unknown)} not measured.")
    elif len(results["test"]["draws"]) > 1:
        notes.append(
            f"HM of {name} is that of the mean B and mean N, as in the paper; "
            f"the mean of the draws' own HM is {results['test']['mean_of_hm']:.2f}."
        )
    if "transductive" in results:
        notes.append("Transductive: the unlabelled test clips of each group moved its mean scores.")
    for name, choice in sorted(results.get("chosen", {}).items()):
        value = choice["value"]
        if value == []:  # the rate was never cut
            continue
        shown = f"{value:.4g}" if isinstance(value, float) else value
        notes.append(f"{name} = {shown}, chosen on {choice['on']}.")
    return notes
