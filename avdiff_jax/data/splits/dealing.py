"""Whole groups dealt out to training, validation and test, so that no class falls short.

Groups are dealt in a random order, each to the side that it brings nearest to its share. Where that
leaves a class short, as few clips as possible change sides; which, an integer program says exactly,
so that a way is found wherever there is one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from avdiff_jax.data.splits.sampling import rng
from avdiff_jax.errors import UserError

SIDES = ("train", "val", "test")
SEARCH_SECONDS = 60.0  # after which the best way so far counts; the sets that were tried took less
ADVICE = (
    "ask for fewer shots, make it another kind of class, leave it out, or hold out clips instead "
    "of groups with --by clip"
)


class Need(NamedTuple):
    """So many clips of a class, at least, must lie on these sides together."""

    sides: tuple[str, ...]
    clips: int

    def __str__(self):
        return " and ".join(self.sides)


def list_needs(kind: str, shots: int) -> tuple[Need, ...]:
    """Lists what a class of a kind needs; of all but the first need, one clip is enough."""
    return {
        "base1": (Need(("train",), 1), Need(("val",), 1), Need(("test",), 1)),
        "novel1": (Need(("train",), shots), Need(("val",), 1), Need(("test",), 1)),
        "novel2": (Need(("train", "val"), shots), Need(("test",), 1)),
    }[kind]


def deal_groups(
    content: Mapping[str, Mapping[str, int]],
    kind_of: Mapping[str, str],
    needs_of: Mapping[str, Sequence[Need]],
    shares: Sequence[float],
    seed: int,
) -> dict[str, str]:
    """Chooses the side of each group.

    Args:
      content: group -> class -> how many clips.
      kind_of: class -> "base1", "novel1" or "novel2".
      needs_of: class -> what it needs, as `list_needs` gives it.
      shares: of `SIDES`, which sum to 1.

    Raises:
      UserError: there is no way in which every class has what it needs; names one that has not.
    """
    groups, names = sorted(content), sorted(kind_of)
    row, column = ({name: i for i, name in enumerate(order)} for order in (groups, names))
    clips = np.zeros((len(groups), len(names)), np.int64)
    for group, of_group in content.items():
        for name, count in of_group.items():
            clips[row[group], column[name]] = count
    needs = [needs_of[name] for name in names]
    for i, name in enumerate(names):
        _check_alone(f"class {name!r} ({kind_of[name]})", clips[:, i], needs[i])
    order = [row[str(group)] for group in rng(seed, "groups 0").permutation(groups)]
    sides = _deal_by_shares(order, clips, np.array(shares))
    sides, short = _mend(sides, clips, needs)
    if short.any():
        i = int(short.argmax())
        raise UserError(
            f"no way was found to deal out {len(groups)} groups, which share classes, so that "
            f"class {names[i]!r} ({kind_of[names[i]]}) has clips enough in its {needs[i][0]} "
            f"groups, where it needs {needs[i][0].clips}, and the other classes have theirs; "
            f"{ADVICE}"
        )
    return {group: SIDES[side] for group, side in zip(groups, sides, strict=True)}


def _check_alone(what: str, clips: np.ndarray, needs: Sequence[Need]) -> None:
    """Raises UserError where a class with so many clips in each group can never have what it needs,
    whatever becomes of other classes."""
    sizes = np.sort(clips[clips > 0])
    if len(sizes) < len(needs):
        raise UserError(
            f"{what} has clips in {len(sizes)} groups but needs {len(needs)} to be held out by "
            f"group; {ADVICE}"
        )
    others = len(needs) - 1  # sides for which the smallest groups will do
    if (most := int(sizes[others:].sum())) < needs[0].clips:
        raise UserError(
            f"{what} has {sizes.sum()} clips in {len(sizes)} groups and keeps at most {most} in "
            f"its {needs[0]} groups, however they are dealt out, but needs {needs[0].clips}; "
            f"{ADVICE}"
        )


def _deal_by_shares(order: Sequence[int], clips: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Deals out the groups in this order and returns their sides [G], by position in `SIDES`.

    Each group goes where it brings the shares of its classes nearest to those asked for. This
    serves groups that hold one class (source videos) and groups that hold all of them (subjects)
    alike.
    """
    totals, held = clips.sum(0), np.zeros((len(SIDES), clips.shape[1]))
    sides = np.zeros(len(clips), np.int64)
    for group in order:
        at = np.flatnonzero(clips[group])
        gap = held[:, at] / totals[at] - shares[:, None]
        added = clips[group, at] / totals[at]
        # How much the squared gap grows on each side.
        sides[group] = np.argmin((added * (2 * gap + added)).sum(axis=1))
        held[sides[group], at] += clips[group, at]
    return sides


