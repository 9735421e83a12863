"""A table of texts in several notations: aligned for a terminal, Markdown, LaTeX."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

NOTE_WIDTH = 100  # of notes on a terminal


class TextTable(NamedTuple):
    """A table that is written out but for its notation.

    heads, rows: texts by column; what follows the first space of a number is its spread.
    names: how many of the first columns hold names; numbers stand behind them.
    notes: lines below it.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    notes: Sequence[str] = ()


class Marks(NamedTuple):
    """How a notation writes what is missing, what spreads, and what stands out."""

    dash: str
    plus_minus: str
    bold: str
    called: str  # what stands out, in a note


PLAIN = Marks("–", "±", "*{}", "A star")
MARKDOWN = Marks("–", "±", "**{}**", "Bold")
LATEX = Marks("--", r"$\pm$", r"\textbf{{{}}}", "Bold")


def plain(table: TextTable) -> str:
    """For a terminal: names to the left, numbers and their spreads below each other."""
    columns = [
        _align([head, *(row[i] for row in table.rows)], number=i >= table.names)
        for i, head in enumerate(table.heads)
    ]
    head, *rows = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    rule = "-" * max(map(len, (head, *rows)))
    notes = [textwrap.fill(note, NOTE_WIDTH) for note in table.notes]
    return "\n".join([table.title, "", head, rule, *rows, *([""] if notes else []), *notes]) + "\n"


def _align(column: Sequence[str], number: bool) -> list[str]:
    """The cells of a column, its head first, padded to one width."""
    if not number:
        return [cell.ljust(max(map(len, column))) for cell in column]
    head, *numbers = column
    parts = [number.partition(" ") for number in numbers]
    width = max((len(value) for value, *_ in parts), default=0)
    if not any(spread for *_, spread in parts):  # else the head may stand over the spread, too
        width = max(width, len(head))
    padded = [head.rjust(width)]
    padded += [f"{value.rjust(width)} {spread}".rstrip() for value, _, spread in parts]
    return [cell.ljust(max(map(len, padded))) for cell in padded]


def markdown(table: TextTable) -> str:
    """Names to the left, numbers to the right."""
    numbers = len(table.heads) - table.names
    rows = [table.heads, ["---"] * table.names + ["---:"] * numbers, *table.rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = ["", *table.notes] if table.notes else []
    return "\n".join([f"**{table.title}**", "", *lines, *notes]) + "\n"


def latex(table: TextTable) -> str:
    """A plain tabular that needs no package; notes are left out."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    columns = "l" * table.names + "r" * (len(table.heads) - table.names)
    rows = [
        line([*map(_escape, row[: table.names]), *row[table.names :]]) for row in table.rows
    ]
    return "\n".join([
        f"% {table.title}", rf"\begin{{tabular}}{{{columns}}}", r"\hline",
        line([*map(_escape, table.heads)]), r"\hline", *rows, r"\hline", r"\end{tabular}",
    ]) + "\n"


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "_&%#$" else c for c in text)
