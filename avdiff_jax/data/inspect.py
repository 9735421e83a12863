"""What a file or folder of the project holds, said in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avdiff_jax.cli.home import command
from avdiff_jax.data import store as stores
from avdiff_jax.data.importers import layouts, official
from avdiff_jax.data.importers.npz_manifest import NpzKeys
from avdiff_jax.data.splits import sets, split_file
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_report import report
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.npy_npz import NpzFiles
from avdiff_jax.runtime.progress import Progress

MADE = {
    "command": "made by", "date": "made on", "sources": "made from", "pool": "averaged",
    "text": "text from",
}


class Inspection(NamedTuple):
    """text: to print. lengths: tokens of each clip by modality. counts: clips by class."""

    text: str
    lengths: Mapping[str, Sequence[int] | np.ndarray]
    counts: Mapping[str, int]


def inspect_path(path: Path, shots: int | None = None) -> Inspection:
    """What a store, a split (.json), arrays (.npz) or a folder of the published layout (of `shots`
    only) hold.

    Raises:
      UserError: it is none of these, or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: name a store (.h5), a split (.json), arrays "
                        f"(.npz) or a published archive folder")
    if path.is_dir():
        return _archive(path, shots)
    if shots is not None:
        raise UserError(f"--shots {shots} is for archive folders and {path} is a file: leave "
                        f"it out")
    if path.suffix == ".npz":
        return _arrays(path)
    if path.suffix == ".json":
        return _split(path)
    with text_files.open_file(path) as file:
        is_store = path.suffix == ".h5" or file.read(4) == b"\x89HDF"
    if not is_store:
        raise UserError(f"{path} is none of a store (.h5), a split (.json), arrays (.npz) and a "
                        f"published archive folder: name one of these")
    return _store(path)


def _arrays(path: Path) -> Inspection:
    """The arrays of an .npz file, and how a store is made of them where their names tell."""
    files = NpzFiles([path])
    lines = [f"arrays     {path}"]
    lines += [f"{key:10} {' x '.join(map(str, shape)) or 'one value'}, {dtype}"
              for key, (shape, dtype) in files.shapes().items()]
    if any(NpzKeys().fill(files)[:2]):
        lines.append(f"to import  {command('data')} import --layout=npz --npz {path} "
                     "--audio-seconds S --video-seconds S --out STORE.h5")
    return Inspection("\n".join(lines), {}, {})


def _store(path: Path) -> Inspection:
    store = stores.open_store(path)
    tokens = len(store.audio.values) + len(store.video.values)
    with Progress(tokens, "looking for NaN") as progress:
        stores.check_values(store, progress)
    contents = report(store)
    origin = [f"{MADE.get(key, key):10} {_words(value)}"
            for key, value in sorted(store.provenance.items())]
    lengths = {"audio": store.audio.lengths, "video": store.video.lengths}
    return Inspection("\n".join([str(contents), *origin]), lengths, contents.clips_per_class)


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {content}" for name, content in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _split(path: Path) -> Inspection:
    split = split_file.load(path)
    seed = "" if split["seed"] is None else f", seed {split['seed']}"
    title = f"split      {path} of {split['name']}: {split['shots']} shots, by {split['by']}{seed}"
    counts = Counter()
    content: Any  # clips by class, or a list of such
    for content in split["sets"].values():
        # of the three draws, the first: the others deal the same clips again
        for class_name, ids in (content[0] if isinstance(content, list) else content).items():
            counts[class_name] += len(ids)
    return Inspection(f"{title}\n{split_file.report(split)}", {}, dict(counts))


def _archive(path: Path, shots: int | None) -> Inspection:
    all_shots = official.published_shots(path)
    lines = [f"archive    {path} with features for {', '.join(map(str, all_shots)) or 'no'} shots"]
    lengths, counts = {"audio": [], "video": []}, Counter()
    for k in [shots] if shots is not None else all_shots:
        lengths, counts, splits = {"audio": [], "video": []}, Counter(), []
        with Progress(None, f"{k} shots") as progress:
            clips, source = official.read_official(path, k, progress=progress)
            for clip in layouts.watch_archive(clips, source, source.name, k, splits):
                counts[clip.class_name] += 1
                for modality in lengths:
                    lengths[modality].append(len(getattr(clip, modality)))
        lines += [f"clips      {counts.total()}",
                  f"classes    {len(counts)}, text vectors of {source.text.vectors.shape[1]}"]
        lines += [f"{modality}      {min(values)} to {max(values)} tokens a clip, median "
                  f"{np.median(values):g}" for modality, values in lengths.items()]
        lines += [f"note       {note}" for note in source.notes]
        lines.append(split_file.report(splits[0]))
    return Inspection("\n".join(lines), lengths, dict(counts))


def class_names(path: str) -> list[str]:
    """The classes of a split (.json), a store (HDF5) or a text file, one a line.

    Raises:
      UserError: no such file, a damaged one, or one with no names or a name twice.
    """
    if path.endswith(".json"):
        kinds = split_file.load(path)["classes"]
        return sorted([*kinds["base1"], *kinds["novel1"], *kinds["novel2"]])
    with text_files.open_file(path, "class list") as file:
        is_store = file.read(4) == b"\x89HDF"
    if is_store:
        return list(open_store(path).class_names)
    names = text_files.lines(path, "class list")
    if not names:
        raise UserError(f"{path} holds 0 classes but one class a line is needed")
    if twice := sets.repeated(names):
        raise UserError(f"{path} lists class {twice!r} twice: remove one of the two lines")
    return names
