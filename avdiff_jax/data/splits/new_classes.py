"""Which clips a trained model learns new classes from, and which are held out of that."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from avdiff_jax.data.class_text import NameMatcher, fold
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.splits import sampling
from avdiff_jax.data.splits.from_store import clips_by_class
from avdiff_jax.data.splits.sets import Clips, examples
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.errors import UserError, note
from avdiff_jax.io import text_files


class NewClasses(NamedTuple):
    """Clip ids by class: of new classes to learn from, and of all that the model then knows."""

    learnt: Clips
    held_out: Clips


def find_new(
    source: ClipSource, known: Collection[str], only: Sequence[str] | None = None
) -> Clips:
    """The clips of a source by class, for the classes that a model does not know.

    Args:
      known: classes of the model.
      only: the classes to add, as `spell_names` takes them; all if None.

    Raises:
      UserError: there are none, or one of `only` is known already or has no clip.
    """
    clips = clips_by_class(source.labelled())
    fresh = {name: ids for name, ids in clips.items() if name not in known}
    only = spell_names(only or (), clips)
    for name in only:
        if name not in fresh:
            why = "the model knows it already" if name in known else (
                f"{source.place} has no clip of it")
            raise UserError(f"--classes names {name!r}, but {why}: leave it out")
    if not fresh:
        raise UserError(f"the model knows all {len({*source.names()})} classes of {source.place}: "
                        "name a source with clips of new ones")
    fresh = {name: fresh[name] for name in only} if only else fresh
    spelled = {fold(name): name for name in known}
    for name in fresh:
        if (other := spelled.get(fold(name))) is not None:
            note(f"{name!r} is added beside {other!r}, which the model knows: rename one of them "
                 "if they are the same")
    return fresh


def spell_names(words: Iterable[str], clips: Collection[str]) -> list[str]:
    """The names that words stand for, as the clips spell them: a word is a name, a text file of one
    name a line, or names with commas between them. A name that nobody has is left as it is."""
    find, names = NameMatcher(clips), []
    for word in words:
        if find(word):
            parts = [word]
        elif os.path.isfile(word):
            parts = text_files.lines(word, "class list")
        else:
            parts = word.split(",")
        names += [find(part) or part for part in parts]
    return names


def draw_shots(
    source: ClipSource, known: Collection[str], fresh: Clips, shots: int | None, seed: int
) -> NewClasses:
    """So many clips of each new class to learn from (all if None), and what is left over."""
    learnt = sampling.draw(fresh, shots, seed, 0) if shots else fresh
    held_out = {
        name: sorted({*ids} - {*learnt.get(name, ())})
        for name, ids in clips_by_class(source.labelled()).items() if name in known or name in fresh
    }
    return NewClasses(learnt, held_out)


def take_from_split(
    split: Split, place: str, draw: int, known: Collection[str], fresh: Clips
) -> NewClasses:
    """The shots of a draw of a split, and its test clips; `place` is the file, for messages.

    Raises:
      UserError: there is no such draw, or a new class is none of the novel ones of the split.
    """
    sets = split["sets"]
    if not 0 <= draw < len(sets["train2_novel"]):
        raise UserError(f"--draw={draw}: {place} has the draws 0..{len(sets['train2_novel']) - 1}")
    learnt = {name: ids for name, ids in sets["train2_novel"][draw].items() if name in fresh}
    if missing := sorted({*fresh} - {*learnt}):
        raise UserError(f"{missing[0]!r} is none of the novel classes of {place}: name the "
                        "classes to add with --classes, or use --shots")
    tested = {**sets["test_base"], **sets["test_novel"][draw]}
    return NewClasses(
        learnt, {name: ids for name, ids in tested.items() if name in known or name in fresh}
    )


def select(source: ClipSource, by_class: Clips) -> ClipSource:
    """The clips of a source that are listed by their ids.

    Raises:
      UserError: the source lacks one.
    """
    wanted = {clip for ids in by_class.values() for clip in ids}
    if lost := wanted - {*map(str, source.clip_ids)}:
        raise UserError(f"{source.place} lacks {len(lost)} of {len(wanted)} clips "
                        f"({examples(lost)}): use the clips that the split was made for")
    return source.select(np.flatnonzero(np.isin(source.clip_ids, [*wanted])))
