"""Plain arrays and manifests to a stream of clips.

Every reader (`data.official` has one more) returns `(clips, Source)`: an iterator that
`store.write_store` consumes, and what is known beside the clips. Nothing from a file is ever
executed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from avdiff_jax.data.class_text import ClassText, unify
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.importers.text_vectors import class_text
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.npy_npz import NpzFiles, read_npy, strings

MAX_CLIPS = 10_000_000


class Source(NamedTuple):
    """What a reader knows beside its clips."""

    name: str
    total: int | None  # clips to come, for the progress bar; None where nobody knows
    class_names: list[str]
    text: ClassText  # rows in the order of class_names
    files: list[str]  # base names of what was read, for the provenance
    notes: list[str]  # remarks for the report
    sets: dict | None = None  # official layout: set -> {class: [clip id]}, filled while reading
    classes: dict | None = None  # official layout: base1, novel1, novel2 -> class names


# ------------------------------------------------------------------------- flat + offsets


def read_npz(
    paths: Sequence[FilePath], *, audio_key: str | None = None, video_key: str | None = None,
    label_key: str | None = None, class_key: str | None = None, id_key: str | None = None,
    group_key: str | None = None, text: FilePath | None = None, text_key: str | None = None,
    text_names: str | None = None, text_map: FilePath | None = None,
):
    """Reads flat values + offsets from one or several .npz files.

    Args:
      paths: the files; a key may lie in any of them.
      audio_key, video_key: "m1" for the arrays m1_flat and m1_offsets, or "values,offsets" to
        name both; None where the data set lacks the modality. Clip i is
        values[offsets[i]:offsets[i + 1]].
      label_key: [n] class numbers (0-based, needs `class_key`) or class names.
      class_key: [C] class names.
      id_key: [n] clip ids; None numbers the clips.
      group_key: [n] the group of each clip.
      text, text_key, text_names, text_map: see `text_vectors.class_text`.

    Keys that are not given are those of `USUAL`, where there are such arrays.

    Returns (clips, Source). Raises UserError for unknown keys and arrays that disagree.
    """
    keys = NpzKeys(audio_key, video_key, id_key, label_key, class_key, group_key)
    table = npz_features(paths, keys)
    if table.labels is None:
        raise UserError(f"{NpzFiles(paths).named} has no array {USUAL.labels!r} that says of which "
                        "class each clip is: name another with --label-key")
    ids, numbers, groups = table.clip_ids, table.labels, table.groups
    class_names, pieces = table.class_names, table.features()

    def clips():
        for number in range(len(ids)):
            given = {modality: next(stream) for modality, stream in pieces.items()}
            yield Clip(ids[number], class_names[numbers[number]],
                       None if groups is None else groups[number],
                       given.get("audio"), given.get("video"))

    source = Source(
        name=os.path.splitext(os.path.basename(os.fspath(paths[-1])))[0],
        total=len(ids),
        class_names=class_names,
        text=class_text(class_names, text, text_key, text_names, text_map),
        files=[os.path.basename(path) for path in [*paths, *filter(None, [text])]],
        notes=[],
    )
    return clips(), source


def _npz_labels(files: NpzFiles, key: str) -> np.ndarray:
    """[n] numbers or names of the classes."""
    labels = files.array(key, "--label-key")
    n = len(np.atleast_1d(labels))
    if labels.ndim != 1 or n == 0:
        raise UserError(f"{files.named} [{key}] has shape {labels.shape} where one label a clip is "
                        f"needed: change --label-key")
    if n > MAX_CLIPS:  # a packed archive of zeros is small, its clips would not be
        raise UserError(f"{files.named} [{key}] has {n} clips where at most {MAX_CLIPS} make "
                        f"sense: change --label-key")
    return labels


class NpzKeys(NamedTuple):
    """Keys of arrays in .npz files, each as `read_npz` takes it; None where there is no such."""

    audio: str | None = None
    video: str | None = None
    ids: str | None = None
    labels: str | None = None
    classes: str | None = None
    groups: str | None = None

    def fill(self, files: NpzFiles) -> "NpzKeys":
        """With the usual keys in the place of those that are not given, as far as `files` have such
        arrays; of features, where neither of the two is given."""
        usual = {}
        for name, key in USUAL._asdict().items():
            of_features = name in ("audio", "video")
            arrays = (f"{key}_flat", f"{key}_offsets") if of_features else (key,)
            wanted = not (of_features and (self.audio or self.video))
            if wanted and all(array in files for array in arrays):
                usual[name] = key
        return NpzKeys(**usual | {name: key for name, key in self._asdict().items() if key})


USUAL = NpzKeys("audio", "video", "clip_ids", "label", "classes", "groups")


class NpzClips(NamedTuple):
    """The clips in .npz files: what is known without their features, and how to read these.

    features: opens an iterator over [T, D] arrays for each modality that there is.
    """

    clip_ids: list[str]
    labels: list[int] | None
    class_names: list[str]
    groups: list[str] | None
    features: Callable[[], Mapping[str, Iterator[np.ndarray]]]


def npz_features(paths: Sequence[FilePath], keys: NpzKeys) -> NpzClips:
    """Lists the clips in .npz files, whether or not they have classes; keys that are not given are
    those of `USUAL`, where there are such arrays. Raises UserError."""
    files = NpzFiles(paths)
    keys = keys.fill(files)
    features = {"audio": keys.audio, "video": keys.video}
    values = _npz_labels(files, keys.labels) if keys.labels else None
    n = len(values) if values is not None else _count_clips(files, features)
    _npz_streams(files, features, n)  # looks at keys and offsets
    ids = _column(files, keys.ids, n, "--id-key", files.named) or _number_clips(n)
    labels, class_names = None, []
    if keys.labels and values is not None:
        class_names, labels = _npz_classes(
            files, values, keys.labels, keys.classes, ids, files.named
        )
    groups = _column(files, keys.groups, n, "--group-key", files.named)
    return NpzClips(
        ids, labels, class_names, groups, lambda: _npz_pieces(files, features, n)
    )


def _count_clips(files: NpzFiles, features: Mapping[str, str | None]) -> int:
    """How many clips the offsets of the first modality part; 0 where there is none."""
    for name, key in features.items():
        if key:
            return len(np.atleast_1d(files.array(_offsets_key(key), f"--{name}-key"))) - 1
    return 0


def _number_clips(n: int):
    return [f"clip{number:0{len(str(n - 1))}d}" for number in range(n)]


def _npz_streams(files: NpzFiles, keys: Mapping[str, str | None], n: int):
    """Modality -> (key of the values, offsets), for the modalities with a key."""
    streams = {
        modality: _npz_stream(files, key, n, f"--{modality}-key", files.named)
        for modality, key in keys.items() if key is not None
    }
    if not streams:
        raise UserError(f"{files.named} has neither {USUAL.audio}_flat and {USUAL.audio}_offsets "
                        f"nor those of {USUAL.video}: name the features with --audio-key or "
                        "--video-key")
    return streams


def _npz_pieces(files: NpzFiles, keys: Mapping[str, str | None], n: int):
    """Modality -> iterator over the [T, D] pieces of n clips, for the modalities with a key."""
    streams = _npz_streams(files, keys, n)
    return {modality: files.rows(*stream) for modality, stream in streams.items()}


def _column(files: NpzFiles, key: str | None, n: int, flag: str, named: str):
    """[n] strings, or None without a key."""
    if key is None:
        return None
    values = files.array(key, flag)
    if values.shape != (n,):
        raise UserError(f"{named} [{key}] has shape {values.shape} for {n} clips: change {flag}")
    return strings(values)


def _npz_classes(
    files: NpzFiles, labels: np.ndarray, label_key: str, class_key: str | None, ids: Sequence[str],
    named: str,
):
    """Class names, and the number of each clip's class."""
    if labels.dtype.kind in "SU":
        names = strings(labels)
        known = sorted(set(names)) if class_key is None else strings(
            files.array(class_key, "--class-key"))
        find = {name: number for number, name in enumerate(known)}
        for clip_id, name in zip(ids, names, strict=True):
            if name not in find:
                raise UserError(f"{named} gives clip {clip_id!r} the label {name!r}, which is none "
                                f"of the {len(known)} in [{class_key}]: mend one of them")
        return known, [find[name] for name in names]
    if labels.dtype.kind not in "iu":
        raise UserError(f"{named} [{label_key}] is of type {labels.dtype} where class numbers or "
                        f"names are needed: change --label-key")
    if class_key is None:
        raise UserError(f"{named} [{label_key}] holds class numbers, which need names: give "
                        f"--class-key")
    known = files.array(class_key, "--class-key")
    if known.ndim != 1 or known.dtype.kind not in "SU":
        raise UserError(f"{named} [{class_key}] has shape {known.shape}, type {known.dtype} where "
                        f"class names are needed: change --class-key")
    outside = np.flatnonzero((labels < 0) | (labels >= len(known)))
    if outside.size:
        raise UserError(f"{named} gives clip {ids[outside[0]]!r} the label {labels[outside[0]]} "
                        f"but [{class_key}] has {len(known)} classes, counted from 0: mend the "
                        f"labels")
    return strings(known), labels.tolist()


