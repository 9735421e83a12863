"""Clips to be scored or learnt from, wherever they are: lists of arrays, a store, .npz files, or
.npy files that a manifest names.

A source knows its clips without reading their features, and reads these as often as asked, in
order, a clip at a time.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from avdiff_jax.data.class_text import unify
from avdiff_jax.data.feed import prefetch
from avdiff_jax.data.fingerprints import fingerprint, identify
from avdiff_jax.data.importers.npy_folder import list_folder
from avdiff_jax.data.importers.npz_manifest import NpzKeys, npz_features
from avdiff_jax.data.rates import Seconds
from avdiff_jax.data.splits.sets import Labelled
from avdiff_jax.data.store import VALUE_TYPES, Sequences, Store
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.npy_npz import read_npy

UNKNOWN: Seconds = (None, None)


class Features(NamedTuple):
    """A clip without a label: audio [Ta, Da] and video [Tv, Dv]; None or no token for one that it
    lacks."""

    clip_id: str
    audio: np.ndarray | None
    video: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClipSource:
    """Clips of one place.

    place: it is called in messages.
    name: of the data set.
    read: yields the features of the clips at rows [m], ascending, of all for None.
    clip_ids: [n] str.
    seconds: per token of audio and of video; None is taken to be a model's.
    labels: [n] int32, index into `class_names`; None where the clips have no class.
    groups: [n] str, "" is a group of its own; None where nothing is known.
    text: vectors [Dt] by class name, as far as there are.
    made_up: whether no camera or microphone saw any of it.
    store: the store that they lie in; None where they lie elsewhere.
    match_rate: whether a model resamples tokens of another rate; else it refuses them.
    accept_values: whether a model takes values far from those that it was trained on.
    is_alike: whether the features are known to be made as those were.
    """

    place: str
    name: str
    read: Callable[[np.ndarray | None], Iterator[Features]]
    clip_ids: np.ndarray
    seconds: Seconds = UNKNOWN
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    text: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    made_up: bool = False
    store: Store | None = None
    match_rate: bool = False
    accept_values: bool = False
    is_alike: bool = False

    def __repr__(self):
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"ClipSource({self.place}: {len(self)} clips{classes})"

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __iter__(self) -> Iterator[Features]:
        return self.read(None)

    @functools.cached_property
    def prints(self) -> np.ndarray:
        """The fingerprint of each clip, [n] uint64; the first time, all features are read."""
        prints = prefetch(lambda clip: fingerprint(clip.audio, clip.video), self)
        return np.fromiter(prints, np.uint64, len(self))

    @functools.cached_property
    def identity(self) -> str:
        """What the store is known by, see `fingerprints.identify`; "" where there is none."""
        return identify(self.store) if self.store else ""

    def labelled(self) -> Labelled:
        """The same, where its clips have classes.

        Raises:
          UserError: they have none.
        """
        if self.labels is None:
            raise UserError(f"{self.place} does not say of which class its clips are: name a "
                            "manifest with a column class, or arrays with --label-key")
        return cast(Labelled, self)

    def names(self) -> np.ndarray:
        """The class of each clip, [n] str; raises UserError as `labelled` does."""
        return np.array(self.class_names)[self.labelled().labels]

    def select(self, rows: np.ndarray) -> "ClipSource":
        """The clips at some rows, ascending."""

        def read(some: np.ndarray | None):
            return self.read(rows if some is None else rows[some])

        def part(column):
            return None if column is None else np.asarray(column)[rows]

        return dataclasses.replace(
            self, read=read, clip_ids=self.clip_ids[rows], labels=part(self.labels),
            groups=part(self.groups),
        )


def of_arrays(
    audio: Sequence, video: Sequence, ids: Sequence[str] | None = None, **known
) -> ClipSource:
    """Clips from lists of arrays of equal length; ids default to their numbers. An array that is
    no list of them is a single clip, an array of [features] a single token.

    Args:
      known: fields of `ClipSource`.

    Raises:
      UserError: lists of different lengths.
    """
    audio, video = _list_clips(audio, video)
    if len(audio) != len(video) or len(audio) != len(ids if ids is not None else audio):
        raise UserError(
            f"{len(audio)} audio and {len(video)} video arrays"
            + ("" if ids is None else f" and {len(ids)} ids")
            + ": give one of each a clip, None where a clip lacks a modality"
        )
    names = list(map(str, range(len(audio)) if ids is None else ids))

    def read(rows: np.ndarray | None):
        for i in range(len(names)) if rows is None else rows:
            yield Features(names[i], _tokens(audio[i]), _tokens(video[i]))

    return ClipSource("the list of arrays", "arrays", read, np.array(names, str), **known)


def _list_clips(audio: Any, video: Any) -> tuple[Sequence, Sequence]:
    """A single clip as lists of one; None for a modality that all clips lack."""
    given = next((part for part in (audio, video) if part is not None), ())
    if isinstance(given, np.ndarray) and given.ndim <= 2 and given.dtype != object:
        return [audio], [video]
    lacking = [None] * len(given)
    return lacking if audio is None else audio, lacking if video is None else video


def _tokens(values: Any) -> Any:
    """[features] as [1, features]; all else as it is, for a model to refuse."""
    return np.asarray(values)[None] if np.ndim(values) == 1 else values


def of_store(store: Store, rows: Iterable[int] | None = None) -> ClipSource:
    """The clips of a store, or those at some rows."""

    def part(sequences: Sequences, i: int):
        return sequences.values[sequences.offsets[i] : sequences.offsets[i + 1]]

    def read(rows: np.ndarray | None):
        for i in range(len(store)) if rows is None else rows:
            yield Features(str(store.clip_ids[i]), part(store.audio, i), part(store.video, i))

    def rate(sequences: Sequences):
        return sequences.seconds if len(sequences.values) else None  # where there is no token

    has_text = store.class_text.shape[1] > 0
    source = ClipSource(
        store.path, store.name, read, store.clip_ids,
        seconds=(rate(store.audio), rate(store.video)),
        labels=store.labels, class_names=store.class_names, groups=store.groups,
        text=dict(zip(store.class_names, store.class_text, strict=True)) if has_text else {},
        made_up=store.made_up, store=store,
    )
    return source if rows is None else source.select(np.array([*rows], np.int64))


def of_npz(paths: Sequence[FilePath], keys: NpzKeys, seconds: Seconds = UNKNOWN) -> ClipSource:
    """The clips in .npz files; see `importers.npz_manifest.npz_features`.

    Raises:
      UserError: unknown keys, or arrays that disagree.
    """
    table = npz_features(paths, keys)
    none = itertools.repeat(None)

    def read(rows: np.ndarray | None):
        wanted = None if rows is None else {*np.asarray(rows).tolist()}
        streams = table.features()
        parts = (streams.get(name, none) for name in VALUE_TYPES)
        for i, clip in enumerate(map(Features, table.clip_ids, *parts)):
            if wanted is None or i in wanted:
                yield clip

    groups = None if table.groups is None else np.array(table.groups)
    labels = None if table.labels is None else np.array(table.labels, np.int32)
    return ClipSource(
        " + ".join(str(path) for path in paths), pathlib.Path(paths[0]).stem, read,
        np.array(table.clip_ids), seconds, labels, tuple(table.class_names), groups,
    )


def of_manifest(path: FilePath, seconds: Seconds = UNKNOWN) -> ClipSource:
    """The clips of a CSV with the columns clip_id, audio and video, and as far as it has them
    class and group.

    audio and video name .npy files, [T, D], relative to the CSV; an empty cell says that the clip
    lacks the modality. Other columns are left unread. The CSV is read line by line.

    Raises:
      UserError: it is no such CSV, or (from `read`) a file that it names is missing or no array.
    """
    folder = os.path.dirname(os.fspath(path))

    def read(rows: np.ndarray | None):
        wanted = None if rows is None else {*np.asarray(rows).tolist()}
        for i, entry in enumerate(_manifest_entries(path)):
            if wanted is None or i in wanted:
                yield Features(entry["clip_id"], *(
                    read_npy(os.path.join(folder, entry[name])) if entry[name] else None
                    for name in VALUE_TYPES
                ))

    ids, classes, groups = [], [], []
    for entry in _manifest_entries(path):
        ids.append(entry["clip_id"])
        classes.append(entry.get("class"))
        groups.append(entry.get("group", ""))
    labelled = bool(ids) and all(classes)
    class_names, labels = np.unique(classes if labelled else [], return_inverse=True)
    return ClipSource(
        os.fspath(path), pathlib.Path(path).stem, read, np.array(ids, str), seconds,
        labels.astype(np.int32) if labelled else None, tuple(map(str, class_names)),
        np.array(groups) if any(groups) else None,
    )


def of_folder(root: FilePath, seconds: Seconds = UNKNOWN) -> ClipSource:
    """The clips of class/clip.audio.npy and class/clip.video.npy in a folder, or of such files
    without classes.

    Raises:
      UserError: there are none, or (from `read`) a file is no array.
    """
    files = list_folder(root)
    pairs, of_clips = list(files), list(files.values())
    names, ids = ([pair[part] for pair in pairs] for part in (0, 1))
    if all(names):
        ids = [f"{name}/{clip}" for name, clip in pairs]

    def read(rows: np.ndarray | None):
        for i in range(len(ids)) if rows is None else rows:
            arrays = {modality: read_npy(path) for modality, path in of_clips[i].items()}
            yield Features(ids[i], *(arrays.get(modality) for modality in VALUE_TYPES))

    class_names, labels = np.unique(names, return_inverse=True)
    return ClipSource(
        os.fspath(root), pathlib.Path(root).resolve().name, read, np.array(ids, str), seconds,
        labels.astype(np.int32) if all(names) else None,
        tuple(map(str, class_names)) if all(names) else (),
    )


def _manifest_entries(path: FilePath) -> Iterator[dict[str, str]]:
    """The rows of a manifest by column, line by line; the header is checked first."""
    rows = text_files.iterate_rows(path, "manifest")
    header = next(rows, [])
    if not {"clip_id", "audio", "video"} <= {*header}:
        raise UserError(f"manifest {path} has the header {','.join(header)!r} where the columns "
                        f"clip_id, audio and video are needed: mend it")
    for row in rows:
        if len(row) != len(header):
            raise UserError(f"manifest {path}, line {row.line}, has {len(row)} cells where the "
                            f"header has {len(header)}: mend it")
        entry = dict(zip(header, row, strict=True))
        yield entry | {"class": unify(entry["class"])} if "class" in entry else entry
