"""The clips of a stage by the numbers of a store: whom it trains on, whom it measures."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from avdiff_jax.data.class_text import match_names
from avdiff_jax.data.splits import split_file
from avdiff_jax.data.splits.sampling import rng
from avdiff_jax.data.splits.sets import KINDS, STAGE_1, Clips, Labelled, examples
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.errors import UserError

# --- for training --------------------------------------------------------------------------------


class Members(NamedTuple):
    """The clips of one set, ordered by class name, then clip id, whatever the store's order."""

    clips: np.ndarray  # [n] int64, index into the store
    labels: np.ndarray  # [n] int32, index into the stage's class names


class SplitOrigin(NamedTuple):
    """Where a split comes from: splits of one name, way (`by`) and sizes that differ in the seed
    alone are repetitions of one experiment.

    sizes: how many base1, novel1 and novel2 classes. seed: None where the sets came ready made.
    """

    name: str
    by: str
    sizes: tuple[int, ...]
    seed: int | None


def describe_origin(split: Split) -> SplitOrigin:
    """Says where a split comes from."""
    sizes = tuple(len(split["classes"][kind]) for kind in KINDS)
    return SplitOrigin(split["name"], split["by"], sizes, split["seed"])


class Stage(NamedTuple):
    """One stage of the protocol as indices into a store."""

    class_names: tuple[str, ...]  # [C], sorted: base and novel classes of the stage
    is_base: np.ndarray  # [C] bool
    base: Members  # stage 1: train1_base; stage 2: its union with train1_novel and val
    novel: tuple[Members, ...]  # the k shots: stage 1 once, stage 2 for each draw
    eval_base: Members  # stage 1: val_base; stage 2: test_base
    eval_novel: tuple[Members, ...]  # stage 1: (val_novel,); stage 2: test_novel for each draw
    origin: SplitOrigin | None = None
    fingerprint: str = ""  # of the split


def stage(split: Split, store: Labelled, number: int) -> Stage:
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
    spelled = match_names([name for kind in KINDS for name in classes[kind]], {*theirs})

    def members(*parts: Clips) -> Members:
        pairs = sorted((cls, clip) for part in parts for cls, ids in part.items() for clip in ids)
        _check_against(store.name, split["name"], where, theirs, spelled, pairs)
        clips = np.array([where[clip] for _, clip in pairs], np.int64)
        return Members(clips, np.array([index_of[cls] for cls, _ in pairs], np.int32))

    return Stage(
        class_names=names,
        is_base=np.isin(names, base_names),
        base=members(*base),
        novel=tuple(map(members, novel)),
        eval_base=members(eval_base),
        eval_novel=tuple(map(members, eval_novel)),
        origin=describe_origin(split),
        fingerprint=split_file.fingerprint(split),
    )


def concat_members(*members: Members) -> Members:
    """Puts several sets together, one after the other."""
    return Members(*(np.concatenate(parts) for parts in zip(*members, strict=True)))


def shuffle_labels(members: Members, seed: int) -> Members:
    """The same clips with their labels permuted: a control that can learn nothing.

    Every class keeps its number of clips.
    """
    order = rng(seed, "shuffled labels").permutation(members.labels.size)
    return members._replace(labels=members.labels[order])


def _check_against(
    store_name: str,
    split_name: str,
    where: Mapping[str, int],
    theirs: Sequence[str],
    spelled: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Each (class, clip) of the split is in the store, under the same class, as
    `match_names` has `spelled` it there."""
    if missing := [clip for _, clip in pairs if clip not in where]:
        raise UserError(
            f"store {store_name!r} lacks {len(missing)} of {len(pairs)} clips of split "
            f"{split_name!r} ({examples(missing)}); use the store that the split was made for"
        )
    for ours, clip in pairs:
        other = theirs[where[clip]]
        if other != spelled.get(ours):
            raise UserError(
                f"clip {clip!r} is of class {other!r} in store {store_name!r} but of {ours!r} in "
                f"split {split_name!r}; use the store that the split was made for"
            )