def _offsets_key(key: str):
    return key.partition(",")[2] or f"{key}_offsets"


def _npz_stream(files: NpzFiles, key: str, n: int, flag: str, named: str):
    """(key of the values, [n+1] int64 offsets)."""
    values_key, offsets_key = key.partition(",")[0], _offsets_key(key)
    if "," not in key:
        values_key = f"{key}_flat"
    rows, _ = files.flat_shape(values_key, flag)
    offsets = files.array(offsets_key, flag)
    if offsets.dtype.kind not in "iu" or offsets.shape != (n + 1,):
        raise UserError(f"{named} [{offsets_key}] has shape {offsets.shape}, type {offsets.dtype} "
                        f"for {n} clips where {n + 1} integers are needed: change {flag}")
    offsets = offsets.astype(np.int64)
    falls = (offsets[1:] < offsets[:-1]).any()
    if offsets[0] != 0 or offsets[-1] != rows or falls:
        raise UserError(f"{named} [{offsets_key}] goes from {offsets[0]} to {offsets[-1]} where it "
                        f"must rise from 0 to the {rows} rows of [{values_key}]: mend the offsets")
    return values_key, offsets


# ------------------------------------------------------------------------- manifest


def read_manifest(
    path: FilePath, *, text: FilePath | None = None, text_key: str | None = None,
    text_names: str | None = None, text_map: FilePath | None = None,
):
    """Reads a CSV with the header clip_id,class,group,audio,video (group may be left out).

    audio and video name .npy files, [T, D], relative to the CSV; an empty cell says that the
    clip lacks the modality. Returns (clips, Source). Raises UserError.
    """
    rows = text_files.rows(path, "manifest")
    header = rows[0] if rows else []
    needed = {"clip_id", "class", "audio", "video"}
    if not needed <= set(header) or len(set(header)) != len(header) or set(header) - needed - {
            "group"}:
        raise UserError(f"manifest {path} has the header {','.join(header)!r} where "
                        f"clip_id,class,audio,video and perhaps group are needed: mend it")
    entries = []
    for row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"manifest {path}, line {row.line}, has {len(row)} cells where the "
                            f"header has {len(header)}: mend it")
        entry = dict(zip(header, row, strict=True))
        entries.append(entry | {"class": unify(entry["class"])})
    class_names = sorted({entry["class"] for entry in entries})
    if not class_names:
        raise UserError(f"manifest {path} lists 0 clips: add some")
    folder = os.path.dirname(os.fspath(path))

    def features(entry: Mapping[str, str], modality: str):
        if not entry[modality]:
            return None
        return read_npy(os.path.join(folder, entry[modality]))

    def clips():
        for entry in entries:
            yield Clip(entry["clip_id"], entry["class"], entry.get("group") or None,
                       features(entry, "audio"), features(entry, "video"))

    source = Source(
        name=os.path.splitext(os.path.basename(path))[0],
        total=len(entries),
        class_names=class_names,
        text=class_text(class_names, text, text_key, text_names, text_map),
        files=[os.path.basename(file) for file in (path, *filter(None, [text]))],
        notes=[],
    )
    return clips(), source
