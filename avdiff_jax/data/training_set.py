"""What a model keeps of its training clips, beside their features: what tells them from other
clips, and how their values lie."""

from typing import NamedTuple

import numpy as np

from avdiff_jax.data.clip_source import ClipSource, of_store
from avdiff_jax.data.store import Store
from avdiff_jax.data.values import Tally, Values
from avdiff_jax.errors import note

MEASURED = 500  # clips of which the values are measured


class Draw(NamedTuple):
    """A draw of the shots of a split of a store, by what these two are known by."""

    store: str
    split: str
    number: int


class TrainingSet(NamedTuple):
    """The training clips of a model, as far as it must know them again.

    values: of audio and of video, see `values.Values`.
    prints: [n] uint64, see `fingerprints.fingerprint`.
    groups: [m] str, each once; a clip without a group adds none.
    draw: None where classes were added later.
    """

    values: tuple[Values, Values]
    prints: np.ndarray
    groups: np.ndarray
    draw: Draw | None


def describe(
    store: Store, clips: np.ndarray, prints: np.ndarray, draw: Draw
) -> TrainingSet:
    """Describes clips [n] of a store as a training set; `prints` [n] are theirs."""
    groups = np.zeros(0, str) if store.groups is None else np.unique(store.groups[clips])
    return TrainingSet(measure_values(store, clips), prints, groups[groups != ""], draw)


def measure_values(store: Store, clips: np.ndarray) -> tuple[Values, Values]:
    """Measures how the values of audio and of video lie, on clips evenly taken of those given."""
    taken = clips[np.unique(np.linspace(0, len(clips) - 1, MEASURED).astype(int))]
    audio, video = Tally(), Tally()
    for clip in of_store(store, taken):
        for tally, values in ((audio, clip.audio), (video, clip.video)):
            if values is not None:
                tally.add(values)
    return audio.values(), video.values()


def extend(trained_on: TrainingSet, source: ClipSource) -> TrainingSet:
    """Adds the clips of a source that were learnt later; the values stay those of the run."""
    groups = [] if source.groups is None else source.groups[source.groups != ""]
    return trained_on._replace(
        prints=np.append(trained_on.prints, source.prints),
        groups=np.union1d(trained_on.groups, groups).astype(str), draw=None,
    )


def find_unseen(
    trained_on: TrainingSet | None, trained_ids: np.ndarray, source: ClipSource, rows: np.ndarray
) -> np.ndarray:
    """Decides which clips a model may be measured on, and says how many it may not and why.

    A clip is left out that holds what a training clip holds, whatever it is called, and one of a
    group that the model was trained on.

    Args:
      trained_on: None for a model of version 0.1; its clips are told by `trained_ids`.
      rows: clips of the source [m], in any order.

    Returns:
      where in `rows` the others are.
    """
    if trained_on is None and not len(trained_ids):
        note(f"the model does not say what it was trained on, so none of the {len(rows)} clips of "
             f"{source.place} is left out")
    if trained_on is None:
        seen, related = np.isin(source.clip_ids[rows], trained_ids), np.zeros(len(rows), bool)
    else:
        seen, related = np.isin(source.prints[rows], trained_on.prints), np.zeros(len(rows), bool)
        if source.groups is not None:
            related = np.isin(source.groups[rows], trained_on.groups) & ~seen
    reasons = [
        f"{count} {why}" for count, why in (
            (int(seen.sum()), "hold what a training clip of the model holds"),
            (int(related.sum()), "are of a group that it was trained on"),
        ) if count
    ]
    if reasons:
        note(f"{int((seen | related).sum())} of {len(rows)} clips of {source.place} are left out: "
             + ", ".join(reasons))
    return np.flatnonzero(~(seen | related))
