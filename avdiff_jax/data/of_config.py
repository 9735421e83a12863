"""The store and the split that a configuration names."""

import pathlib

from ml_collections import ConfigDict

from avdiff_jax.data import synthetic
from avdiff_jax.data.splits import from_store, split_file
from avdiff_jax.data.store import Store, open_store
from avdiff_jax.errors import UserError


def find_store(config: ConfigDict) -> pathlib.Path:
    """The path of the store of a configuration that names one or is of a data set."""
    return pathlib.Path(config.data.store or f"data/{config.dataset}.h5")


def open_data(config: ConfigDict, workdir: pathlib.Path) -> tuple[Store, split_file.Split]:
    """Store and split of a configuration; the embedded default is made in the workdir.

    Raises:
      UserError: a file is missing (the sentence says how to make it) or wrong.
    """
    name = config.dataset
    spec = config.data.synthetic
    if spec.classes and not config.data.store:
        store_path, split_path = workdir / "synthetic.h5", workdir / "split.json"
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
    store_path = find_store(config)
    split_path = pathlib.Path(config.data.split or f"data/{name}-{config.shots}shot.json")
    for path, flag, verb in (
        (store_path, "data.store", "import"), (split_path, "data.split", "split"),
    ):
        if not path.exists():
            raise UserError(
                f"{path} does not exist: make it with `python launch/data.py {verb}` (see the "
                f"README), or name another with --config.{flag}"
            )
    store, split = open_store(store_path), split_file.load(split_path)
    if split["shots"] != config.shots:
        raise UserError(
            f"{split_path} holds {split['shots']} shots but the configuration asks for "
            f"{config.shots}: name another split, or use the word {split['shots']}shot"
        )
    return store, split
