"""Groups dealt out to sides: every set that can be split is, and one that cannot says why."""

import time
from collections import Counter

import numpy as np
import pytest

from avdiff_jax.data.splits.dealing import SIDES, deal_groups, list_needs
from avdiff_jax.errors import UserError

SHARES = (0.5, 0.25, 0.25)
KINDS = ("base1", "novel1", "novel2")


def deal(content, kind_of, shots, seed):
    needs_of = {name: list_needs(kind, shots) for name, kind in kind_of.items()}
    return deal_groups(content, kind_of, needs_of, SHARES, seed)


def lacking(content, kind_of, shots, side_of):
    """The needs that are not met, counted anew."""
    held = Counter()
    for group, of_group in content.items():
        for name, count in of_group.items():
            held[name, side_of[group]] += count
    return [
        (name, need) for name, kind in kind_of.items() for need in list_needs(kind, shots)
        if sum(held[name, side] for side in need.sides) < need.clips
    ]


def own_groups(sizes, kinds):
    """Groups of one class each, of these sizes, for a class of each kind."""
    content = {
        f"{i} {j}": {f"c{i}": size} for i in range(len(kinds)) for j, size in enumerate(sizes)
    }
    return content, {f"c{i}": kind for i, kind in enumerate(kinds)}


@pytest.mark.parametrize("seed", range(5))
def test_a_large_group_and_small_ones(seed):
    """Five shots can only come from the large one."""
    content, kind_of = own_groups([10, 1, 1, 1], ["base1"] * 4 + ["novel1"] * 2 + ["novel2"] * 2)
    side_of = deal(content, kind_of, 5, seed)
    assert not lacking(content, kind_of, 5, side_of)
    assert side_of["4 0"] == side_of["5 0"] == "train"


@pytest.mark.parametrize("seed", range(4))
def test_many_classes_of_few_groups(seed):
    kinds = [KINDS[0]] * 100 + [KINDS[1]] * 50 + [KINDS[2]] * 50
    content, kind_of = own_groups([5, 3, 2, 1], kinds)
    side_of = deal(content, kind_of, 5, seed)
    assert not lacking(content, kind_of, 5, side_of)
    clips = Counter()
    for group, side in side_of.items():
        clips[side] += sum(content[group].values())
    # Mending leaves the shares nearly as they are.
    np.testing.assert_allclose([clips[side] / 2200 for side in SIDES], SHARES, atol=0.06)


def test_the_seed_decides_who_goes_where():
    content, kind_of = own_groups([2] * 8, KINDS)
    one, again, other = (deal(content, kind_of, 1, seed) for seed in (0, 0, 1))
    assert one == again != other


def planted(rng):
    """A set with a way to split it: sides are chosen first, and then clips that meet each need."""
    shots, n_groups = int(rng.integers(1, 8)), int(rng.integers(6, 30))
    kind_of = {f"c{i}": KINDS[i % 3] for i in range(rng.integers(3, 15))}
    sides = np.array([*SIDES, *rng.choice(SIDES, n_groups - 3)])
    content = {f"g{i}": Counter() for i in range(n_groups)}
    for name, kind in kind_of.items():
        for need in list_needs(kind, shots):
            fit = [f"g{i}" for i in np.flatnonzero(np.isin(sides, need.sides))]
            # As tight as can be: so many clips and no more, in as many groups as chance has it.
            for group in rng.choice(fit, need.clips):
                content[group][name] += 1
    return {group: of_group for group, of_group in content.items() if of_group}, kind_of, shots


@pytest.mark.parametrize("sets", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_way_is_found_wherever_there_is_one(sets):
    rng, started = np.random.default_rng(0), time.monotonic()
    for number in range(sets):
        content, kind_of, shots = planted(rng)
        side_of = deal(content, kind_of, shots, number)
        assert side_of.keys() == content.keys() and not lacking(content, kind_of, shots, side_of)
    print(f"{sets} sets with a known split: all found, in {time.monotonic() - started:.0f} s")


@pytest.mark.parametrize("sizes, kind, shots, complaint", [
    ([3, 3, 3], "novel1", 5, r"class 'c0' \(novel1\) has 9 clips in 3 groups and keeps at most 3 "
                             "in its train groups, however they are dealt out, but needs 5"),
    ([9, 2], "novel2", 10, r"keeps at most 9 in its train and val groups, .* but needs 10"),
    ([9, 9], "base1", 1, r"class 'c0' \(base1\) has clips in 2 groups but needs 3 to be held out"),
])
def test_a_class_that_can_never_have_enough_is_named(sizes, kind, shots, complaint):
    content, kind_of = own_groups(sizes, [kind])
    with pytest.raises(UserError, match=complaint):
        deal(content, kind_of, shots, 0)


def test_classes_that_cannot_all_have_enough():
    """Each can for itself: but two need the same three groups for training in turns."""
    content = {"x": {"a": 9, "b": 1}, "y": {"a": 1, "b": 9}, "z": {"a": 1, "b": 1}}
    deal({g: {"a": n["a"]} for g, n in content.items()}, {"a": "novel1"}, 9, 0)
    with pytest.raises(UserError, match=r"3 groups, which share classes, so that class '[ab]'"):
        deal(content, {"a": "novel1", "b": "novel1"}, 9, 0)
