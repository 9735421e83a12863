"""Everything that would make the results of a split wrong."""

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any

from avdiff_jax.data.splits.sets import (
    DRAWS,
    HOLDS,
    SHOTS,
    STAGE_1,
    Part,
    examples,
    parts,
    repeated,
)
from avdiff_jax.errors import UserError


def audit(split: Mapping[str, Any], groups: Mapping[str, str | None] | None) -> list[str]:
    """Checks a split for everything that would make its results wrong.

    Args:
      split: of the right shape (see `load`).
      groups: group of a clip id, as far as there is one; None where nothing is known.

    Returns:
      One line for each pair of training and evaluation sets that share groups, for splits that
      were not made by group: the public lists themselves cut one video into both.

    Raises:
      UserError: a class is in two of base1, novel1, novel2; a set lacks a class (but test_novel one
        of `untested`) or has one that it should not have; a class has not k shots; a clip is in two
        sets of one stage or draw, or in one set twice; a split by group has a group on both sides.
    """
    name, shots, sets = split["name"], split["shots"], split["sets"]
    _audit_classes(name, split["classes"])
    if not len(sets["train2_novel"]) == len(sets["test_novel"]) == DRAWS:
        raise UserError(
            f"split {name!r} has {len(sets['train2_novel'])} draws of train2_novel and "
            f"{len(sets['test_novel'])} of test_novel but needs {DRAWS} of each"
        )
    everything = parts(sets)
    for part in everything:
        _audit_counts(name, part, split["classes"], shots, split.get("untested", ()))
    flat = {part.label: [c for ids in part.clips.values() for c in ids] for part in everything}
    _audit_clips(name, everything, flat)
    return _audit_groups(split, groups, flat) if groups else []


def _audit_classes(name: str, classes: Mapping[str, list[str]]) -> None:
    seen: dict[str, str] = {}
    for kind, members in classes.items():
        if not members:
            raise UserError(f"split {name!r} has 0 classes in {kind} but needs at least 1")
        for cls in members:
            if cls in seen:
                raise UserError(
                    f"split {name!r} has class {cls!r} in {seen[cls]} and in {kind}; "
                    "remove it from one of them"
                )
            seen[cls] = kind


def _audit_counts(
    name: str, part: Part, classes: Mapping[str, list[str]], shots: int, untested: Collection[str]
) -> None:
    """A set has clips of each of its classes and of no other, and as many as there are shots."""
    wanted = {cls for kind in HOLDS[part.key] for cls in classes[kind]}
    if extra := set(part.clips) - wanted:
        raise UserError(
            f"split {name!r} has clips of class {min(extra)!r} in {part.label}, which is for "
            f"{' and '.join(HOLDS[part.key])} classes; move them or name the class there"
        )
    for cls in sorted(wanted):
        count = len(part.clips.get(cls, ()))
        if part.key in SHOTS and count != shots:
            raise UserError(
                f"split {name!r} has {count} clips of class {cls!r} in {part.label} but needs "
                f"exactly {shots} shots; change the shots or leave the class out"
            )
        if not count and not (part.key == "test_novel" and cls in untested and part.clips):
            raise UserError(
                f"split {name!r} has no clip of class {cls!r} in {part.label}; give it more clips "
                "or leave the class out"
            )


def _audit_clips(name: str, everything: list[Part], flat: Mapping[str, list[str]]) -> None:
    """No clip is in a set twice, or in two sets of which one evaluates what the other trains."""
    for label, ids in flat.items():
        if twice := repeated(ids):
            raise UserError(f"split {name!r} lists clip {twice!r} twice in {label}; remove one")
    unique = {label: set(ids) for label, ids in flat.items()}
    for left, right in combinations(everything, 2):
        if None not in (left.draw, right.draw) and left.draw != right.draw:
            continue  # a shot of one draw is a test clip of another
        if both := unique[left.label] & unique[right.label]:
            raise UserError(
                f"split {name!r} has {len(both)} clips in both {left.label} and {right.label} "
                f"({examples(both)}); keep each in one of them"
            )


def _audit_groups(
    split: Mapping[str, Any], groups: Mapping[str, str | None], flat: Mapping[str, list[str]]
) -> list[str]:
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
            group for label in evaluation for c in flat[label]
            if (group := groups.get(c)) and group in trained
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
            f"{where}: {len(shared)} groups ({examples(shared)}) are on both sides, with "
            f"{shared.total()} of {sum(len(flat[label]) for label in evaluation)} evaluation clips"
        )
    return report
