"""Which clip is in which set: Table 1 of the paper, for k shots and three draws of them.

A split is a plain dictionary, the same in memory and as JSON, of clip ids by set and class:

    train1_base, train1_novel, val_base, val_novel    stage 1; train1_novel holds k clips a class
    train2_novel[d], test_base, test_novel[d]         stage 2; d = 0, 1, 2 are the draws of k shots

The base training set of stage 2 is the union of the four sets of stage 1 and is not written out.
Every split leaves this module through `finish`, that is, audited. Source: Section 3.2, Table 1.
"""

import contextlib
import csv
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avdiff_jax.errors import UserError

SCHEMA, VERSION = "avdiff_jax.split", 1
DRAWS = 3
BY = ("lists", "group", "clip", "official")
KINDS = ("base1", "novel1", "novel2")
STAGE_1 = ("train1_base", "train1_novel", "val_base", "val_novel")
SINGLE = (*STAGE_1, "test_base")
DRAWN = ("train2_novel", "test_novel")
# The public lists read here: base1, val_base, novel1, test_base and novel2.
LISTS = (
    "stage_1_train",
    "stage_1_val_seen",
    "stage_1_val_unseen",
    "stage_2_test_seen",
    "stage_2_test_unseen",
)
# Which classes a set holds clips of.
HOLDS = {
    "train1_base": ("base1",),
    "train1_novel": ("novel1",),
    "val_base": ("base1",),
    "val_novel": ("novel1",),
    "train2_novel": ("novel2",),
    "test_base": ("base1", "novel1"),
    "test_novel": ("novel2",),
}
SHOTS = ("train1_novel", "train2_novel")
# Shares of (validation, test) where nothing else is asked for. By clip they are those of Table 1:
# a tenth of the base clips is test, a tenth of the others validation.
SHARES = {"clip": (0.1, 0.1), "group": (0.25, 0.25)}
# Groups are dealt out in a random order; an order that leaves some class short is dropped.
ORDERS = 50

Clips = dict[str, list[str]]  # class name -> clip ids


# --- from the public lists -----------------------------------------------------------------------


def from_lists(directory: str | Path, shots: int, seed: int, name: str | None = None) -> dict:
    """The few-shot split of Table 1 from the public zero-shot class-split lists.

    Args:
      directory: holds stage_1_train, stage_1_val_seen, stage_1_val_unseen, stage_2_test_seen and
        stage_2_test_unseen, each a .csv of clips (columns `filename` and `label`, in any order)
        and a .txt of classes. A class name may differ in letter case between files; its spelling
        is that of all_class.txt, else that of the first list that has it.
      shots: k, clips of each novel class to learn from.
      seed: of the draws of shots; nothing else here is random.
      name: of the split; default the name of the directory.

    Raises:
      UserError: a file is missing or malformed, or `audit` refuses the result.
    """
    directory = Path(directory)
    _check_request(shots, seed)
    spelling: dict[str, str] = {}
    if (directory / "all_class.txt").exists():
        _class_list(directory / "all_class.txt", spelling)
    notes: list[str] = []
    lists = [_clip_list(directory / stem, spelling, notes) for stem in LISTS]
    base1, val_base, novel1, test_base, novel2 = lists
    classes = {"base1": base1, "novel1": novel1, "novel2": novel2}
    sets = _with_shots(base1, val_base, test_base, novel1, novel2, shots, seed)
    groups = {clip: source_video(clip) for part in lists for ids in part.values() for clip in ids}
    name = name or directory.resolve().name
    return finish(
        sets, classes, name=name, shots=shots, seed=seed, by="lists", groups=groups, notes=notes
    )


def source_video(clip: str) -> str:
    """The video that a clip of the public lists was cut from, as far as its id tells.

    UCF101 `v_Class_gNN_cMM` -> `v_Class_gNN`; ActivityNet and VGGSound start with a YouTube id
    of 11 characters; anything else is its own group.
    """
    if ucf := re.fullmatch(r"(v_.+_g\d+)_c\d+", clip):
        return ucf[1]
    if youtube := re.match(r"([\w-]{11})_", clip):
        return youtube[1]
    return clip


