"""Own data into the sets of a split: whole groups held out, or a share of the clips."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from avdiff_jax.data.class_text import fold, match_names
from avdiff_jax.data.splits.dealing import Need, deal_groups, list_needs
from avdiff_jax.data.splits.sampling import check_request, cut, draw, pick, rng, with_shots
from avdiff_jax.data.splits.sets import DRAWS, KINDS, Clips, Labelled, examples
from avdiff_jax.data.splits.split_file import Split, finish
from avdiff_jax.data.store import Store
from avdiff_jax.errors import UserError

# Shares of (validation, test) where nothing else is asked for. By clip they are those of Table 1:
# a tenth of the base clips is test, a tenth of the others validation.
SHARES = {"clip": (0.1, 0.1), "group": (0.25, 0.25)}


class _Request(NamedTuple):
    """What there is and what is asked of it."""

    clips: Clips  # of the chosen classes
    classes: dict[str, list[str]]  # of each kind
    groups: Mapping[str, str]  # by clip id; a clip without one is a group of its own
    untested: frozenset[str]  # novel2 classes that may have no test clip
    shots: int
    seed: int
    val: float
    test: float

    def needs(self, name: str) -> tuple[Need, ...]:
        """Which sides together must hold how many clips of a class."""
        needs = list_needs(self.kind_of[name], self.shots)
        return needs[:1] if name in self.untested else needs

    def group(self, clip: str) -> str:
        return self.groups.get(clip) or f"clip {clip}"

    @property
    def kind_of(self) -> dict[str, str]:
        """Class name -> kind."""
        return {name: kind for kind, names in self.classes.items() for name in names}


def make_split(
    store: Store,
    shots: int,
    seed: int,
    *,
    base: int | float | Sequence[str],
    novel1: int | float | Sequence[str],
    novel2: int | float | Sequence[str],
    by: str | None = None,
    val: float | None = None,
    test: float | None = None,
    untested: Collection[str] = (),
    name: str | None = None,
) -> Split:
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
      untested: novel2 classes all of whose clips may be trained on, so that nothing measures them.
      name: of the split; default that of the store.

    Raises:
      UserError: the request does not fit the store, or `audit` refuses the result.
    """
    check_request(shots, seed)
    groups = _groups_of(store)
    by = _choose_unit(by, store.name, groups)
    val, test = _check_shares(by, val, test)
    clips = clips_by_class(store)
    chosen = _choose_classes(set(clips), store, seed, dict(base=base, novel1=novel1, novel2=novel2))
    classes = dict(zip(KINDS, chosen.values(), strict=True))
    request = _Request(
        pick(clips, classes, *KINDS), classes, groups, frozenset(untested), shots, seed, val, test
    )
    sets = _sets_by_group(request) if by == "group" else _sets_by_clip(request)
    left = {*clips} - {name for names in classes.values() for name in names}
    notes = [f"{len(left)} of {len(clips)} classes are in no set: {examples(left)}"] if left else []
    return finish(
        sets, classes, name=name or store.name, shots=shots, seed=seed, by=by, groups=groups,
        notes=notes, untested=untested,
    )


def clips_by_class(store: Labelled) -> Clips:
    """The clip ids of each class of a store that has any."""
    clips: Clips = {}
    for clip, label in zip(store.clip_ids, store.labels, strict=True):
        clips.setdefault(str(store.class_names[int(label)]), []).append(str(clip))
    return clips


def _choose_unit(by: str | None, name: str, groups: dict[str, str]) -> str:
    """"group" or "clip": what is dealt out as a whole."""
    by = by or ("group" if groups else "clip")
    if by not in SHARES:
        raise UserError(f"by is {by!r} but a store can be split by group or by clip")
    if by == "group" and not groups:
        raise UserError(
            f"store {name!r} has no groups but the split is to be by group; import it with "
            "groups or split it with --by clip"
        )
    return by


def _check_shares(by: str, val: float | None, test: float | None) -> tuple[float, float]:
    """The shares of validation and test, the usual ones where none were asked for."""
    usual_val, usual_test = SHARES[by]
    val = usual_val if val is None else float(val)
    test = usual_test if test is None else float(test)
    if not (min(val, test) > 0 and val + test < 1):
        raise UserError(
            f"the shares of validation and test are {val} and {test} but each must be above 0 and "
            "their sum below 1"
        )
    return val, test


def _groups_of(store: Store) -> dict[str, str]:
    """Group by clip id, of the clips that have one."""
    if store.groups is None:
        return {}
    pairs = zip(store.clip_ids, store.groups, strict=True)
    return {str(clip): str(group) for clip, group in pairs if str(group)}


# --- which classes


