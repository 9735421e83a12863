"""What a user's clips may be: video files, feature files or arrays, each on its way to a store."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from avdiff_jax.data.clips import Clip
from avdiff_jax.data.importers import layouts
from avdiff_jax.data.importers.npy_folder import find_layout, list_folder
from avdiff_jax.data.importers.text_vectors import class_text
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.errors import UserError
from avdiff_jax.extract import encoders, recipes
from avdiff_jax.extract.collection import Collection, collect_files, open_collection
from avdiff_jax.extract.pipeline import Encoders
from avdiff_jax.extract.run import extract, report_path
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.runtime.progress import Progress


class Settings(NamedTuple):
    """How features are made of clips, where they are not features already.

    audio, video: names of encoders, as `extract.encoders.make` takes them.
    audio_seconds, video_seconds: that a token of given features lasts.
    text: a file of class text vectors; None makes them from the class names.
    """

    audio: str = encoders.DEFAULTS["audio"]
    video: str = encoders.DEFAULTS["video"]
    audio_seconds: float | None = None
    video_seconds: float | None = None
    text: FilePath | None = None


class Source(Protocol):
    """Clips with classes.

    name: of the data set.
    fingerprint: changes whenever the clips do.
    """

    @property
    def name(self) -> str: ...

    def labels(self) -> Sequence[tuple[str, str | None]]:
        """Class and group of each clip, where they are known before the store is made."""
        ...

    def fingerprint(self) -> str: ...

    def write(self, path: Path, settings: Settings) -> str:
        """Makes the store; returns a report for people."""
        ...


def find_source(
    clips: FilePath | Sequence, classes: Sequence[str] | None, groups: Sequence[str] | None
) -> Source:
    """Finds out what the clips are; arguments as of `fitting.fit.fit`.

    Raises:
      UserError: there are none, or none with classes.
    """
    if isinstance(clips, str | os.PathLike):
        if classes is not None or groups is not None:
            raise UserError(f"classes and groups come from {os.fspath(clips)}: leave them out")
        return _find_files(Path(clips))
    if classes is None or len(classes) != len(clips) or (
            groups is not None and len(groups) != len(clips)):
        raise UserError(f"{len(clips)} clips have {0 if classes is None else len(classes)} classes"
                        + ("" if groups is None else f" and {len(groups)} groups")
                        + ": give one of each a clip")
    if all(isinstance(clip, str | os.PathLike) for clip in clips):
        return VideoFiles(collect_files(clips, classes, groups))
    return Arrays(list(clips), list(classes), groups)


def _find_files(path: Path) -> Source:
    if layout := find_layout(path):
        return FeatureFiles(layout, path)
    collection = open_collection(path)
    if not collection.is_labelled:
        raise UserError(f"the clips of {path} have no classes: lay them as {path.name}/class/"
                        f"clip.mp4, or name their classes in the column class of a CSV")
    return VideoFiles(collection)


@dataclass(frozen=True)
class VideoFiles:
    """Clips to be encoded."""

    collection: Collection

    @property
    def name(self) -> str:
        """That of the folder or list."""
        return self.collection.name

    def labels(self) -> Sequence[tuple[str, str | None]]:
        """Those of the folder or list."""
        return [(clip.class_name, clip.group) for clip in self.collection.clips]

    def fingerprint(self) -> str:
        """By size and time of change of the files."""
        return _digest((*clip, *_state(clip.path)) for clip in self.collection.clips)

    def write(self, path: Path, settings: Settings) -> str:
        """Extracts; a killed extraction goes on."""
        recipe = recipes.find("plain")
        chosen = Encoders(encoders.make(settings.audio, "audio", recipe),
                          encoders.make(settings.video, "video", recipe))
        text = class_text(self.collection.class_names, settings.text)
        done = extract(self.collection, path, chosen, recipe.name, text)
        return f"{done}\nreport     {report_path(path)}"


@dataclass(frozen=True)
class FeatureFiles:
    """Features in .npy files: those of a folder, or those that a manifest lists."""

    layout: str
    path: Path

    @property
    def name(self) -> str:
        """That of the folder or manifest."""
        return self.path.resolve().stem

    def labels(self) -> Sequence[tuple[str, str | None]]:
        """Not known yet."""
        return ()

    def fingerprint(self) -> str:
        """By size and time of change of the files."""
        return _digest((str(file), *_state(file)) for file in self._files())

    def _files(self) -> list[Path]:
        if self.layout == "folder":
            return [file for files in list_folder(self.path).values() for file in files.values()]
        head, *rows = text_files.rows(self.path, "manifest")
        listed = (row[head.index(modality)] for row in rows for modality in ("audio", "video")
                  if modality in head and head.index(modality) < len(row))
        return [self.path, *(self.path.parent / file for file in listed if file)]

    def write(self, path: Path, settings: Settings) -> str:
        """Imports. Raises UserError where nobody says how long a token lasts."""
        setting = layouts.LAYOUTS[self.layout].needs[0]
        audio, video = _rates(settings)
        given = {setting: os.fspath(self.path), "text": settings.text, "audio_seconds": audio,
                 "video_seconds": video}
        report, _ = layouts.import_features(
            self.layout, {key: value for key, value in given.items() if value is not None}, path,
            name=self.name, pool={"audio": 1, "video": 1}, command="fit", may_lack_modality=True)
        return str(report)


@dataclass(frozen=True, eq=False)
class Arrays:
    """Features in memory: a pair (audio, video) a clip, [tokens, features] each; an array of
    [features] is one token, None a modality that the clip lacks."""

    clips: list[tuple[Any, Any]]
    classes: list[str]
    groups: Sequence[str] | None
    name: str = "arrays"

    def labels(self) -> Sequence[tuple[str, str | None]]:
        """Those that were given."""
        if self.groups is None:
            return [(str(name), None) for name in self.classes]
        return list(zip(map(str, self.classes), map(str, self.groups), strict=True))

    def fingerprint(self) -> str:
        """By their values."""
        return _digest(
            (name, *((None, None) if x is None else (np.shape(x), np.asarray(x).tobytes())
                     for x in pair))
            for name, pair in zip(self.classes, self.clips, strict=True))

    def write(self, path: Path, settings: Settings) -> str:
        """Stores them. Raises UserError where nobody says how long a token lasts."""
        class_names = sorted({*map(str, self.classes)})
        text, (audio, video) = class_text(class_names, settings.text), _rates(settings)
        digits = len(str(len(self.clips)))

        def stream() -> Iterable[Clip]:
            for i, ((audio, video), name) in enumerate(
                    zip(self.clips, self.classes, strict=True)):
                group = None if self.groups is None else str(self.groups[i])
                yield Clip(f"clip{i:0{digits}d}", str(name), group, _tokens(audio), _tokens(video))

        with Progress(len(self.clips), "store") as progress:
            report = write_store(
                path, name=self.name, clips=stream(), class_names=class_names,
                class_text=text.vectors, audio_seconds=audio, video_seconds=video,
                provenance={"text": text.source, "command": "fit"},
                may_lack_modality=True, notes=text.notes, progress=progress)
        return str(report)


def _rates(settings: Settings) -> tuple[float, float]:
    """Seconds of a token of audio and of video. Raises UserError where they are not known."""
    audio, video = settings.audio_seconds, settings.video_seconds
    if audio is None or video is None:
        lacking = [f"{name}_seconds" for name, seconds in (("audio", audio), ("video", video))
                   if seconds is None]
        flags = " and ".join(f"--{name.replace('_', '-')} S" for name in lacking)
        raise UserError(f"features do not say how many seconds a token lasts: add {flags}, in "
                        f"Python avdiff_jax.fit(..., {', '.join(f'{n}=S' for n in lacking)})")
    return audio, video


def _tokens(values: Any) -> np.ndarray | None:
    return None if values is None else np.atleast_2d(np.asarray(values))


def _state(path: FilePath) -> tuple[int, int]:
    """Size and time of change; nothing of a file that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _digest(rows: Iterable[tuple]) -> str:
    content = hashlib.sha256()
    for row in rows:
        content.update(repr(row).encode())
    return content.hexdigest()
