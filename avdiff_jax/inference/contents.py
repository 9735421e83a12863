"""What a model file holds: a JSON header, and arrays that are named by their place.

The file is an .npz without pickles: `header` is a JSON object as bytes, every other member a plain
array. It needs neither the feature store nor the split that the model was trained with.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from avdiff_jax.cli.choices import check_values
from avdiff_jax.cli.upgrade import upgrade
from avdiff_jax.data.origin import Origin
from avdiff_jax.data.store import MODALITIES
from avdiff_jax.data.training_set import Draw, TrainingSet
from avdiff_jax.data.values import Values
from avdiff_jax.data.windows import Lengths
from avdiff_jax.errors import UserError, note
from avdiff_jax.io.documents import Document, plain
from avdiff_jax.io.files import FilePath, draft
from avdiff_jax.io.npy_npz import NpzFiles
from avdiff_jax.methods import METHODS
from avdiff_jax.methods.method import Info, Vars, abstract_batch

BASE, NOVEL, ADDED = KINDS = ("base", "novel", "added")
PARTS = ("params", "stats", "buffers")


class ValuesContent(TypedDict):
    """A `Values` as JSON."""

    least: float
    most: float
    mean: float
    deviation: float


class DrawContent(TypedDict):
    """A `Draw` as JSON."""

    store: str
    split: str
    number: int


class TrainedOnContent(TypedDict):
    """A `TrainingSet` as JSON, but for its arrays."""

    audio: ValuesContent
    video: ValuesContent
    draw: DrawContent | None


class OriginContent(TypedDict):
    """An `Origin` as JSON."""

    text: str
    recipe: str
    audio: str
    video: str


class Header(TypedDict):
    """What a model file says beside its arrays; the fields are those of `Trained`."""

    config: dict
    classes: list[str]
    kinds: list[Literal["base", "novel", "added"]]
    gamma: float
    temperature: float | None
    video_dim: int
    seconds: list[float]
    lengths: list[int]
    epochs: int
    cuts: list[int]
    trained_on: NotRequired[TrainedOnContent | None]
    origin: NotRequired[OriginContent | None]


HEADER = Document("model header", Header, "write the model again", "avdiff_jax.model", 1)


def write(path: FilePath, header: Mapping, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a model file, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    header = {"schema": HEADER.schema, "version": HEADER.version, **header}
    content = json.dumps(plain(header), sort_keys=True, ensure_ascii=False)
    members: dict[str, Any] = {"header": np.frombuffer(content.encode(), np.uint8), **arrays}
    with draft(path) as scratch, open(scratch, "wb") as file:
        np.savez(file, **members)


def read_header(path: FilePath, files: NpzFiles) -> Header:
    """Reads the header of an open model file.

    Raises:
      UserError: it has none, or one that is damaged or of another version.
    """
    if "header" not in files:
        raise UserError(
            f"{path} is no model file, it has no header: name a model-draw*.npz of a finished run"
        )
    return HEADER.parse(files.array("header", "--model").tobytes(), path)


def read_arrays(files: NpzFiles, *parts: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an open model file whose names begin with one of `parts`."""
    begin = tuple(f"{part}/" for part in parts)
    return {key: files.array(key, "--model") for key in files.keys if key.startswith(begin)}


def read_info(path: FilePath, files: NpzFiles, header: Header) -> Info:
    """Reads what the method knows of its classes.

    Raises:
      UserError: the configuration is of another version of the code, or parts of the file
        contradict each other.
    """
    config = ConfigDict(upgrade(header["config"]))
    if config.method not in METHODS:
        raise UserError(f"{path} is of method={config.method}, which is unknown here")
    try:
        check_values(config)
    except AttributeError as error:  # a field that came later
        raise UserError(
            f"{path} was written by another version of the code ({str(error).splitlines()[0]}): "
            "use that version, or run again with this one"
        ) from None
    text, shift, scale = (
        files.array(name, "--model") for name in ("text", "audio_shift", "audio_scale")
    )
    classes, kinds = header["classes"], header["kinds"]
    if not len(classes) == len(kinds) == len(text):
        raise UserError(
            f"{path} has {len(classes)} classes, {len(kinds)} kinds {sorted(set(kinds))} and "
            f"{len(text)} text vectors: write the model again"
        )
    is_base = np.array([kind == BASE for kind in kinds])
    return Info(config, tuple(classes), is_base, text, shift, scale, int(header["video_dim"]))


