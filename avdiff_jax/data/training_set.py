"""What a model keeps of its training clips, beside their features: what tells them from other
clips, and how their values lie."""

from typing import NamedTuple

import numpy as np

from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.fingerprints import fingerprint
from avdiff_jax.data.store import MODALITIES, Store
from avdiff_jax.data.values import Tally, Values

MEASURED = 1000  # clips of which the values are measured


class TrainingSet(NamedTuple):
    """The training clips of a model, as far as it must know them again.

    values: of audio and of video, see `values.Values`.
    prints: [n] uint64, see `fingerprints.fingerprint`.
    groups: [m] str, each once; a clip without a group adds none.
    """

    values: tuple[Values, Values]
    prints: np.ndarray
    groups: np.ndarray


def describe(store: Store, clips: np.ndarray, prints: np.ndarray) -> TrainingSet:
    """Describes clips [n] of a store as a training set; `prints` [n] are theirs."""
    groups = np.zeros(0, str) if store.groups is None else np.unique(store.groups[clips])
    return TrainingSet(measure_values(store, clips), prints, groups[groups != ""])


def measure_values(store: Store, clips: np.ndarray) -> tuple[Values, Values]:
    """Measures how the values of audio and of video lie, on clips evenly taken of those given."""
    taken = clips[np.unique(np.linspace(0, len(clips) - 1, MEASURED).astype(int))]
    tallies = []
    for modality in MODALITIES:
        sequences, tally = getattr(store, modality), Tally()
        for i in taken:
            tally.add(sequences.values[sequences.offsets[i] : sequences.offsets[i + 1]])
        tallies.append(tally.values())
    return tallies[0], tallies[1]


def extend(trained_on: TrainingSet, source: ClipSource) -> TrainingSet:
    """Adds the clips of a source that were learnt later; the values stay those of the run."""
    prints = [fingerprint(clip.audio, clip.video) for clip in source]
    groups = [] if source.groups is None else source.groups[source.groups != ""]
    return trained_on._replace(
        prints=np.append(trained_on.prints, np.array(prints, np.uint64)),
        groups=np.union1d(trained_on.groups, groups).astype(str),
    )
