"""Which classes are base and which novel, and how many shots: by the clips that each class has."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from avdiff_jax.data.class_text import NameMatcher, list_names, near
from avdiff_jax.data.splits.from_store import make_split
from avdiff_jax.data.splits.sampling import check_request, rng
from avdiff_jax.data.splits.sets import examples
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.data.store import Store
from avdiff_jax.errors import UserError, tell_count

LEAST_BASE = 10  # clips of a base class, where enough classes have them
MOST_SHOTS = 5
SHARE_NOVEL = 0.3  # of the classes, where none has too few clips to be base
SHARE_NOVEL1 = 1 / 3  # of the base classes: they stand for novel ones when settings are chosen
SHARE_HELD_OUT = 0.2  # of the clips of a class, for validation and for the test each


class Supply(NamedTuple):
    """The clips of a class, by the units that are held out as a whole: groups, or single clips.

    units: how many clips each has, the smallest first.
    """

    units: tuple[int, ...]

    @property
    def clips(self) -> int:
        """All of them."""
        return sum(self.units)

    @property
    def can_be_base(self) -> bool:
        """Whether there is a unit for training, for validation and for the test."""
        return len(self.units) >= 3

    @property
    def shots_beside_both(self) -> int:
        """How many are left where units are held out for validation and for the test."""
        if not self.can_be_base:
            return 0
        return self.clips - max(self.units[0], round(SHARE_HELD_OUT * self.clips)) - self.units[1]

    @property
    def shots_beside_test(self) -> int:
        """How many clips can be shots where one unit is held out for the test."""
        return sum(self.units[1:])


class Chosen(NamedTuple):
    """The classes of a split by kind, its shots, and what is to be said of the choice.

    untested: novel classes all of whose clips are shots.
    """

    base1: list[str]
    novel1: list[str]
    novel2: list[str]
    shots: int
    untested: list[str]
    notes: tuple[str, ...]


def choose_split(
    store: Store, *, shots: int | None = None, novel: Sequence[str] | None = None,
    base: Sequence[str] | None = None, by: str | None = None, seed: int = 0,
) -> tuple[Split, tuple[str, ...]]:
    """Makes a split of all classes of a store, and remarks on how they were chosen.

    Args:
      shots: of a novel class; default: what the rarest allows, up to 5.
      novel, base: names of classes; default: what has too few clips to be base is novel.
      by: "group" or "clip", what is held out as a whole; default: groups where there are some.
      seed: of all that is drawn.

    Raises:
      UserError: the classes have too few clips for it, or the names contradict each other.
    """
    by = by or ("group" if store.groups is not None else "clip")
    supply = measure_supply(store, by)
    chosen, notes = choose_classes(supply, shots, novel, base, seed), []
    if without := sorted({*store.class_names} - {*supply}):
        notes.append(f"No clip gave features, so not among the classes: {', '.join(without)}.")
    share = SHARE_HELD_OUT if by == "clip" else None
    split = make_split(
        store, chosen.shots, seed, base=chosen.base1, novel1=chosen.novel1, novel2=chosen.novel2,
        by=by, val=share, test=share, untested=chosen.untested,
    )
    return split, (*notes, *chosen.notes)


def measure_supply(store: Store, by: str) -> dict[str, Supply]:
    """What each class with clips has."""
    groups = [None] * len(store.clip_ids) if store.groups is None else store.groups
    names = (str(store.class_names[int(label)]) for label in store.labels)
    return count_supply(zip(names, groups, strict=True), by)


def count_supply(labels: Iterable[tuple[str, str | None]], by: str) -> dict[str, Supply]:
    """What each class has of clips that are given as their class and group."""
    units: dict[str, Counter] = {}
    for i, (name, group) in enumerate(labels):
        unit = ("group", str(group)) if by == "group" and group else ("clip", str(i))
        units.setdefault(name, Counter())[unit] += 1
    return {name: Supply(tuple(sorted(units[name].values()))) for name in sorted(units)}


def check_wishes(
    labels: Sequence[tuple[str, str | None]], *, shots: int | None, novel: Sequence[str] | None,
    base: Sequence[str] | None, by: str | None, seed: int,
) -> None:
    """Refuses what cannot be even if every clip gives features; other arguments as of
    `choose_split`.

    Args:
      labels: class and group of each clip.

    Raises:
      UserError: as `choose_split`.
    """
    by = by or ("group" if any(group for _, group in labels) else "clip")
    choose_classes(count_supply(labels, by), shots, novel, base, seed)


def choose_classes(
    supply: Mapping[str, Supply], shots: int | None, novel: Sequence[str] | None,
    base: Sequence[str] | None, seed: int,
) -> Chosen:
    """Chooses the kind of every class, and the shots; arguments as of `choose_split`.

    Raises:
      UserError: as `choose_split`.
    """
    base_names, novel_names, notes = divide(supply, novel, base, seed)
    shots, more = choose_shots(supply, base_names, novel_names, shots, seed)
    untested = [name for name in novel_names if supply[name].shots_beside_test < shots]
    most = find_most_shots(supply, base_names, novel_names)
    if len(untested) == len(novel_names):
        fewer = f"ask for at most {most}, or " if most else ""
        raise UserError(
            f"with {tell_count(shots, 'shot')} no clip of a novel class ({examples(novel_names)}) "
            f"is left to be tested on: {fewer}add a clip of one of them"
        )
    able = [name for name in base_names if supply[name].shots_beside_both >= shots]
    if not able:
        raise UserError(
            f"no base class ({examples(base_names)}) has the clips to try {shots} shots on before "
            f"the test: ask for at most {most}, or add clips of one of them"
        )
    count = min(max(1, round(SHARE_NOVEL1 * len(base_names))), len(base_names) - 1, len(able))
    novel1 = sorted(map(str, rng(seed, "stage 1").permutation(able)[:count]))
    base1 = [name for name in base_names if name not in novel1]
    return Chosen(base1, novel1, novel_names, shots, untested, (*notes, *more))


def divide(
    supply: Mapping[str, Supply], novel: Sequence[str] | None, base: Sequence[str] | None,
    seed: int,
) -> tuple[list[str], list[str], list[str]]:
    """Divides all classes into base and novel ones; returns both, and remarks."""
    able = [name for name in supply if supply[name].can_be_base]
    notes: list[str] = []
    if base is not None:
        base_names = spell(base, supply, "base")
        for name in base_names:
            if name not in able:
                raise UserError(
                    f"class {name!r} cannot be base with {count_text(supply[name])}, 3 are needed: "
                    "take it off the base classes"
                )
    elif novel is not None:
        base_names = [name for name in able if name not in spell(novel, supply, "novel")]
    else:
        base_names = [name for name in able if supply[name].clips >= LEAST_BASE]
        if len(base_names) < 2:
            base_names = able
    novel_names = [name for name in supply if name not in base_names]
    if novel is not None:
        check_novel(spell(novel, supply, "novel"), base_names, novel_names, base is not None)
        if joined := sorted({*novel_names} - {*spell(novel, supply, "novel")}):
            notes.append(f"Too few clips to be base, so novel too: {', '.join(joined)}.")
    elif base is None and not novel_names and len(base_names) > 2:
        count = min(max(1, round(SHARE_NOVEL * len(base_names))), len(base_names) - 2)
        picked = rng(seed, "novel classes").permutation(base_names)[:count]
        novel_names = sorted(map(str, picked))
        base_names = [name for name in base_names if name not in novel_names]
        notes.append(
            f"{say_how_large(supply)}, so {count} of {len(supply)} were drawn to stand as novel: "
            f"{', '.join(novel_names)} (--novel chooses them)."
        )
    if len(base_names) < 2 or not novel_names:
        raise UserError(
            f"there are {len(base_names)} classes to be base ones and {len(novel_names)} to be "
            "novel ones, but two and one are needed, a base one with 3 clips (in as many groups, "
            "where groups are held out): add classes or clips, change which are novel, or hold out "
            "clips instead of groups"
        )
    return base_names, novel_names, notes


def say_how_large(supply: Mapping[str, Supply]) -> str:
    """How many classes have the clips of a base class, where all or hardly any have."""
    large = [name for name in supply if supply[name].clips >= LEAST_BASE]
    if len(large) == len(supply):
        return f"All classes have {LEAST_BASE} clips or more"
    but = f" but {large[0]!r}" if large else ""
    return f"All classes{but} have fewer than {LEAST_BASE} clips"


def check_novel(
    novel: Collection[str], base: Collection[str], rest: Collection[str], both_named: bool
) -> None:
    """Raises UserError where the names of novel classes contradict those of base ones."""
    if twice := sorted({*novel} & {*base}):
        raise UserError(f"class {twice[0]!r} is named as base and as novel: name it once")
    if both_named and (left := sorted({*rest} - {*novel})):
        raise UserError(f"class {left[0]!r} ({len(left)} such) is named neither as base nor as "
                        f"novel: name it, or leave out one of the lists")


def spell(names: Sequence[str], known: Collection[str], kind: str) -> list[str]:
    """The names as the clips have them. Raises UserError naming those that have no clips."""
    find = NameMatcher(known)
    lacking = {name: near(name, known) for name in names if find(name) is None}
    if lacking:
        raise UserError(f"no clip has a class named {list_names(lacking)} ({len(lacking)} of the "
                        f"{len(names)} {kind} classes asked for): change the names")
    return sorted({found for name in names if (found := find(name)) is not None})


def choose_shots(
    supply: Mapping[str, Supply], base: Sequence[str], novel: Sequence[str], shots: int | None,
    seed: int,
) -> tuple[int, list[str]]:
    """The shots, and a remark where classes limit them.

    Raises:
      UserError: a class has fewer clips than were asked for.
    """
    if shots is not None:
        check_request(shots, seed)
        short = min(novel, key=lambda name: supply[name].clips)
        if supply[short].clips < shots:
            raise UserError(
                f"shots is {shots} but class {short!r} has {count_text(supply[short])}: ask for at "
                f"most {find_most_shots(supply, base, novel) or supply[short].clips}")
        return shots, []
    largest = max(base, key=lambda name: supply[name].shots_beside_both)
    of_base = min(MOST_SHOTS, supply[largest].shots_beside_both)
    of_novel = {name: supply[name].shots_beside_test or supply[name].clips for name in novel}
    chosen = min(of_base, *of_novel.values())
    if chosen == MOST_SHOTS:
        return chosen, []
    if chosen == of_base:
        return chosen, [blame_base(supply, largest, chosen)]
    return chosen, [blame_novel(supply, of_novel, chosen, of_base)]


def find_most_shots(
    supply: Mapping[str, Supply], base: Sequence[str], novel: Sequence[str]
) -> int:
    """The most shots that every novel class has, with a clip left to test one of them on and a base
    class to try so many on; 0 where novel classes leave none for the test."""
    return min(min(supply[name].clips for name in novel),
               max(supply[name].shots_beside_test for name in novel),
               max(supply[name].shots_beside_both for name in base))


def blame_base(supply: Mapping[str, Supply], largest: str, shots: int) -> str:
    """Says why base classes allow so few shots."""
    unit = "clip" if {*supply[largest].units} <= {1} else "group"
    return (f"{tell_count(shots, 'shot')}, because settings are tried on base classes, which keep "
            f"a {unit} for that choice and one for the test beside their shots, and no base class "
            f"has more for it than {largest!r} with {count_text(supply[largest])}.")


def blame_novel(
    supply: Mapping[str, Supply], allowed: Mapping[str, int], shots: int, of_base: int
) -> str:
    """Says which novel classes allow so few shots, what it costs the others, and what to do.

    Args:
      allowed: shots that each novel class allows.
      of_base: what base classes allow.
    """
    few = sorted(name for name in allowed if allowed[name] == shots)
    rest = [allowed[name] for name in allowed if name not in few]
    them = "that class" if len(few) == 1 else "those classes"
    have = ", ".join(f"{name!r} has {count_text(supply[name])}" for name in few[:3])
    have += f", and {len(few) - 3} more have as few" if len(few) > 3 else ""
    cost = f", where without {them} there would be {min(of_base, *rest)}" if rest else ""
    return (f"ONLY {tell_count(shots, 'shot').upper()}, because {have}: no novel class "
            f"({len(allowed)} in all) is learnt from more{cost}. Leave {them} out of the clips, or "
            f"give {'it' if len(few) == 1 else 'them'} more clips"
            f"{offer_more(supply, allowed, shots, of_base)}.")


def offer_more(
    supply: Mapping[str, Supply], novel: Collection[str], shots: int, of_base: int
) -> str:
    """Names the shots that may be asked for where some classes then are not measured."""
    most = min(of_base, *(supply[name].clips for name in novel))
    lost = sorted(name for name in novel if supply[name].shots_beside_test < most)
    if most <= shots or len(lost) == len(novel):
        return ""
    return f", or ask for --shots {most}, which leaves no clip of {examples(lost)} for the test"


def count_text(supply: Supply) -> str:
    """"4 clips", or "4 clips in 2 groups"."""
    groups = "" if {*supply.units} <= {1} else f" in {len(supply.units)} groups"
    return f"{supply.clips} clip{'s' if supply.clips > 1 else ''}{groups}"
