"""Tables of many runs beside the paper's numbers, as Markdown, CSV and LaTeX.

The benchmark's own table has one row for each data set, shots and method. Tables 2 to 6 of the
paper, Table 1 of its supplement and Figure 1 of its supplement are remade from finished runs.
"""

import csv
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avdiff_jax.cli.choices import OF_WORD
from avdiff_jax.io.files import write_text
from avdiff_jax.results import plots, text_table
from avdiff_jax.results.paper import describe_departures, paper, paper_row
from avdiff_jax.results.results_json import NUMBERS
from avdiff_jax.results.runs import MEASURES, ROWS, Finished, Key, Setting, Summary, summary
from avdiff_jax.results.text_table import Marks, TextTable

Cells = Mapping[Key, Sequence[Finished]]
LEGEND = (
    "Percent; mean over seeds of the paper's aggregate (HM is that of the mean B and mean N) ± "
    "sample standard deviation over all seeds x draws."
)
OVER_SPLITS = "Over several class splits: their mean ± half of its 95 % t-interval."


class Entry(NamedTuple):
    """One number of a table, what it spreads by, and what the paper has there."""

    mean: float | None = None
    spread: float | None = None
    paper: float | None = None
    best: bool = False


class Table(NamedTuple):
    """A table in no particular notation.

    name: of its files. heads: columns of text. numbers: columns of entries.
    rows: (texts, entries) each. note: what the legend does not say.
    """

    name: str
    title: str
    heads: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: list[tuple[tuple[str, ...], list[Entry]]]
    note: str = ""


# ------------------------------------------------------------------------------ notations


def markdown(table: Table) -> str:
    """The table, its title and its legend."""
    return text_table.markdown(write_out(table, text_table.MARKDOWN))


def plain(table: Table) -> str:
    """The same for a terminal."""
    return text_table.plain(write_out(table, text_table.PLAIN))


def latex(table: Table) -> str:
    """A plain tabular that needs no package."""
    return text_table.latex(write_out(table, text_table.LATEX))


def write_out(table: Table, marks: Marks) -> TextTable:
    """Writes the numbers out, and a legend of the marks that occur."""
    rows = [[*texts, *(_text(e, marks) for e in entries)] for texts, entries in table.rows]
    entries = [entry for _, entries in table.rows for entry in entries]
    explained = (
        ("In parentheses the paper's number.", any(e.paper is not None for e in entries)),
        (f"{marks.called}: best of ours for the data set and shots.", any(e.best for e in entries)),
        ("A dash: no finished run.", any(e.mean is None for e in entries)),
        (table.note, table.note),
    )
    legend = " ".join([LEGEND, *(text for text, there in explained if there)])
    heads = [*table.heads, *table.numbers]
    return TextTable(table.title, heads, rows, len(table.heads), [legend])


def _text(entry: Entry, marks: Marks) -> str:
    if entry.mean is None:
        text = marks.dash
    else:
        text = f"{entry.mean:.2f}"
        text = marks.bold.format(text) if entry.best else text
        text += "" if entry.spread is None else f" {marks.plus_minus} {entry.spread:.2f}"
    return text if entry.paper is None else f"{text} ({entry.paper:.2f})"


def csv_text(table: Table) -> str:
    """One line a row; a number has columns for its mean, `_spread` and `_paper`, empty where there
    is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    numbers = [f"{name}{part}" for name in table.numbers for part in ("", "_spread", "_paper")]
    writer.writerow([*table.heads, *numbers])
    for texts, entries in table.rows:
        values = [value for entry in entries for value in entry[:3]]
        writer.writerow([*texts, *("" if v is None else round(v, 4) for v in values)])
    return file.getvalue()


def write(tables: Sequence[Table], folder: str | Path, name: str) -> list[Path]:
    """All tables in NAME.md, and each in its own .csv and .tex; returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{name}.md": "\n\n".join(markdown(table) for table in tables)}
    for table in tables:
        contents |= {f"{table.name}.csv": csv_text(table), f"{table.name}.tex": latex(table)}
    for file, content in contents.items():
        write_text(folder / file, content)
    return [folder / file for file in contents]


# --------------------------------------------------------------------- the benchmark's table