def fit_variables(
    path: FilePath, info: Info, lengths: Lengths, arrays: Mapping[str, np.ndarray]
) -> Vars:
    """The variables that the method has for these classes, out of `arrays` by part/group/name.

    Raises:
      UserError: one is missing, of another shape, or too many; `path` is where they come from.
    """
    expected, left = abstract_vars(info, lengths), {*arrays}

    def read(place, leaf):
        name = "/".join(key.name if hasattr(key, "name") else key.key for key in place)
        if name not in arrays:
            raise UserError(
                f"{path} lacks {name}, which method={info.config.method} has with this "
                "configuration: use the one that it was made with"
            )
        left.discard(name)
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{path} holds NaN or infinity in {name}: copy or make it again")
        if arrays[name].shape != leaf.shape:
            raise UserError(
                f"{path} holds {name} of shape {arrays[name].shape} where the configuration and "
                f"{len(info.classes)} classes ask for {leaf.shape}: use those that it was made with"
            )
        return jnp.asarray(arrays[name], leaf.dtype)

    vars = jax.tree_util.tree_map_with_path(read, expected)
    if left:
        raise UserError(
            f"{path} holds {min(left)}, which method={info.config.method} does not have with this "
            "configuration: use the one that it was made with"
        )
    return vars


def pack_training_set(trained_on: TrainingSet) -> tuple[dict, dict[str, np.ndarray]]:
    """What the header and what the arrays say of a training set."""
    parts = zip(MODALITIES, trained_on.values, strict=True)
    values = {modality: part._asdict() for modality, part in parts}
    arrays = {f"trained_on/{name}": getattr(trained_on, name) for name in ("prints", "groups")}
    draw = trained_on.draw and trained_on.draw._asdict()
    return {**values, "draw": draw}, arrays


def unpack_training_set(
    path: FilePath, header: Header, files: NpzFiles
) -> TrainingSet | None:
    """What `pack_training_set` made; None, with a note, in a file of version 0.1.

    Raises:
      UserError: a part is missing or of another type.
    """
    said = header.get("trained_on")
    if said is None:
        note("the model was written by version 0.1 and does not describe its training clips: "
             "values are not held against theirs, and they are told by their ids")
        return None
    audio, video = (
        Values(*(said[modality][name] for name in Values._fields)) for modality in MODALITIES
    )
    prints, groups = (files.array(f"trained_on/{name}", "--model") for name in ("prints", "groups"))
    if prints.dtype != np.uint64 or prints.ndim != 1 or groups.dtype.kind != "U":
        raise UserError(f"{path} has fingerprints of type {prints.dtype} and groups of type "
                        f"{groups.dtype}: write the model again")
    draw = said["draw"]
    known_by = Draw(*(draw[name] for name in Draw._fields)) if draw else None
    return TrainingSet((audio, video), prints, groups, known_by)


def read_origin(header: Header) -> Origin | None:
    """Reads where features and text came from; None in a file that does not say."""
    said = header.get("origin")
    return None if said is None else Origin(**{name: said[name] for name in Origin._fields})


def flat(vars: Vars) -> dict[str, np.ndarray]:
    """The variables by part/group/name."""
    parts = {part: getattr(vars, part) for part in PARTS}
    return {name: np.asarray(array) for name, array in flatten_dict(parts, sep="/").items()}


def abstract_vars(info: Info, lengths: Lengths) -> Vars:
    """Names, shapes and types of the variables that the method has for these classes."""
    init = functools.partial(METHODS[info.config.method].init, info)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(init, abstract_batch(info, lengths), key)
