"""Clips as files: made into features by the encoders and the recipe that a model remembers."""

import atexit
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avdiff_jax.data import clip_source
from avdiff_jax.data.class_text import ClassText, lack_text, list_names
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.importers import text_encoders
from avdiff_jax.data.origin import Origin
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError, note
from avdiff_jax.extract import encoders, recipes
from avdiff_jax.extract.collection import Collection, open_collection
from avdiff_jax.extract.parts import Outcome
from avdiff_jax.extract.pipeline import Encoders
from avdiff_jax.extract.run import extract
from avdiff_jax.io.files import FilePath


class Files(NamedTuple):
    """Weight files of encoders that no package brings, as `extract.encoders.make` takes them."""

    audio: FilePath | None = None
    audio_pca: FilePath | None = None
    video: FilePath | None = None


def extract_clips(path: FilePath, origin: Origin | None, files: Files | None = None) -> ClipSource:
    """Makes features of video files as those were made that a model was trained on.

    Args:
      path: a folder or a CSV, see `extract.collection.open_collection`.
      origin: of the model.

    Raises:
      UserError: the model does not know how its features were made, or as `extract`.
    """
    if origin is None or not origin.recipe:
        raise UserError(f"the features that the model was trained on were not made of video files "
                        f"here, so those of {path} cannot be made alike: give features")
    collection, chosen = open_collection(path), remake_encoders(origin, files or Files())
    folder = tempfile.TemporaryDirectory(prefix="avdiff_jax-clips-")
    atexit.register(folder.cleanup)  # the features are mapped until then
    made = Path(folder.name) / f"{collection.name}.h5"
    text = remake_text(collection, origin)
    done = extract(collection, made, chosen, origin.recipe, text)
    tell_failures(done.outcomes)
    source = clip_source.of_store(open_store(made))
    source = dataclasses.replace(source, place=str(path), is_alike=True)
    if collection.is_labelled:
        return source
    return dataclasses.replace(source, labels=None, class_names=(), text={})


def remake_encoders(origin: Origin, files: Files) -> Encoders:
    """The encoders of an origin. Raises UserError where other weights were given."""
    recipe = recipes.find(origin.recipe)
    return Encoders(
        encoders.remake(origin.audio, "audio", recipe, files.audio, files.audio_pca),
        encoders.remake(origin.video, "video", recipe, files.video))


def remake_text(collection: Collection, origin: Origin) -> ClassText:
    """The text of the classes, where that of the model was made from names by what is here."""
    names = collection.class_names
    vectors = encode_alike(names, origin) if collection.is_labelled else None
    return lack_text(len(names)) if vectors is None else ClassText(vectors, origin.text)


def encode_alike(class_names: Sequence[str], origin: Origin | None) -> np.ndarray | None:
    """The text vectors [C, Dt] of class names, where those of the model were made from names by
    what is here; else None."""
    if origin and text_encoders.is_installed() and text_encoders.identify() == origin.text:
        return text_encoders.encode_names(class_names)
    return None


def tell_failures(outcomes: Mapping[str, Outcome]) -> None:
    """Says which clips gave no features, and why."""
    failed: dict[str, dict[str, tuple]] = {}
    for clip, outcome in sorted(outcomes.items()):
        if not outcome.is_kept:
            failed.setdefault(outcome.reason, {})[clip] = ()
    if failed:
        reasons = "; ".join(f"{list_names(clips)}: {reason}" for reason, clips in failed.items())
        note(f"{sum(map(len, failed.values()))} of {len(outcomes)} clips gave no features and are "
             f"left out: {reasons}")
