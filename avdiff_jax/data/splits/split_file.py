"""Which clip is in which set: Table 1 of the paper, for k shots and three draws of them.

A split is a plain dictionary, the same in memory and as JSON, of clip ids by set and class
(`sets` names them). Every split is made by `finish`, that is, audited. Where the sets come
from: `from_lists`, `from_store`, `data.importers.official`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from avdiff_jax.cli.home import command
from avdiff_jax.data.splits.audit import audit
from avdiff_jax.data.splits.sets import DRAWN, HOLDS, KINDS, STAGE_1, Clips, count, sort_clips
from avdiff_jax.errors import UserError
from avdiff_jax.io import documents


class Classes(TypedDict):
    """Names of the classes of each kind, sorted."""

    base1: list[str]
    novel1: list[str]
    novel2: list[str]


class Sets(TypedDict):
    """Clip ids by class; what is drawn several times is a list of these."""

    train1_base: Clips
    train1_novel: Clips
    val_base: Clips
    val_novel: Clips
    train2_novel: list[Clips]
    test_base: Clips
    test_novel: list[Clips]


class Split(TypedDict):
    """What `finish` makes and the file holds; `notes` may be absent from an old one. `untested` are
    novel2 classes that may have no test clip."""

    schema: str
    version: int
    name: str
    shots: int
    seed: int | None
    by: Literal["lists", "group", "clip", "official"]
    classes: Classes
    sets: Sets
    counts: dict
    notes: NotRequired[list[str]]
    untested: NotRequired[list[str]]


FILE = documents.Document(
    "split", Split, f"make it again with `{command('data')} split`", "avdiff_jax.split", 1
)


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
    untested: Iterable[str] = (),
) -> Split:
    """A split as it is written: sorted, counted and audited.

    Args:
      sets: clip ids by class for each of the seven sets, lists of such for train2_novel and
        test_novel.
      classes: names of base1, novel1 and novel2.
      name, shots, seed, by: recorded; seed is None where the sets came ready made (`official`).
      groups: group of a clip id, for `audit`; a clip may be absent or without one.
      notes: kept under `notes`, followed by what `audit` reports.
      untested: novel2 classes that may have no test clip.

    Raises:
      UserError: `audit` refuses it.
    """
    split: Any = {
        "schema": FILE.schema,
        "version": FILE.version,
        "name": name,
        "shots": int(shots),
        "seed": None if seed is None else int(seed),
        "by": by,
        "classes": {kind: sorted(map(str, classes[kind])) for kind in KINDS},
        "sets": {
            key: [sort_clips(draw) for draw in sets[key]] if key in DRAWN else sort_clips(sets[key])
            for key in HOLDS
        },
    }
    if untested := sorted(untested):
        split["untested"] = untested
    split["notes"] = [*notes, *audit(split, groups)]
    split["counts"] = counts(split)
    return split


def fingerprint(split: Split) -> str:
    """What a split is known by: a text that changes with its sets alone."""
    content = json.dumps(split["sets"], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def counts(split: Split) -> dict:
    """The row of Table 1: classes and clips by set; of the drawn sets, those of draw 0."""
    size = {kind: len(split["classes"][kind]) for kind in ("base1", "novel1", "novel2")}
    sets = split["sets"]
    row: dict[str, Any] = {"classes": {"all": sum(size.values()), **size}}
    row |= {key: count(sets[key]) for key in STAGE_1}
    row["train2_base"] = sum(row[key] for key in STAGE_1)
    row["train2_novel"] = count(sets["train2_novel"][0])
    row["test_base"] = count(sets["test_base"])
    row["test_novel"] = count(sets["test_novel"][0])
    return row


def table(split: Split) -> str:
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


def report(split: Split) -> str:
    """`table`, what its heads mean, and the notes."""
    legend = "clips of each set; B1 base classes, N1 novel ones of stage 1, N2 of stage 2"
    return "\n".join([table(split), legend, *(f"note: {n}" for n in split.get("notes", ()))])


# --- on disk -------------------------------------------------------------------------------------


def write(split: Split, path: str | Path) -> None:
    """Writes a split as JSON, whole or not at all; makes the folder where it is missing.

    Raises:
      UserError: the place cannot be written to.
    """
    documents.write(path, split, indent=1, sort_keys=False)


def load(path: str | Path) -> Split:
    """Reads what `write` wrote and audits it again, so that an edited file cannot leak clips.

    Raises:
      UserError: the file is missing, not JSON, of another schema or version, malformed, or
        refused by `audit`.
    """
    split = FILE.read(path)
    if split["shots"] < 1:
        raise UserError(f"{path}: shots is {split['shots']} but must be at least 1; {FILE.mend}")
    for field, names in (("classes", KINDS), ("sets", HOLDS)):
        if unknown := sorted({*split[field]} - {*names}):
            raise UserError(
                f"{path}: {field} has {unknown[0]!r} but may only have {', '.join(names)}; "
                f"{FILE.mend}"
            )
    try:
        audit(split, None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if split["counts"] != counts(split):
        raise UserError(
            f"{path}: counts says {split['counts']} but the sets hold {counts(split)}; make it "
            f"again with `{command('data')} split`"
        )
    return split