def benchmark_table(cells: Cells) -> Table:
    """One row for each key, with the wall time of a run; a key without runs is a row of dashes."""
    summaries = {key: summary(runs) if runs else None for key, runs in cells.items()}
    several = any(whole and whole.splits > 1 for whole in summaries.values())
    rows = []
    for key, whole in summaries.items():
        minutes = Entry(whole.seconds / 60 if whole else None)
        texts = (key.dataset, str(key.shots), key.label, _count(whole, several))
        rows.append((texts, [*_entries(key, whole, MEASURES), minutes]))
    heads = ("data set", "shots", "method", f"{'splits x ' if several else ''}seeds x draws")
    notes = [OVER_SPLITS] if several else []
    note = " ".join([*notes, "minutes: wall time of one run.", *remark_departures(cells)])
    table = Table("benchmark", "Test", heads, (*MEASURES, "minutes"), rows, note)
    return _with_best(table, within=2, numbers=MEASURES)


def _count(whole: Summary | None, several_splits: bool) -> str:
    """How many runs and draws a row is the mean of."""
    if not whole:
        return "–"
    seeds = f"{whole.runs / whole.splits:.3g} x {whole.draws}"
    return f"{whole.splits} x {seeds}" if several_splits else seeds


def remark_departures(cells: Cells) -> list[str]:
    """Says where runs that stand beside the paper's numbers are another experiment."""
    rows: dict[str, list[str]] = {}
    for key, runs in cells.items():
        if _paper_numbers(key):
            for told in sorted({describe_departures(run.results) for run in runs} - {""}):
                rows.setdefault(told, []).append(f"{key.dataset} {key.shots}-shot {key.label}")
    return [
        f"Not the paper's experiment: {', '.join(names)} ({told})." for told, names in rows.items()
    ]


def _entries(key: Key, whole: Summary | None, numbers: Iterable[str]) -> list[Entry]:
    published = _paper_numbers(key) or {}
    mean, spread = (whole.mean, whole.spread) if whole else ({}, {})
    return [Entry(mean.get(n), spread.get(n), published.get(n)) for n in numbers]


@functools.cache  # a table asks for every number by itself
def _paper_numbers(key: Key) -> Mapping[str, float] | None:
    departures = dict(key.setting)
    if not set(departures) <= set(OF_WORD):
        return None
    return paper_row(key.dataset, key.shots, key.method, departures)


def _with_best(table: Table, within: int, numbers: Iterable[str] | None = None) -> Table:
    """Marks the largest of each column among the rows that share their first `within` texts.

    Equal in print is equal; a row without company is not marked.
    """
    rows = [(texts, list(entries)) for texts, entries in table.rows]
    columns = [table.numbers.index(name) for name in numbers or table.numbers]
    for scope in {texts[:within] for texts, _ in rows}:
        members = [entries for texts, entries in rows if texts[:within] == scope]
        for column in columns:
            means = [entries[column].mean for entries in members]
            values = [round(mean, 2) for mean in means if mean is not None]
            if len(values) < 2:
                continue
            for entries in members:
                entry = entries[column]
                if entry.mean is not None and round(entry.mean, 2) == max(values):
                    entries[column] = entry._replace(best=True)
    return table._replace(rows=rows)


# -------------------------------------------------------------------------- the paper's tables


def _ablation_table(
    number: int, what: str, title: str, choices: Sequence[tuple[str, str, Setting]],
    datasets: Sequence[str], summaries: Mapping[Key, Summary],
) -> Table:
    """One of Tables 3 to 6: the values of one choice, (its name, method, setting) each."""
    rows = []
    for dataset in datasets:
        keys = {text: Key(dataset, 5, method, setting) for text, method, setting in choices}
        if len(summaries.keys() & keys.values()) > 1:
            rows += [((dataset, text), [(key, n) for n in NUMBERS]) for text, key in keys.items()]
    heads = ("data set", what)
    return _from_keys(
        f"table{number}", f"Table {number}: {title}, 5-shot", heads, NUMBERS, rows, summaries
    )


