"""Which clips there are: a folder of classes or a CSV, and a shard of them."""

import collections
import difflib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from avdiff_jax.data.class_text import unify
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath

UNLABELLED = "unlabelled"  # the class of clips that have none
NEEDED, OPTIONAL = {"path"}, {"class", "clip_id", "group", "start", "end"}  # columns of a CSV
LIKE = 0.75  # how alike a column is to one of these that was mistyped


class ClipFile(NamedTuple):
    """A clip on disk: a file, or a span of one."""

    path: str
    clip_id: str
    class_name: str
    group: str | None = None
    start: float = 0.0  # seconds
    end: float = math.inf


@dataclass(frozen=True)
class Collection:
    """Clips in the order of class and id, which is that of a store made of them."""

    name: str
    clips: tuple[ClipFile, ...]
    class_names: tuple[str, ...]  # of all clips, those of other shards too
    is_labelled: bool
    notes: tuple[str, ...] = ()

    def shard(self, number: int, count: int) -> "Collection":
        """Shard `number`, from 1, of `count`: every so-manieth clip.

        Raises:
          UserError: there is no such shard, or no clip is in it.
        """
        if not 1 <= number <= count:
            raise UserError(f"shard {number} of {count} does not exist: count from 1 to {count}")
        if count > len(self.clips):
            raise UserError(f"{len(self.clips)} clips cannot be parted into {count} shards: take "
                            f"fewer")
        return Collection(self.name, self.clips[number - 1 :: count], self.class_names,
                          self.is_labelled, self.notes)


