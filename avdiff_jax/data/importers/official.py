"""The published archive layout, features and ready-made sets, to a stream of clips."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from avdiff_jax.data.class_text import NameMatcher, fold
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.importers.npz_manifest import Source
from avdiff_jax.data.importers.text_vectors import class_text
from avdiff_jax.data.splits.from_lists import source_video
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.safe_pickle import read_pickle
from avdiff_jax.runtime.progress import Progress

PUBLISHED_SECONDS = {"audio": 0.96, "video": 0.64}  # VGGish; C3D, 16 frames at 25 per second

# The directories of the published layout, by the set that they hold.
PUBLISHED_SETS = {
    "train1_base": "stage_1_train_base",
    "train1_novel": "stage_1_train_novel",
    "val_base": "stage_1_val_seen",
    "val_novel": "stage_1_val_novel",
    "train2_novel": ("stage_2_train_novel", "stage_2_train_novel_1", "stage_2_train_novel_2"),
    "test_base": "stage_2_test_seen",
    "test_novel": ("stage_2_test_novel", "stage_2_test_novel_1", "stage_2_test_novel_2"),
}
# Each class list, and the directories that must stay within it.
PUBLISHED_CLASSES = {
    "stage_1_base_train": ("stage_1_train_base", "stage_1_val_seen"),
    "stage_1_novel_train": ("stage_1_train_novel", "stage_1_val_novel"),
    "stage_2_novel_train": PUBLISHED_SETS["train2_novel"] + PUBLISHED_SETS["test_novel"],
    "stage_2_base_train": ("stage_2_test_seen",),
}


class _Part(NamedTuple):
    """The clips of one class in one set, as two files."""

    set_name: str
    draw: int | None  # of a set that is drawn several times
    class_name: str
    audio: str
    video: str


def published_shots(root: FilePath):
    """The k for which a published archive folder has features, ascending."""
    folder = os.path.join(root, "features")
    if not os.path.isdir(folder):
        raise UserError(f"{root} has no folder 'features' and so is no published archive: name the "
                        f"folder that holds 'features' and 'class-split'")
    matches = [re.fullmatch(r"(\d+)-shot", entry) for entry in os.listdir(folder)]
    return sorted(int(match[1]) for match in matches if match)


def read_official(
    root: FilePath, shots: int, *, text: FilePath | None = None, text_map: FilePath | None = None,
    progress: Progress | None = None,
):
    """Reads the published archive layout with its pre-made sets for `shots` shots.

    Args:
      root: the folder that holds `features` and `class-split`.
      shots: k of `features/<k>-shot`.
      text: text vectors; None takes the `features/<k>-shot/text/*.npy` of the archive.
      text_map: CSV original,manual; None takes the one in `class-split`.
      progress: an `runtime.progress.Progress` that is told the MiB to read and the MiB read;
        how many clips there are turns out only in the end.

    Returns (clips, Source). `Source.sets` and `.classes` hold the pre-made split once the clips
    are exhausted. Groups are source videos, as far as the ids tell. A clip of several sets (the
    three draws share theirs) comes once, and its copies must agree. Raises UserError.
    """
    root = os.fspath(root)
    there = published_shots(root)
    if shots not in there:
        raise UserError(f"{root} has no features for {shots} shots but for "
                        f"{', '.join(map(str, there)) or 'none'}: change --shots")
    base = os.path.join(root, "features", f"{shots}-shot")
    lists = os.path.join(root, "class-split")
    text_file = text or _only(os.path.join(base, "text"), ".npy", "--text", prefer="_normed.npy")
    if text_map is None and os.path.isdir(lists):
        text_map = _only(lists, "_w2v_class_names.csv", "--text-map", required=False)
    spelling = _published_spelling(lists, base)
    notes = []
    parts, class_names, classes = _published_index(base, lists, shots, spelling, notes)
    sets = {name: [{} for _ in folders] if isinstance(folders, tuple) else {}
            for name, folders in PUBLISHED_SETS.items()}
    source = Source(
        name=os.path.basename(os.path.abspath(root)),
        total=None,
        class_names=class_names,
        text=class_text(class_names, text_file, text_map=text_map),
        files=[
            os.path.basename(os.path.abspath(root)), f"{shots}-shot", os.path.basename(text_file),
        ],
        notes=notes,
        sets=sets,
        classes=classes,
    )
    return _published_clips(parts, sets, progress), source


def _only(
    folder: str, suffix: str, flag: str, prefer: str | None = None, required: bool = True
) -> Any:
    """The one file in `folder` that ends in `suffix` (or, among several, in `prefer`)."""
    entries = sorted(entry for entry in (os.listdir(folder) if os.path.isdir(folder) else ())
                   if entry.endswith(suffix))
    if len(entries) > 1 and prefer:
        entries = [entry for entry in entries if entry.endswith(prefer)] or entries
    if len(entries) == 1:
        return os.path.join(folder, entries[0])
    if not entries and not required:
        return None
    raise UserError(f"{folder} has {len(entries)} files that end in {suffix!r} where 1 is needed: "
                    f"name it with {flag}")


def _published_spelling(lists: str, base: str):
    """A function from a file stem to the class name that all_class.txt spells."""
    path = os.path.join(lists, "all_class.txt")
    if os.path.exists(path):
        known = text_files.lines(path, "class list")
    else:  # the spelling of the base directories, then, is the one to go by
        known = {}
        for *_, folder in _folders():
            for stem in _stems(os.path.join(base, "audio", folder)):
                known.setdefault(fold(stem), stem)
        known = known.values()
        path = os.path.join(base, "audio")
    find = NameMatcher(known)

    def spelling(stem: str, file: FilePath):
        name = find(stem)
        if name is None:
            raise UserError(f"{file} is of class {stem!r}, which {path} does not list: add the "
                            f"class or remove the file")
        return name

    return spelling


def _folders() -> Iterator[tuple[str, int | None, str]]:
    """(set, draw or None, directory)."""
    for set_name, folders in PUBLISHED_SETS.items():
        if isinstance(folders, tuple):
            yield from ((set_name, draw, folder) for draw, folder in enumerate(folders))
        else:
            yield set_name, None, folders


def _stems(folder: str):
    if not os.path.isdir(folder):
        raise UserError(f"{folder} does not exist though the published layout has it: complete the "
                        f"archive or change --shots")
    return sorted(entry[:-4] for entry in os.listdir(folder) if entry.endswith(".pkl"))


def _published_index(base: str, lists: str, shots: int, spelling: Callable, notes: list[str]):
    """Which class files there are, checked against each other and the class lists.

    Returns [_Part], class names, and the classes of base1, novel1, novel2.
    """
    allowed = {}
    for list_name, folders in PUBLISHED_CLASSES.items():
        path = os.path.join(lists, f"{shots}-shot", list_name + ".txt")
        if os.path.exists(path):
            names = {spelling(line, path) for line in text_files.lines(path, "class list")}
            allowed |= dict.fromkeys(folders, names)
    parts, classes_of = [], {}
    for set_name, draw, folder in _folders():
        places = [os.path.join(base, modality, folder) for modality in ("audio", "video")]
        audio, video = (_class_files(place, spelling) for place in places)
        _check_same("classes", audio, video, *places)
        for class_name in sorted(audio):
            if class_name not in allowed.get(folder, {class_name}):
                # published lists of clips name a few classes that the split leaves out
                notes.append(f"left out class {class_name!r} of {folder}, which the class lists do "
                             f"not have there")
                continue
            classes_of.setdefault(folder, set()).add(class_name)
            parts.append(_Part(set_name, draw, class_name, audio[class_name], video[class_name]))
    classes = {
        "base1": sorted(classes_of.get("stage_1_train_base", ())),
        "novel1": sorted(classes_of.get("stage_1_train_novel", ())),
        "novel2": sorted(classes_of.get("stage_2_train_novel", ())),
    }
    return parts, sorted(set().union(*classes_of.values())), classes


def _class_files(place: str, spelling: Callable):
    """Class name -> file of a directory."""
    files = {}
    for stem in _stems(place):
        file = os.path.join(place, stem + ".pkl")
        class_name = spelling(stem, file)
        if class_name in files:
            raise UserError(f"{place} has two files of class {class_name!r}: keep one")
        files[class_name] = file
    return files


def _check_same(
    what: str, audio: Collection[str], video: Collection[str], audio_file: str, video_file: str
) -> None:
    """Raises UserError where two files or directories do not have the same classes or clips."""
    one_sided = sorted(set(audio) ^ set(video))
    if one_sided:
        raise UserError(f"{audio_file} has {len(audio)} {what} and {video_file} has {len(video)}, "
                        f"{one_sided[0]!r} is in one of them only: complete the archive")


def _published_clips(parts: Sequence, sets: dict, progress: Progress | None):
    """Yields each clip once and files its id under every set that has it."""
    known = {}  # clip id -> (class, digest of its features)
    sizes = [_mebibytes(part.audio) + _mebibytes(part.video) for part in parts]
    if progress is not None:
        progress.total = round(sum(sizes))
    read = 0.0
    for part, size in zip(parts, sizes, strict=True):
        audio, video = _read_class(part.audio), _read_class(part.video)
        _check_same("clips", audio, video, part.audio, part.video)
        target = sets[part.set_name] if part.draw is None else sets[part.set_name][part.draw]
        target[part.class_name] = list(audio)
        for clip_id in audio:
            seen = (part.class_name, _digest(audio[clip_id], video[clip_id]))
            first = known.setdefault(clip_id, seen)
            if first is seen:
                yield Clip(clip_id, part.class_name, source_video(clip_id), audio[clip_id],
                           video[clip_id])
            elif first[0] != part.class_name:
                raise UserError(f"clip {clip_id!r} is of class {first[0]!r} and, in {part.audio}, "
                                f"of {part.class_name!r}: keep one")
            elif first != seen:
                raise UserError(f"clip {clip_id!r} in {part.audio} or {part.video} differs from "
                                f"its copy in another set: make the archive again")
        if progress is not None:  # whole MiB, rounded at the running sum
            progress.step(round(read + size) - round(read), f"MiB, {len(known)} clips")
        read += size


def _mebibytes(path: FilePath):
    return os.path.getsize(path) / (1 << 20)


def _read_class(path: FilePath):
    """{clip id: [T, D] features} of one class file, in the order of the file."""
    with text_files.open_file(path) as file:
        content = read_pickle(file, path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} where a dict with features and "
                        f"video_names is needed: make it again")
    content = {key.decode("utf-8", "replace") if isinstance(key, bytes) else key: value
               for key, value in content.items()}
    lacking = [key for key in ("features", "video_names") if key not in content]
    if lacking:
        raise UserError(f"{path} has no {lacking[0]!r} (it has {', '.join(map(str, content))}): "
                        f"make it again")
    features, names = content["features"], content["video_names"]
    names = names if isinstance(names, (list, tuple)) else list(np.ravel(names))
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
             for name in names]
    if isinstance(features, np.ndarray) and features.ndim:
        features = list(features)
    if not isinstance(features, (list, tuple)) or len(features) != len(names):
        count = len(features) if isinstance(features, (list, tuple)) else 0
        raise UserError(f"{path} has {count} feature arrays and {len(names)} video names: make it "
                        f"again")
    clips = dict(zip(names, features, strict=True))
    if len(clips) != len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise UserError(f"{path} names the clip {twice!r} twice: keep one")
    for name, values in clips.items():
        if not isinstance(values, np.ndarray):
            raise UserError(f"{path} has a {type(values).__name__} for clip {name!r} where an "
                            f"array of features is needed: make it again")
    return clips


def _digest(*arrays):
    """A fingerprint of features as they would be stored, whatever type a copy has."""
    state = hashlib.blake2b(digest_size=16)
    for values in arrays:
        state.update(repr(values.shape).encode())
        if values.dtype.kind in "biuf":
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(values, np.float32)
        state.update(values.tobytes())
    return state.digest()