def paper_tables(cells: Cells) -> list[Table]:
    """Tables 2 to 6, Table 1 of the supplement and the numbers behind its Figure 1, as far as there
    are runs for them: no row, column or table is empty, and none of Tables 3 to 6 and Figure 1
    shows a data set of which only one of the values that it compares was run. Data sets that the
    paper lacks come last, and are left to `benchmark_table` where all methods are compared.
    """
    summaries = {key: summary(runs) for key, runs in cells.items() if runs}
    present = {key.dataset for key in summaries}
    published = [name for name in paper()["main"] if name in present]
    datasets = published + sorted(present - {*published})

    def ablation(number, what, title, choices):
        return _ablation_table(number, what, title, choices, datasets, summaries)

    by_shots = [(shots, name) for shots in (1, 5, 10) for name in ("HM", "FSL")]
    main = [
        ((dataset, Key(dataset, 0, *row).label),
         [(Key(dataset, shots, *row), name) for shots, name in by_shots])
        for dataset in published
        for row in ROWS
    ]
    supplement = [
        ((dataset, str(shots), Key(dataset, shots, *row).label),
         [(Key(dataset, shots, *row), name) for name in NUMBERS])
        for dataset in published
        for shots in (1, 5, 10, 20)
        for row in ROWS
    ]
    tables = [
        _from_keys("table2", "Table 2: all methods", ("data set", "method"),
                   tuple(f"{shots}-shot {name}" for shots, name in by_shots), main, summaries),
        ablation(3, "attention", "attention patterns",
                 _vary("attention", "full", "cross", "self", "alternate", "hybrid")),
        ablation(4, "generator", "what generates features of novel classes",
                 [("avgan", "avgan", ()), *_vary("generator", "none", "gaussian", "diffusion")]),
        ablation(5, "modality", "modalities", _vary("modality", "audio", "video", "both")),
        ablation(6, "condition", "condition of the generator",
                 _vary("condition", "prototype", "text")),
        _from_keys("supplement1", "Supplement, Table 1: all methods",
                   ("data set", "shots", "method"), NUMBERS, supplement, summaries, within=2),
        figure1_table(cells),
    ]
    several = any(whole.splits > 1 for whole in summaries.values())
    note = " ".join([*([OVER_SPLITS] if several else []), *remark_departures(cells)])
    return [table._replace(note=note) for table in tables if table.rows]


def _vary(name: str, *values: str):
    """(text, method, setting) for AV-Diff with each value of a choice."""
    usual = OF_WORD[name].usual
    return [(v, "avdiff", () if v == usual else ((name, v),)) for v in values]


def _from_keys(name, title, heads, numbers, rows, summaries, within=1) -> Table:
    """A table whose entries are given as (key, number) each."""
    filled = [
        (texts, [_entries(key, summaries.get(key), [number])[0] for key, number in wanted])
        for texts, wanted in rows
    ]
    ours = [[entry.mean is not None for entry in entries] for _, entries in filled]
    kept = [at for at in range(len(numbers)) if any(row[at] for row in ours)]
    filled = [(texts, [entries[at] for at in kept])
              for (texts, entries), row in zip(filled, ours, strict=True) if any(row)]
    numbers = tuple(numbers[at] for at in kept)
    return _with_best(Table(name, title, heads, numbers, filled), within)


# ------------------------------------------------------------------ Figure 1 of the supplement

STEPS = "diffusion.steps"


def sweeps(cells: Cells) -> dict[tuple[str, int], dict[int, Summary]]:
    """(data set, shots) -> T -> AV-Diff's numbers, where at least two T were run."""
    by_place: dict[tuple[str, int], dict[int, Summary]] = {}
    for key, runs in cells.items():
        if key.method == "avdiff" and set(dict(key.setting)) <= {STEPS} and runs:
            steps = runs[0].config["diffusion"]["steps"]
            by_place.setdefault((key.dataset, key.shots), {})[steps] = summary(runs)
    return {place: dict(sorted(by.items())) for place, by in by_place.items() if len(by) > 1}


def figure1_table(cells: Cells) -> Table:
    """B, N, HM and FSL against T. The paper prints no numbers here."""
    rows = [
        ((dataset, str(shots), str(steps)), _entries(Key("", 0, ""), found, NUMBERS))
        for (dataset, shots), by_steps in sweeps(cells).items()
        for steps, found in by_steps.items()
    ]
    table = Table("figure1", "Supplement, Figure 1: AV-Diff by number of diffusion steps T",
                  ("data set", "shots", "T"), NUMBERS, rows)
    return _with_best(table, within=2)


def figure1(cells: Cells, folder: str | Path) -> list[Path]:
    """A picture of each sweep; returns the paths."""
    paths = []
    for (dataset, shots), by_steps in sweeps(cells).items():
        path = Path(folder) / f"figure1-{dataset}-{shots}shot.png"
        means = {name: [whole.mean[name] for whole in by_steps.values()] for name in NUMBERS}
        spreads = {
            name: [whole.spread.get(name, 0.0) for whole in by_steps.values()] for name in NUMBERS
        }
        plots.sweep_plot(list(by_steps), means, spreads, "diffusion steps T", path)
        paths.append(path)
    return paths