def open_collection(path: FilePath) -> Collection:
    """The clips of FOLDER/class/*, of FOLDER/* without classes, or of a CSV.

    A CSV has the header path[,class][,clip_id][,group][,start][,end]; paths are relative to it.
    Other columns are left unread.

    Raises:
      UserError: nothing is there, or what is there contradicts itself.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise UserError(f"there are no clips at {path}, which does not exist: name a folder of "
                        "video files or a CSV that lists them")
    return of_folder(path) if os.path.isdir(path) else of_csv(path)


# ---------------------------------------------------------------------------- folders


def of_folder(folder: str) -> Collection:
    """FOLDER/class/*; where there are no folders in it, FOLDER/* without classes."""
    entries = _visible(folder)
    classes = [entry.name for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if entry.is_file()]
    notes = []
    if classes:
        files = [(os.path.join(class_name, entry.name), class_name)
                 for class_name in classes
                 for entry in _visible(os.path.join(folder, class_name)) if entry.is_file()]
        if loose:
            notes.append(f"files beside the class folders were left out: {len(loose)}, the first "
                         f"is {loose[0]!r}")
    else:
        files = [(name, UNLABELLED) for name in loose]
    if not files:
        raise UserError(f"{folder} holds no clips: lay them as {os.path.basename(folder)}/class/"
                        f"clip.mp4, or without class folders to have them without classes")
    ids = _short_ids([name for name, _ in files])
    clips = [ClipFile(os.path.join(folder, name), clip_id, unify(class_name))
             for (name, class_name), clip_id in zip(files, ids, strict=True)]
    empty = sorted({*classes} - {class_name for _, class_name in files})
    if empty:
        notes.append(f"class folders without files were left out: {len(empty)}, the first is "
                     f"{empty[0]!r}")
    return _collection(folder, clips, bool(classes), notes)


def _visible(folder: str) -> list[os.DirEntry]:
    """The entries of a folder that are not hidden, in the order of their names."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")),
                          key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror}): change its "
                        f"permissions or name another") from None


def _short_ids(names: Sequence[str]) -> list[str]:
    """Relative paths without their extensions, where these are not needed to tell them apart."""
    names = [name.replace(os.sep, "/") for name in names]
    stems = [os.path.splitext(name)[0] for name in names]
    counts = collections.Counter(os.path.splitext(name)[0] for name in {*names})
    return [stem if counts[stem] == 1 else name for name, stem in zip(names, stems, strict=True)]


# ---------------------------------------------------------------------------- CSV


def of_csv(path: str) -> Collection:
    """The clips that a CSV lists."""
    rows = text_files.rows(path, "clip list")
    header = rows[0] if rows else []
    others = sorted({*header} - NEEDED - OPTIONAL)
    mistyped = [name for name in others if difflib.get_close_matches(
        name, NEEDED | OPTIONAL, cutoff=LIKE)]
    if not {*header} >= NEEDED or mistyped or len({*header}) != len(header):
        raise UserError(f"clip list {path} has the header {','.join(header)!r} where path, and "
                        f"if need be {', '.join(sorted(OPTIONAL))}, are needed: mend it")
    folder = os.path.dirname(path)
    entries = []
    for row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"clip list {path}, line {row.line}, has {len(row)} cells where the "
                            f"header has {len(header)}: mend it")
        entries.append(dict(zip(header, row, strict=True)))
    is_labelled = "class" in header
    unnamed = _short_ids([entry["path"] for entry in entries])
    clips = []
    for row, entry, short in zip(rows[1:], entries, unnamed, strict=True):
        place = f"clip list {path}, line {row.line},"
        if not entry["path"] or (is_labelled and not entry["class"]):
            raise UserError(f"{place} has no {'class' if entry['path'] else 'path'}: fill it in")
        start, end = _seconds(place, entry, "start", 0.0), _seconds(place, entry, "end", math.inf)
        if not start < end:
            raise UserError(f"{place} goes from {start:g} to {end:g} seconds: mend it")
        span = "" if (start, end) == (0.0, math.inf) else f"@{start:g}-{end:g}"
        class_name = unify(entry["class"]) if is_labelled else UNLABELLED
        clips.append(ClipFile(
            os.path.join(folder, entry["path"]), entry.get("clip_id") or short + span,
            class_name, entry.get("group") or None, start, end))
    if not clips:
        raise UserError(f"clip list {path} lists 0 clips: add some")
    notes = [f"columns left unread: {', '.join(others)}"] if others else []
    return _collection(path, clips, is_labelled, notes)


def _seconds(place: str, entry: dict[str, str], column: str, default: float) -> float:
    if not entry.get(column):
        return default
    try:
        seconds = float(entry[column])
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UserError(f"{place} has {column} = {entry[column]!r} where seconds are needed: mend "
                        f"it")
    return seconds


# ---------------------------------------------------------------------------- lists


def collect_files(
    paths: Sequence[FilePath], classes: Sequence[str], groups: Sequence[str] | None = None
) -> Collection:
    """The clips of a list of files, with a class each, and a group each or none.

    Raises:
      UserError: a file is listed twice, or classes differ only in case.
    """
    files = [os.fspath(path) for path in paths]
    folder = os.path.commonpath(map(os.path.dirname, map(os.path.abspath, files)))
    ids = _short_ids([os.path.relpath(file, folder) for file in files])
    clips = [
        ClipFile(file, clip_id, str(class_name), None if groups is None else str(groups[i]))
        for i, (file, clip_id, class_name) in enumerate(zip(files, ids, classes, strict=True))
    ]
    return _collection(folder, clips, True, [])


# ---------------------------------------------------------------------------- all


def _collection(
    path: str, clips: Iterable[ClipFile], is_labelled: bool, notes: Sequence[str]
) -> Collection:
    clips = sorted(clips, key=lambda clip: (clip.class_name, clip.clip_id))
    class_names = sorted({clip.class_name for clip in clips})
    _check_case(class_names, path)
    ids = [clip.clip_id for clip in clips]
    repeated = [clip_id for clip_id, count in collections.Counter(ids).items() if count > 1]
    if repeated:
        paths = [clip.path for clip in clips if clip.clip_id == repeated[0]]
        raise UserError(f"{path} has the clip id {repeated[0]!r} for {paths[0]} and for "
                        f"{paths[1]}: give each clip its own in a column clip_id")
    name = os.path.splitext(os.path.basename(os.path.abspath(path)))[0]
    return Collection(name, tuple(clips), tuple(class_names), is_labelled, tuple(notes))


def _check_case(class_names: Sequence[str], path: str) -> None:
    """Classes that differ only in case become one on other file systems and in text files."""
    folded = {}
    for name in class_names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f"{path} has the classes {other!r} and {name!r}, which differ only in "
                            f"case: rename one")
