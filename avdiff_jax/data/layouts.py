"""The layouts that features come in: which settings each needs, and its reader.

A setting has the name of its flag of `launch/data.py import`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from avdiff_jax.data import importers, official
from avdiff_jax.errors import UserError


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
        importers.read_npz, ("npz", "label_key", "text", *RATES),
        ("audio_key", "video_key", "class_key", "id_key", "group_key", *TEXT[1:]),
    ),
    "manifest": Layout(importers.read_manifest, ("manifest", "text", *RATES), TEXT[1:]),
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


def _flags(settings) -> str:
    return ", ".join("--" + setting.replace("_", "-") for setting in settings)


def read(name: str, settings: Mapping, progress):
    """(clips, Source) of a layout; `progress` is told MiB where the reader knows them."""
    layout = LAYOUTS[name]
    names = [key for key in (*layout.needs, *layout.takes) if key not in (*RATES, "split")]
    own = {key: settings.get(key) for key in names}
    if name == "official":
        own["progress"] = progress
    return layout.read(own.pop(layout.needs[0]), **own)