def _count_short(
    sides: np.ndarray, clips: np.ndarray, needs: Sequence[Sequence[Need]]
) -> np.ndarray:
    """Counts the clips that each class lacks, [C]."""
    held = np.stack([clips[sides == side].sum(0) for side in range(len(SIDES))])
    return np.array([
        sum(
            max(0, need.clips - int(held[[SIDES.index(s) for s in need.sides], i].sum()))
            for need in of_class
        )
        for i, of_class in enumerate(needs)
    ])


def _mend(
    sides: np.ndarray, clips: np.ndarray, needs: Sequence[Sequence[Need]]
) -> tuple[np.ndarray, np.ndarray]:
    """Moves groups of the classes that fall short, and where that does not suffice those of all
    classes that share groups with them; returns the sides and what each class still lacks, [C]."""
    short = _count_short(sides, clips, needs)
    if short.any():
        of_short = np.asarray((clips[:, short > 0] > 0).any(1))
        for moving in (of_short, _reach(of_short, clips)):
            sides = _move_fewest(sides, clips, needs, moving)
            short = _count_short(sides, clips, needs)
            if not short.any():
                break
    return sides, short


def _reach(groups: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Adds to `groups`, [G] of truth, those that share a class with one of them, directly or by way
    of others."""
    reached = np.asarray((clips[:, (clips[groups] > 0).any(0)] > 0).any(1))
    return groups if reached.sum() == groups.sum() else _reach(reached, clips)


def _move_fewest(
    sides: np.ndarray, clips: np.ndarray, needs: Sequence[Sequence[Need]], moving: np.ndarray
) -> np.ndarray:
    """Returns sides under which the classes lack as few clips as possible, and of these some for
    which the fewest clips have moved.

    Args:
      moving: [G] which groups may change their side.
    """
    free = np.flatnonzero(moving)
    rows, least = [], []
    for i in np.flatnonzero((clips[free] > 0).any(0)).tolist():
        for need in needs[i]:
            counts = np.isin(range(len(SIDES)), [SIDES.index(side) for side in need.sides])
            fixed = clips[~moving & counts[sides], i].sum()
            # Group by group, side by side.
            rows.append(sparse.kron(sparse.csr_array(clips[free, i][None]), counts[None]))
            least.append(need.clips - fixed)
    n, m = len(free) * len(SIDES), len(rows)
    enough = sparse.hstack([sparse.vstack(rows), sparse.eye_array(m)])
    one_side = sparse.kron(sparse.eye_array(len(free)), np.ones((1, len(SIDES))))
    one_side = sparse.hstack([one_side, sparse.csr_array((len(free), m))])
    # All moves together weigh less than a single clip that is lacking.
    weight = clips[free].sum(1) / (2 * clips[free].sum())
    stays = np.eye(len(SIDES))[sides[free]]
    moved = weight[:, None] * (1 - stays)
    # Arrays where scipy's own types know numbers alone.
    most: Any = np.repeat([1, np.inf], [n, m])
    needed: Any = np.array(least)
    found = milp(
        np.concatenate([moved.ravel(), np.ones(m)]),
        integrality=np.repeat([1, 0], [n, m]),
        bounds=Bounds(0, most),
        constraints=[
            LinearConstraint(enough, needed, np.inf), LinearConstraint(one_side, 1, 1),
        ],
        options={"time_limit": SEARCH_SECONDS},
    )
    if found.x is None:  # no way at all in that time
        return sides
    new = sides.copy()
    new[free] = found.x[:n].reshape(-1, len(SIDES)).argmax(1)
    return new