def _choose_classes(
    with_clips: set[str], store: Store, seed: int, wishes: Mapping
) -> dict[str, list[str]]:
    """The classes of each wish, out of those that have clips."""
    chosen = {
        kind: _named_classes(kind, wish, with_clips, store)
        for kind, wish in wishes.items()
        if isinstance(wish, Iterable)
    }
    named = {name for names in chosen.values() for name in names}
    order = rng(seed, "classes").permutation(sorted(with_clips - named))
    free = [str(name) for name in order]
    others = {kind: wish for kind, wish in wishes.items() if kind not in chosen}
    for kind, size in _sizes(others, len(with_clips)).items():
        if not 0 < size <= len(free):
            raise UserError(
                f"{kind}={others[kind]} asks for {size} classes but {len(free)} of the "
                f"{len(with_clips)} in store {store.name!r} are left; ask for at least 1 and fewer "
                "in all"
            )
        chosen[kind], free = free[:size], free[size:]
    return {kind: chosen[kind] for kind in wishes}


def _named_classes(
    kind: str, wish: Iterable[str], with_clips: set[str], store: Store
) -> list[str]:
    """The classes listed in a wish, as the store spells them."""
    if isinstance(wish, str):
        raise UserError(f"{kind} is the text {wish!r} but a number or a list is needed")
    wanted = [str(name) for name in wish]
    spelled = match_names(wanted, map(str, store.class_names))
    for name in wanted:
        if name not in spelled:
            same = [n for n in {*wanted, *store.class_names} if fold(n) == fold(name)]
            why = f"has {len(store.class_names)} other classes ({examples(store.class_names)})"
            if len(same) > 1:
                why = f"with the list has {examples(same)}: spell it as the store does"
            raise UserError(f"{kind} lists class {name!r} but store {store.name!r} {why}")
        if spelled[name] not in with_clips:
            raise UserError(
                f"{kind} lists class {name!r}, which has 0 clips in store "
                f"{store.name!r}; take it off the list"
            )
    return [spelled[name] for name in wanted]


def _sizes(wishes: Mapping, total: int) -> dict[str, int]:
    """How many classes the counts and fractions in wishes are.

    Fractions are of all classes and rounded at their running sum, so that 0.5 + 0.25 + 0.25 uses
    every class exactly once.
    """
    sizes, running = {}, 0.0
    for kind, wish in wishes.items():
        if isinstance(wish, bool) or not isinstance(wish, int | float | np.number):
            raise UserError(f"{kind} is {wish!r} but a number or a list of classes is needed")
        if isinstance(wish, int | np.integer):
            sizes[kind] = int(wish)
        elif 0 < wish < 1 and running + wish < 1 + 1e-9:
            sizes[kind] = round((running + wish) * total) - round(running * total)
            running += float(wish)
        else:
            raise UserError(
                f"{kind} is {wish} and the fractions before it sum to {running:g} but "
                "fractions lie between 0 and 1 and sum to at most 1; write a count without a point"
            )
    return sizes


# --- which clips


def _sets_by_clip(request: _Request) -> dict:
    clips, classes, seed = request.clips, request.classes, request.seed
    test_base, rest = cut(pick(clips, classes, "base1", "novel1"), request.test, seed, "test")
    val_base, train1_base = cut(pick(rest, classes, "base1"), request.val, seed, "validation")
    novel1, novel2 = pick(rest, classes, "novel1"), pick(clips, classes, "novel2")
    return with_shots(train1_base, val_base, test_base, novel1, novel2, request.shots, seed)


def _sets_by_group(request: _Request) -> dict:
    shots, seed = request.shots, request.seed
    shares = 1 - (request.val + request.test), request.val, request.test
    needs = {name: request.needs(name) for name in request.clips}
    side_of = deal_groups(_content(request), request.kind_of, needs, shares, seed)

    def on(sides: tuple[str, ...], *kinds: str) -> Clips:
        picked = pick(request.clips, request.classes, *kinds)
        return {
            name: [clip for clip in ids if side_of[request.group(clip)] in sides]
            for name, ids in picked.items()
        }

    novel2 = on(("train", "val"), "novel2")
    test_novel = on(("test",), "novel2")
    return {
        "train1_base": on(("train",), "base1"),
        "train1_novel": draw(on(("train",), "novel1"), shots, seed, 0),
        "val_base": on(("val",), "base1"),
        "val_novel": on(("val",), "novel1"),
        "train2_novel": [draw(novel2, shots, seed, d) for d in range(DRAWS)],
        "test_base": on(("test",), "base1", "novel1"),
        "test_novel": [test_novel for _ in range(DRAWS)],
    }


def _content(request: _Request) -> dict[str, Counter]:
    """How many clips of each class every group has."""
    held_by: dict[str, Counter] = {}
    for name, ids in request.clips.items():
        for clip in ids:
            held_by.setdefault(request.group(clip), Counter())[name] += 1
    return held_by
