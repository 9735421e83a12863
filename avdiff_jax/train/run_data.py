"""The store and the split that a run began with: other ones are refused later, whatever they are
called and wherever the command was given."""

import os
import pathlib
from typing import TypedDict

from ml_collections import ConfigDict

from avdiff_jax.data.fingerprints import identify
from avdiff_jax.data.of_config import find_files, is_embedded, open_data
from avdiff_jax.data.splits import split_file
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.data.store import Store
from avdiff_jax.errors import UserError
from avdiff_jax.io import documents


class FileContent(TypedDict):
    """Where a file lay, and what its content is known by."""

    path: str
    fingerprint: str


class DataContent(TypedDict):
    """The data of a run as JSON."""

    store: FileContent
    split: FileContent


RECORD = documents.Document(
    "record of the data", DataContent, "remove it, and the data of this run stay unchecked",
    version=1,
)


def hold_data(config: ConfigDict, workdir: pathlib.Path) -> tuple[Store, Split]:
    """Opens store and split of a configuration; keeps what a run that begins is given, and gives
    one that goes on nothing else.

    A workdir of version 0.1 has kept nothing and is given what the configuration names.

    Raises:
      UserError: a file is missing or damaged, or holds other data than the run began with.
    """
    path = workdir / "data.json"
    store, split = open_data(config, workdir)
    if not path.exists():
        if not (workdir / "checkpoints").exists():
            documents.write(path, {"version": 1, **describe(config, workdir, store, split)})
        return store, split
    now, begun = describe(config, workdir, store, split), RECORD.read(path)
    for what in ("store", "split"):
        ours, theirs = now[what], begun[what]
        if ours["fingerprint"] == theirs["fingerprint"]:
            continue
        if ours["path"] == theirs["path"]:
            raise UserError(
                f"the {what} {ours['path']} holds other data than when the run in {workdir} began "
                f"(then {theirs['fingerprint']}, now {ours['fingerprint']}): put that back, or "
                "choose another --workdir"
            )
        raise UserError(
            f"the run in {workdir} began with the {what} {theirs['path']}, and {ours['path']} "
            f"holds other data: name the first with --config.data.{what}, or choose another "
            "--workdir"
        )
    return store, split


def open_run_data(config: ConfigDict, workdir: pathlib.Path) -> tuple[Store, Split]:
    """Opens store and split of a finished run where they lay when it began, from any folder.

    Raises:
      UserError: as `hold_data`.
    """
    path = workdir / "data.json"
    if path.exists() and not is_embedded(config):
        begun, config = RECORD.read(path), config.copy_and_resolve_references()
        with config.unlocked():
            for what in ("store", "split"):
                if os.path.exists(begun[what]["path"]):
                    config.data[what] = begun[what]["path"]
    return hold_data(config, workdir)


def describe(
    config: ConfigDict, workdir: pathlib.Path, store: Store, split: Split
) -> dict[str, FileContent]:
    """Says where store and split lie and what they are known by."""
    places = map(str, (path.absolute() for path in find_files(config, workdir)))
    known_by = identify(store), split_file.fingerprint(split)
    return {
        what: FileContent(path=place, fingerprint=fingerprint)
        for what, place, fingerprint in zip(("store", "split"), places, known_by, strict=True)
    }