def _class_list(path: Path, spelling: dict[str, str]) -> list[str]:
    """Class names of a .txt, in the spelling first met; `spelling` learns the new ones."""
    lines = [line.strip() for line in _lines(path)]
    names = [spelling.setdefault(line.casefold(), line) for line in lines if line]
    if not names:
        raise UserError(f"{path} holds 0 classes but one class a line is needed")
    if repeated := _repeated(names):
        raise UserError(f"{path} lists class {repeated!r} twice; remove one of the two lines")
    return names


def _clip_list(stem: Path, spelling: dict[str, str], notes: list[str]) -> Clips:
    """Clips by class of `stem`.csv, of the classes in `stem`.txt only.

    The published stage_2_test_unseen.csv has clips of more classes than its .txt; Table 1 counts
    only those in the .txt. What is left out is said in `notes`.
    """
    text, table = stem.with_name(stem.name + ".txt"), stem.with_name(stem.name + ".csv")
    clips: Clips = {name: [] for name in _class_list(text, spelling)}
    header, *rows = _rows(table) or [[]]
    header = [column.casefold() for column in header]
    for column in ("filename", "label"):
        if header.count(column) != 1:
            raise UserError(
                f"{table} has the columns {', '.join(header) or 'none'} but needs one column "
                f"{column!r} in its first line"
            )
    clip_at, class_at = header.index("filename"), header.index("label")
    others: Counter[str] = Counter()
    for row in rows:
        if len(row) != len(header) or not row[clip_at]:
            raise UserError(
                f"{table} has the row {row} but needs {len(header)} fields and a clip id in each; "
                "mend the row, with quotes around a class name that holds a comma"
            )
        label = spelling.get(row[class_at].casefold(), row[class_at])
        if label in clips:
            clips[label].append(row[clip_at])
        else:
            others[label] += 1
    if others:
        notes.append(
            f"{table.name} holds {others.total()} clips of {len(others)} classes that "
            f"{text.name} does not list ({_examples(others)}); they were left out"
        )
    return clips


