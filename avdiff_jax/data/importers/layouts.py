"""The layouts that features come in, and the store that is made of what lies in one.

A setting has the name of its flag of `launch/data.py import`.
"""

import datetime
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from avdiff_jax.data.clips import Clip, pool_tokens
from avdiff_jax.data.importers import npy_folder, npz_manifest, official
from avdiff_jax.data.splits import split_file
from avdiff_jax.data.store import MODALITIES
from avdiff_jax.data.store_report import Report
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath
from avdiff_jax.runtime.progress import Progress


class Layout(NamedTuple):
    """One layout.

    read: makes (clips, Source) of the settings.
    needs: the settings that it cannot do without; the first says where the features lie.
    takes: those that it may have.
    seconds: per token of each modality, as far as the layout fixes them.
    """

    read: Callable
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    seconds: Mapping[str, float] = {}


RATES = ("audio_seconds", "video_seconds")  # these two and `split` are no business of a reader
TEXT = ("text", "text_map", "text_key", "text_names")
LAYOUTS = {
    "official": Layout(
        official.read_official, ("root", "shots"), (*TEXT[:2], *RATES, "split"),
        official.PUBLISHED_SECONDS,
    ),
    "npz": Layout(
        npz_manifest.read_npz, ("npz", *RATES),
        ("label_key", "audio_key", "video_key", "class_key", "id_key", "group_key", *TEXT),
    ),
    "folder": Layout(npy_folder.read_folder, ("root", *RATES), TEXT),
    "manifest": Layout(npz_manifest.read_manifest, ("manifest", *RATES), TEXT),
}
SETTINGS = {name for layout in LAYOUTS.values() for name in (*layout.needs, *layout.takes)}


def check(name: str, given: Collection[str]) -> None:
    """Whether these settings are those of the layout of this name.

    Raises:
      UserError: the layout would ignore some, or lacks some that it needs.
    """
    layout = LAYOUTS[name]
    if foreign := sorted({*given} - {*layout.needs, *layout.takes}):
        raise UserError(f"{_flags(foreign)} means nothing with --layout {name}: leave it out or "
                        f"change the layout")
    if missing := [setting for setting in layout.needs if setting not in given]:
        raise UserError(f"--layout {name} needs {_flags(missing)}: add what is missing")


def _flags(settings: Iterable[str]) -> str:
    return ", ".join("--" + setting.replace("_", "-") for setting in settings)


def import_features(
    layout: str, settings: Mapping, path: FilePath, *, name: str, pool: Mapping[str, int],
    command: str,
    may_lack_modality: bool = False, video_dtype: str = "float32",
) -> tuple[Report, split_file.Split | None]:
    """Makes the store `path`; returns what it holds, and the split that an official archive brings.

    Args:
      settings: those that were given, as `check` wants them.
      name: of the data set.
      pool: how many tokens of each modality are averaged into one.
      command: goes into the provenance.

    Raises:
      UserError: settings, files or a split that are not in order; nothing is left behind.
    """
    check(layout, settings)
    read, needs, takes, fixed = LAYOUTS[layout]
    arguments = {key: settings.get(key) for key in (*needs, *takes) if key not in (*RATES, "split")}
    brings_split, progress = layout == "official", Progress(None, "import")
    if brings_split:
        # It counts MiB; the others leave it to the store to count clips.
        arguments["progress"] = progress
    clips, source = read(arguments.pop(needs[0]), **arguments)
    clips, splits = pool_tokens(clips, **pool), []
    if brings_split:
        clips = watch_archive(clips, source, name, settings["shots"], splits)
    seconds = {m: settings.get(f"{m}_seconds", fixed.get(m)) for m in MODALITIES}
    progress.total = source.total
    with progress:
        report = write_store(
            path, name=name, clips=clips,
            class_names=source.class_names, class_text=source.text.vectors,
            audio_seconds=seconds["audio"] * pool["audio"],
            video_seconds=seconds["video"] * pool["video"],
            provenance={
                "command": command,
                "sources": source.files,
                "text": source.text.source,
                "pool": dict(pool),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            },
            may_lack_modality=may_lack_modality, video_dtype=video_dtype,
            notes=[*source.notes, *source.text.notes],
            progress=None if brings_split else progress,
        )
    return report, splits[0] if splits else None


def watch_archive(
    clips: Iterable[Clip], source: official.Source, name: str, shots: int, splits: list
) -> Iterator[Clip]:
    """The same clips of a published archive; after the last its split is made and audited, so that
    a bad one stops all before the store is published, and put into `made`."""
    groups = {}
    for clip in clips:
        groups[clip.clip_id] = clip.group
        yield clip
    assert source.sets is not None and source.classes is not None  # an archive brings both
    splits.append(split_file.finish(
        source.sets, source.classes, name=name, shots=shots, seed=None, by="official",
        groups=groups))
