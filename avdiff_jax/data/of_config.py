"""The store and the split that a configuration names."""

import pathlib

from ml_collections import ConfigDict

from avdiff_jax.cli.home import command
from avdiff_jax.data import synthetic
from avdiff_jax.data.splits import from_store, split_file
from avdiff_jax.data.store import Store, open_store
from avdiff_jax.errors import UserError


def find_store(config: ConfigDict) -> pathlib.Path:
    """The path of the store of a configuration that names one or is of a data set."""
    return pathlib.Path(config.data.store or f"data/{config.dataset}.h5")


def is_embedded(config: ConfigDict) -> bool:
    """Whether the data are made up in the workdir."""
    return bool(config.data.synthetic.classes and not config.data.store)


def find_files(config: ConfigDict, workdir: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The paths of the store and of the split of a configuration."""
    if is_embedded(config):
        return workdir / "synthetic.h5", workdir / "split.json"
    split = config.data.split or f"data/{config.dataset}-{config.shots}shot.json"
    return find_store(config), pathlib.Path(split)


def list_missing(config: ConfigDict, workdir: pathlib.Path) -> list[str]:
    """Says of each of the two files that does not exist how it is made; the embedded set is made by
    itself."""
    if is_embedded(config):
        return []
    store_path, split_path = find_files(config, workdir)
    return [
        f"{path} does not exist: make it with `{command('data')} {verb}` (see the README), or "
        f"name another with --config.{flag}"
        for path, flag, verb in (
            (store_path, "data.store", "import"), (split_path, "data.split", "split"),
        )
        if not path.exists()
    ]


def open_data(config: ConfigDict, workdir: pathlib.Path) -> tuple[Store, split_file.Split]:
    """Store and split of a configuration; the embedded default is made in the workdir.

    Raises:
      UserError: a file is missing (the sentence says how to make it) or wrong.
    """
    store_path, split_path = find_files(config, workdir)
    if is_embedded(config):
        spec = config.data.synthetic
        if not store_path.exists():
            synthetic.synthesize(
                store_path, seed=config.seed, classes=spec.classes,
                clips_per_class=spec.clips_per_class, audio_dim=spec.audio_dim,
                video_dim=spec.video_dim, text_dim=spec.text_dim,
            )
        store = open_store(store_path)
        if not split_path.exists():
            split = from_store.make_split(
                store, config.shots, config.seed, base=0.5, novel1=0.25, novel2=0.25, by="group"
            )
            split_file.write(split, split_path)
        return store, split_file.load(split_path)
    if missing := list_missing(config, workdir):
        raise UserError(missing[0])
    store, split = open_store(store_path), split_file.load(split_path)
    if split["shots"] != config.shots:
        raise UserError(
            f"{split_path} holds {split['shots']} shots but the configuration asks for "
            f"{config.shots}: name another split, or use the word {split['shots']}shot"
        )
    return store, split