def _rows(path: Path) -> list[list[str]]:
    """The fields of a .csv, without blank lines and the space around fields."""
    try:
        rows = list(csv.reader(_lines(path), strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({error}); mend its quotes") from None
    return [[field.strip() for field in row] for row in rows if row]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; a directory of class-split lists holds a .csv and a .txt for each "
            f"of {', '.join(LISTS)}"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); save it as such") from None


# --- from a user's own store ---------------------------------------------------------------------


def from_store(
    store,
    shots: int,
    seed: int,
    *,
    base: int | float | Sequence[str],
    novel1: int | float | Sequence[str],
    novel2: int | float | Sequence[str],
    by: str | None = None,
    val: float | None = None,
    test: float | None = None,
    name: str | None = None,
) -> dict:
    """A split of a user's own clips, the same for any order of clips and classes in the store.

    By group (a subject, a recording session, a source video), whole groups are dealt out to
    training, validation and test, so that nothing is evaluated on a group that it was trained on:

    * train1_base and train1_novel from training groups, val_base and val_novel from validation
      groups, test_base and test_novel from test groups;
    * train2_novel from training and validation groups, both of which stage 2 trains on;
    * what is left of novel clips in groups that are trained on belongs to no set.

    By clip, as in Table 1: of each base or novel1 class a share is test, then of base1 a share of
    the rest validation, of novel1 all but the k shots; novel2 is test but for the k shots.

    Args:
      store: has name, clip_ids [n], labels [n], groups [n] or None ("" means a group of its own)
        and class_names.
      shots: k, clips of each novel class to learn from.
      seed: of the choice of classes, the dealing out and the draws.
      base, novel1, novel2: how many classes (int), what fraction of them (float) or which.
      by: "group" or "clip"; default "group" where the store has groups.
      val, test: shares of groups or clips in 0..1; default `SHARES`.
      name: of the split; default that of the store.

    Raises:
      UserError: the request does not fit the store, or `audit` refuses the result.
    """
    _check_request(shots, seed)
    groups = _groups_of(store)
    by = by or ("group" if groups else "clip")
    if by not in SHARES:
        raise UserError(f"by is {by!r} but a store can be split by group or by clip")
    if by == "group" and not groups:
        raise UserError(
            f"store {store.name!r} has no groups but the split is to be by group; import it with "
            "groups or split by clip"
        )
    shares = tuple(
        default if asked is None else float(asked)
        for asked, default in zip((val, test), SHARES[by], strict=True)
    )
    if not (min(shares) > 0 and sum(shares) < 1):
        raise UserError(
            f"the shares of validation and test are {shares[0]} and {shares[1]} but each must be "
            "above 0 and their sum below 1"
        )

    clips: Clips = {}
    for clip, label in zip(store.clip_ids, store.labels, strict=True):
        clips.setdefault(str(store.class_names[int(label)]), []).append(str(clip))
    asked = {"base": base, "novel1": novel1, "novel2": novel2}
    chosen = _choose_classes(list(clips), store, seed, asked)
    classes = dict(zip(KINDS, chosen.values(), strict=True))
    if by == "group":
        sets = _sets_by_group(clips, classes, groups, shots, seed, shares)
    else:
        sets = _sets_by_clip(clips, classes, shots, seed, shares)
    name = name or str(store.name)
    return finish(sets, classes, name=name, shots=shots, seed=seed, by=by, groups=groups)


def _choose_classes(names: list[str], store, seed: int, asked: dict) -> dict[str, list[str]]:
    """The classes of each kind in `asked`, out of `names`, those that have clips."""
    known = {str(name).casefold(): str(name) for name in store.class_names}
    with_clips = set(names)
    chosen: dict[str, list[str]] = {}
    for kind, wish in asked.items():
        if isinstance(wish, str):
            raise UserError(f"{kind} is the text {wish!r} but a number or a list is needed")
        if isinstance(wish, Iterable):
            chosen[kind] = []
            for name in wish:
                if str(name).casefold() not in known:
                    raise UserError(
                        f"{kind} lists class {name!r} but store {store.name!r} has "
                        f"{len(known)} other classes ({_examples(known.values())})"
                    )
                if known[str(name).casefold()] not in with_clips:
                    raise UserError(
                        f"{kind} lists class {name!r}, which has 0 clips in store "
                        f"{store.name!r}; take it off the list"
                    )
                chosen[kind].append(known[str(name).casefold()])

    listed = {name for kind in chosen.values() for name in kind}
    free = [str(name) for name in _rng(seed, "classes").permutation(sorted(with_clips - listed))]
    # Fractions are of all classes and rounded at their running sum, so that 0.5 + 0.25 + 0.25
    # uses every class exactly once.
    running = 0.0
    for kind, wish in asked.items():
        if kind in chosen:
            continue
        if isinstance(wish, bool) or not isinstance(wish, int | float | np.number):
            raise UserError(f"{kind} is {wish!r} but a number or a list of classes is needed")
        if isinstance(wish, int | np.integer):
            count = int(wish)
        elif 0 < wish < 1 and running + wish < 1 + 1e-9:
            count = round((running + wish) * len(names)) - round(running * len(names))
            running += float(wish)
        else:
            raise UserError(
                f"{kind} is {wish} and the fractions before it sum to {running:g} but fractions "
                "lie between 0 and 1 and sum to at most 1; write a count without a point"
            )
        if not 0 < count <= len(free):
            raise UserError(
                f"{kind} asks for {count} classes but {len(free)} of the {len(names)} in store "
                f"{store.name!r} are left; ask for at least 1 and fewer in all"
            )
        chosen[kind], free = free[:count], free[count:]
    return {kind: chosen[kind] for kind in asked}


def _sets_by_clip(clips: Clips, classes: dict, shots: int, seed: int, shares: tuple) -> dict:
    val, test = shares
    test_base, rest = _cut(_pick(clips, classes, "base1", "novel1"), test, seed, "test")
    val_base, train1_base = _cut(_pick(rest, classes, "base1"), val, seed, "validation")
    novel1, novel2 = _pick(rest, classes, "novel1"), _pick(clips, classes, "novel2")
    return _with_shots(train1_base, val_base, test_base, novel1, novel2, shots, seed)


def _sets_by_group(
    clips: Clips,
    classes: dict,
    groups: Mapping[str, str],
    shots: int,
    seed: int,
    shares: tuple,
) -> dict:
    clips = _pick(clips, classes, "base1", "novel1", "novel2")
    side = _deal_groups(clips, classes, groups, shots, seed, shares)

    def on(sides: tuple[str, ...], *kinds: str) -> Clips:
        picked = _pick(clips, classes, *kinds)
        return {
            name: [clip for clip in ids if side[_own_group(groups, clip)] in sides]
            for name, ids in picked.items()
        }

    novel2 = on(("train", "val"), "novel2")
    test_novel = on(("test",), "novel2")
    return {
        "train1_base": on(("train",), "base1"),
        "train1_novel": _draw(on(("train",), "novel1"), shots, seed, 0),
        "val_base": on(("val",), "base1"),
        "val_novel": on(("val",), "novel1"),
        "train2_novel": [_draw(novel2, shots, seed, d) for d in range(DRAWS)],
        "test_base": on(("test",), "base1", "novel1"),
        "test_novel": [test_novel for _ in range(DRAWS)],
    }


def _deal_groups(
    clips: Clips,
    classes: dict,
    groups: Mapping[str, str],
    shots: int,
    seed: int,
    shares: tuple,
) -> dict[str, str]:
    """Which side ("train", "val", "test") each group is on.

    In a random order each group goes where it brings the shares of its classes nearest to those
    asked for. This serves groups that hold one class (source videos) and groups that hold all of
    them (subjects) alike. The first order that leaves every class what its sets need is taken.
    """
    sides = ("train", "val", "test")
    wanted = np.array([1 - sum(shares), *shares])
    names = sorted(clips)
    # Which sides together must hold how many clips of a class.
    needs = {
        "base1": ((("train",), 1), (("val",), 1), (("test",), 1)),
        "novel1": ((("train",), shots), (("val",), 1), (("test",), 1)),
        "novel2": ((("train", "val"), shots), (("test",), 1)),
    }
    kind_of = {name: kind for kind, members in classes.items() for name in members}
    content: dict[str, Counter[int]] = {}
    for index, name in enumerate(names):
        own = [_own_group(groups, clip) for clip in clips[name]]
        for group in own:
            content.setdefault(group, Counter())[index] += 1
        fewest = len(needs[kind_of[name]])
        if len(set(own)) < fewest:
            raise UserError(
                f"class {name!r} has clips in {len(set(own))} groups but as a {kind_of[name]} "
                f"class it needs {fewest} to be held out by group; leave it out, make it another "
                "kind of class or split by clip"
            )
    totals = np.array([len(clips[name]) for name in names], np.float64)
    rows = {
        group: (np.array(list(held)), np.array(list(held.values()), np.float64))
        for group, held in content.items()
    }
    short = ""
    for order in range(ORDERS):
        held = np.zeros((len(sides), len(names)))
        side = {}
        for group in _rng(seed, f"groups {order}").permutation(sorted(rows)):
            at, count = rows[group]
            gap = held[:, at] / totals[at] - wanted[:, None]
            added = count / totals[at]
            # How much the squared gap grows on each side.
            best = int(np.argmin((added * (2 * gap + added)).sum(axis=1)))
            held[best, at] += count
            side[str(group)] = sides[best]
        short = ""
        for index, name in enumerate(names):
            for where, least in needs[kind_of[name]]:
                found = int(sum(held[sides.index(s), index] for s in where))
                if found < least and not short:
                    short = (
                        f"class {name!r} ({kind_of[name]}) keeps {found} clips in its "
                        f"{' and '.join(where)} groups but needs {least}"
                    )
        if not short:
            return side
    raise UserError(
        f"{ORDERS} ways to deal out {len(rows)} groups all fell short, the last because {short}; "
        "ask for fewer shots, other shares of validation and test or other classes, or split by "
        "clip"
    )


# --- a finished split ----------------------------------------------------------------------------


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
            key: [_ordered(draw) for draw in sets[key]] if key in DRAWN else _ordered(sets[key])
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
    row |= {key: _count(sets[key]) for key in STAGE_1}
    row["train2_base"] = sum(row[key] for key in STAGE_1)
    row["train2_novel"] = _count(sets["train2_novel"][0])
    row["test_base"] = _count(sets["test_base"])
    row["test_novel"] = _count(sets["test_novel"][0])
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


def audit(split: dict, groups: Mapping[str, str | None] | None) -> list[str]:
    """Checks a split for everything that would make its results wrong.

    Args:
      split: of the right shape (see `load`).
      groups: group of a clip id, as far as there is one; None where nothing is known.

    Returns:
      One line for each pair of training and evaluation sets that share groups, for splits that
      were not made by group: the public lists themselves cut one video into both.

    Raises:
      UserError: a class is in two of base1, novel1, novel2; a set lacks a class or has one that
        it should not have; a class has not k shots; a clip is in two sets of one stage or draw,
        or in one set twice; a split by group has a group on both sides.
    """
    name, shots, sets = split["name"], split["shots"], split["sets"]
    _audit_classes(name, split["classes"])
    if not len(sets["train2_novel"]) == len(sets["test_novel"]) == DRAWS:
        raise UserError(
            f"split {name!r} has {len(sets['train2_novel'])} draws of train2_novel and "
            f"{len(sets['test_novel'])} of test_novel but needs {DRAWS} of each"
        )
    parts = _parts(sets)
    for label, key, _, content in parts:
        wanted = {c for kind in HOLDS[key] for c in split["classes"][kind]}
        if extra := set(content) - wanted:
            raise UserError(
                f"split {name!r} has clips of class {min(extra)!r} in {label}, which is for "
                f"{' and '.join(HOLDS[key])} classes; move them or name the class there"
            )
        for cls in sorted(wanted):
            found = len(content.get(cls, ()))
            if key in SHOTS and found != shots:
                raise UserError(
                    f"split {name!r} has {found} clips of class {cls!r} in {label} but needs "
                    f"exactly {shots} shots; change the shots or leave the class out"
                )
            if not found:
                raise UserError(
                    f"split {name!r} has no clip of class {cls!r} in {label}; give it more clips "
                    "or leave the class out"
                )

    flat = {part.label: [c for ids in part.clips.values() for c in ids] for part in parts}
    for label, ids in flat.items():
        if twice := _repeated(ids):
            raise UserError(f"split {name!r} lists clip {twice!r} twice in {label}; remove one")
    unique = {label: set(ids) for label, ids in flat.items()}
    for left, right in combinations(parts, 2):
        if None not in (left.draw, right.draw) and left.draw != right.draw:
            continue  # a shot of one draw is a test clip of another
        if both := unique[left.label] & unique[right.label]:
            raise UserError(
                f"split {name!r} has {len(both)} clips in both {left.label} and {right.label} "
                f"({_examples(both)}); keep each in one of them"
            )
    return _audit_groups(split, groups, flat) if groups else []


def _audit_classes(name: str, classes: Mapping[str, list[str]]) -> None:
    seen: dict[str, str] = {}
    for kind, members in classes.items():
        if not members:
            raise UserError(f"split {name!r} has 0 classes in {kind} but needs at least 1")
        for cls in members:
            if cls.casefold() in seen:
                raise UserError(
                    f"split {name!r} has class {cls!r} in {seen[cls.casefold()]} and in {kind}; "
                    "remove it from one of them"
                )
            seen[cls.casefold()] = kind


def _audit_groups(split: dict, groups: Mapping[str, str | None], flat: dict) -> list[str]:
    """Shared groups of what is trained on and what is evaluated, stage by stage."""
    pairs = [("stage 1", ("train1_base", "train1_novel"), ("val_base", "val_novel"))]
    pairs += [
        (
            f"stage 2 draw {d}",
            (*STAGE_1, f"train2_novel[{d}]"),
            ("test_base", f"test_novel[{d}]"),
        )
        for d in range(DRAWS)
    ]
    report = []
    for where, train, evaluation in pairs:
        trained = {groups[c] for label in train for c in flat[label] if groups.get(c)}
        shared = Counter(
            groups[c] for label in evaluation for c in flat[label] if groups.get(c) in trained
        )
        if not shared:
            continue
        if split["by"] == "group":
            group = min(shared)
            side = [
                next(label for label in labels if any(groups.get(c) == group for c in flat[label]))
                for labels in (train, evaluation)
            ]
            raise UserError(
                f"split {split['name']!r} is by group but has group {group!r} in both {side[0]} "
                f"and {side[1]}; keep the group in one of them"
            )
        report.append(
            f"{where}: {len(shared)} groups ({_examples(shared)}) are on both sides, with "
            f"{shared.total()} of {sum(len(flat[label]) for label in evaluation)} evaluation clips"
        )
    return report


# --- on disk -------------------------------------------------------------------------------------


def write(split: dict, path: str | Path) -> None:
    """Writes a split as JSON, whole or not at all; makes the folder where it is missing.

    Raises:
      UserError: the place cannot be written to.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(split, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; name another place") from None
    finally:
        with contextlib.suppress(OSError):  # where the folder itself could not be made
            part.unlink()


def load(path: str | Path) -> dict:
    """Reads what `write` wrote and audits it again, so that an edited file cannot leak clips.

    Raises:
      UserError: the file is missing, not JSON, of another schema or version, malformed, or
        refused by `audit`.
    """
    path = Path(path)
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"split {path} is missing; make it with launch/data.py split") from None
    except OSError as error:
        raise UserError(f"split {path} cannot be read: {error.strerror}") from None
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


# --- for training --------------------------------------------------------------------------------


class Members(NamedTuple):
    """The clips of one set, ordered by class name, then clip id, whatever the store's order."""

    clips: np.ndarray  # [n] int64, index into the store
    labels: np.ndarray  # [n] int32, index into the stage's class names


class Stage(NamedTuple):
    """One stage of the protocol as indices into a store."""

    class_names: tuple[str, ...]  # [C], sorted: base and novel classes of the stage
    is_base: np.ndarray  # [C] bool
    base: Members  # stage 1: train1_base; stage 2: its union with train1_novel and val
    novel: tuple[Members, ...]  # the k shots: stage 1 once, stage 2 for each draw
    eval_base: Members  # stage 1: val_base; stage 2: test_base
    eval_novel: tuple[Members, ...]  # stage 1: (val_novel,); stage 2: test_novel for each draw


def stage(split: dict, store, number: int) -> Stage:
    """What stage 1 or 2 trains and evaluates on.

    Labels come from the split and are checked against those of the store. Base classes of stage 2
    are base1 and novel1.

    Args:
      split: as from `load`.
      store: has name, clip_ids [n], labels [n] and class_names.
      number: 1 or 2.

    Raises:
      UserError: the store lacks clips of the split, or has one under another class.
      ValueError: another stage.
    """
    if number not in (1, 2):
        raise ValueError(f"there are stages 1 and 2, not {number}")
    classes, sets = split["classes"], split["sets"]
    if number == 1:
        base_names, novel_names = classes["base1"], classes["novel1"]
        base, novel = [sets["train1_base"]], [sets["train1_novel"]]
        eval_base, eval_novel = sets["val_base"], [sets["val_novel"]]
    else:
        base_names, novel_names = classes["base1"] + classes["novel1"], classes["novel2"]
        base, novel = [sets[key] for key in STAGE_1], sets["train2_novel"]
        eval_base, eval_novel = sets["test_base"], sets["test_novel"]
    names = tuple(sorted((*base_names, *novel_names)))
    index_of = {cls: index for index, cls in enumerate(names)}
    where = {str(clip): index for index, clip in enumerate(store.clip_ids)}
    theirs = [str(store.class_names[label]) for label in np.asarray(store.labels)]

    def members(*parts: Clips) -> Members:
        pairs = sorted((cls, clip) for part in parts for cls, ids in part.items() for clip in ids)
        _check_against(store.name, split["name"], where, theirs, pairs)
        clips = np.array([where[clip] for _, clip in pairs], np.int64)
        return Members(clips, np.array([index_of[cls] for cls, _ in pairs], np.int32))

    return Stage(
        class_names=names,
        is_base=np.isin(names, base_names),
        base=members(*base),
        novel=tuple(map(members, novel)),
        eval_base=members(eval_base),
        eval_novel=tuple(map(members, eval_novel)),
    )


def shuffled(members: Members, seed: int) -> Members:
    """The same clips with their labels permuted: a control that can learn nothing.

    Every class keeps its number of clips.
    """
    order = _rng(seed, "shuffled labels").permutation(members.labels.size)
    return members._replace(labels=members.labels[order])


def _check_against(
    store_name: str,
    split_name: str,
    where: Mapping[str, int],
    theirs: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Each (class, clip) of the split is in the store, under the same class in any letter case."""
    if missing := [clip for _, clip in pairs if clip not in where]:
        raise UserError(
            f"store {store_name!r} lacks {len(missing)} of {len(pairs)} clips of split "
            f"{split_name!r} ({_examples(missing)}); use the store that the split was made for"
        )
    for ours, clip in pairs:
        other = theirs[where[clip]]
        if other.casefold() != ours.casefold():
            raise UserError(
                f"clip {clip!r} is of class {other!r} in store {store_name!r} but of {ours!r} in "
                f"split {split_name!r}; use the store that the split was made for"
            )


# --- small parts ---------------------------------------------------------------------------------


def _check_request(shots: int, seed: int) -> None:
    if shots < 1:
        raise UserError(f"shots is {shots} but a novel class needs at least 1")
    if seed < 0:
        raise UserError(f"seed is {seed} but must be 0 or more")


def _rng(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each purpose, so that no choice moves another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def _draw(clips: Clips, shots: int, seed: int, draw: int) -> Clips:
    """k clips of each class; all there are where there are fewer, which `audit` then refuses.

    Each class has its own stream, and fewer shots are the first of more: the 1-shot and 5-shot
    draws of one seed differ by what was added.
    """
    return {
        name: _shuffle(ids, seed, f"shots {draw} {name}")[:shots] for name, ids in clips.items()
    }


def _with_shots(
    train1_base: Clips,
    val_base: Clips,
    test_base: Clips,
    novel1: Clips,
    novel2: Clips,
    shots: int,
    seed: int,
) -> dict:
    """The seven sets where what a draw of shots leaves over is what it is evaluated on."""
    train1_novel = _draw(novel1, shots, seed, 0)
    draws = [_draw(novel2, shots, seed, d) for d in range(DRAWS)]
    return {
        "train1_base": train1_base,
        "train1_novel": train1_novel,
        "val_base": val_base,
        "val_novel": _without(novel1, train1_novel),
        "train2_novel": draws,
        "test_base": test_base,
        "test_novel": [_without(novel2, draw) for draw in draws],
    }


def _cut(clips: Clips, share: float, seed: int, purpose: str) -> tuple[Clips, Clips]:
    """A share of the clips of each class, at least one, and the rest."""
    taken = {
        name: _shuffle(ids, seed, f"{purpose} {name}")[: max(1, round(share * len(ids)))]
        for name, ids in clips.items()
    }
    return taken, _without(clips, taken)


def _shuffle(ids: list[str], seed: int, purpose: str) -> list[str]:
    ids = sorted(ids)
    return [ids[at] for at in _rng(seed, purpose).permutation(len(ids))]


def _without(clips: Clips, taken: Clips) -> Clips:
    gone = {name: set(ids) for name, ids in taken.items()}
    return {name: [c for c in ids if c not in gone[name]] for name, ids in clips.items()}


def _pick(clips: Clips, classes: Mapping[str, Iterable[str]], *kinds: str) -> Clips:
    return {name: clips[name] for kind in kinds for name in classes[kind]}


def _groups_of(store) -> dict[str, str]:
    """Group by clip id, of the clips that have one."""
    if store.groups is None:
        return {}
    pairs = zip(store.clip_ids, store.groups, strict=True)
    return {str(clip): str(group) for clip, group in pairs if str(group)}


def _own_group(groups: Mapping[str, str], clip: str) -> str:
    return groups.get(clip) or f"clip {clip}"


def _ordered(clips: Mapping[str, Iterable[str]]) -> Clips:
    """Sorted, without classes that have no clip."""
    return {str(name): ids for name in sorted(clips) if (ids := sorted(map(str, clips[name])))}


class _Part(NamedTuple):
    """One set, or one draw of a set that is drawn several times."""

    label: str  # as in messages: "test_novel[0]"
    key: str
    draw: int | None
    clips: Clips


def _parts(sets: Mapping) -> list[_Part]:
    drawn = [
        _Part(f"{key}[{d}]", key, d, clips) for key in DRAWN for d, clips in enumerate(sets[key])
    ]
    return [_Part(key, key, None, sets[key]) for key in SINGLE] + drawn


def _count(clips: Clips) -> int:
    return sum(map(len, clips.values()))


def _repeated(items: Iterable[str]) -> str | None:
    return next((item for item, times in Counter(items).items() if times > 1), None)


def _examples(items: Iterable[str]) -> str:
    items = sorted(items)
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def _is_strings(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
