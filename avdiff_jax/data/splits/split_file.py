"""Which clip is in which set: Table 1 of the paper, for k shots and three draws of them.

A split is a plain dictionary, the same in memory and as JSON, of clip ids by set and class
(`sets` names them). Every split is made by `finish`, that is, audited. Where the sets come
from: `from_lists`, `from_store`, `data.importers.official`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from avdiff_jax.data.splits.audit import audit
from avdiff_jax.data.splits.sets import (
    DRAWN,
    HOLDS,
    KINDS,
    STAGE_1,
    count,
    ordered,
)
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import draft

SCHEMA, VERSION = "avdiff_jax.split", 1
BY = ("lists", "group", "clip", "official")


def finish(
    sets: Mapping,
    classes: Mapping[str, Iterable[str]],
    *,
    name: str,
    shots: int,
    seed: int | None,
    by: str,
    groups: Mapping[str, str | None] | None = None,
    notes: Iterable[str] = (),
) -> dict:
    """A split as it is written: sorted, counted and audited.

    Args:
      sets: clip ids by class for each of the seven sets, lists of such for train2_novel and
        test_novel.
      classes: names of base1, novel1 and novel2.
      name, shots, seed, by: recorded; seed is None where the sets came ready made (`official`).
      groups: group of a clip id, for `audit`; a clip may be absent or without one.
      notes: kept under `notes`, followed by what `audit` reports.

    Raises:
      UserError: `audit` refuses it.
    """
    split = {
        "schema": SCHEMA,
        "version": VERSION,
        "name": name,
        "shots": int(shots),
        "seed": None if seed is None else int(seed),
        "by": by,
        "classes": {kind: sorted(map(str, classes[kind])) for kind in KINDS},
        "sets": {
            key: [ordered(draw) for draw in sets[key]] if key in DRAWN else ordered(sets[key])
            for key in HOLDS
        },
    }
    split["notes"] = [*notes, *audit(split, groups)]
    split["counts"] = counts(split)
    return split


def counts(split: dict) -> dict:
    """The row of Table 1: classes and clips by set; of the drawn sets, those of draw 0."""
    size = {kind: len(names) for kind, names in split["classes"].items()}
    sets = split["sets"]
    row = {"classes": {"all": sum(size.values()), **size}}
    row |= {key: count(sets[key]) for key in STAGE_1}
    row["train2_base"] = sum(row[key] for key in STAGE_1)
    row["train2_novel"] = count(sets["train2_novel"][0])
    row["test_base"] = count(sets["test_base"])
    row["test_novel"] = count(sets["test_novel"][0])
    return row


def table(split: dict) -> str:
    """Two lines for reading: the columns of Table 1 and this split's row."""
    row = counts(split)
    size = row.pop("classes")
    head = [f"{split['shots']}-shot", "classes all/B1/N1/N2", *row]
    cells = [split["name"], "/".join(map(str, size.values())), *map(str, row.values())]
    widths = [max(map(len, pair)) for pair in zip(head, cells, strict=True)]
    lines = [
        [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        for first, *rest in (head, cells)
    ]
    return "\n".join("  ".join(line) for line in lines)


def report(split: dict) -> str:
    """`table`, what its heads mean, and the notes."""
    legend = "clips of each set; B1 base classes, N1 novel ones of stage 1, N2 of stage 2"
    return "\n".join([table(split), legend, *(f"note: {n}" for n in split.get("notes", ()))])


# --- on disk -------------------------------------------------------------------------------------


def write(split: dict, path: str | Path) -> None:
    """Writes a split as JSON, whole or not at all; makes the folder where it is missing.

    Raises:
      UserError: the place cannot be written to.
    """
    with draft(path) as made:
        text = json.dumps(split, indent=1, ensure_ascii=False) + "\n"
        Path(made).write_text(text, encoding="utf-8")


def load(path: str | Path) -> dict:
    """Reads what `write` wrote and audits it again, so that an edited file cannot leak clips.

    Raises:
      UserError: the file is missing, not JSON, of another schema or version, malformed, or
        refused by `audit`.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"split {path} is missing; make it with launch/data.py split")
    try:
        split = json.loads(text_files.text_of(path, "split"))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); make it again") from None
    if wrong := _malformed(split):
        raise UserError(f"{path}: {wrong}; make it again with launch/data.py split")
    try:
        audit(split, None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if split["counts"] != counts(split):
        raise UserError(
            f"{path}: counts says {split['counts']} but the sets hold {counts(split)}; make it "
            "again with launch/data.py split"
        )
    return split


def _malformed(split) -> str:
    """What is wrong with the shape of a loaded split, or nothing."""
    if not isinstance(split, dict):
        return f"holds a JSON {type(split).__name__} but a split is an object"
    for field, wanted in (("schema", SCHEMA), ("version", VERSION)):
        if split.get(field) != wanted:
            return f"{field} is {split.get(field)!r} but this program reads {wanted!r}"
    for field, kinds in (
        ("name", str),
        ("shots", int),
        ("seed", (int, type(None))),
        ("by", str),
        ("classes", dict),
        ("sets", dict),
        ("counts", dict),
    ):
        if field not in split:
            return f"{field!r} is missing"
        if not isinstance(split[field], kinds) or isinstance(split[field], bool):
            return f"{field!r} is {_short(split[field])}, of the wrong type"
    if split["by"] not in BY:
        return f"by is {split['by']!r} but must be one of {', '.join(BY)}"
    if split["shots"] < 1:
        return f"shots is {split['shots']} but must be at least 1"
    for field, wanted in (("classes", set(KINDS)), ("sets", set(HOLDS))):
        if set(split[field]) != wanted:
            odd = min(set(split[field]) ^ wanted)
            return f"{field} has {sorted(split[field])} but must have {sorted(wanted)} ({odd!r})"
    for kind, names in split["classes"].items():
        if not _is_strings(names):
            return f"classes.{kind} is {_short(names)} but must be a list of class names"
    for key, content in split["sets"].items():
        if (key in DRAWN) != isinstance(content, list):
            return f"sets.{key} is {_short(content)} but must be " + (
                "a list of draws" if key in DRAWN else "an object of classes"
            )
        for draw in content if key in DRAWN else [content]:
            if not isinstance(draw, dict) or not all(map(_is_strings, draw.values())):
                return f"sets.{key} must map class names to lists of clip ids"
    if not _is_strings(split.get("notes", [])):
        return f"'notes' is {_short(split['notes'])} but must be a list of sentences"
    return ""


def _is_strings(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
