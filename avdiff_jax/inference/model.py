"""A trained model and all that using it takes, as one object and one portable file.

    from avdiff_jax import load
    model = load("runs/own-5shot")                        # a workdir, or one of its model files
    classes, probabilities = model.predict(audio, video)  # lists of [tokens, features] arrays
    bigger = add_classes(model, audio, video, names)      # from avdiff_jax.train.add_classes
    bigger.save("bigger.npz")

The file is an .npz without pickles: `header` is a JSON object as bytes, every other member a plain
array. It needs neither the feature store nor the split that the model was trained with.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from avdiff_jax import metrics
from avdiff_jax.cli.choices import check_values
from avdiff_jax.cli.upgrade import upgrade
from avdiff_jax.data import stream
from avdiff_jax.data.feed import Batch
from avdiff_jax.data.windows import Lengths, Limits
from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import Document, plain
from avdiff_jax.io.files import draft
from avdiff_jax.io.npy_npz import NpzFiles
from avdiff_jax.methods import METHODS
from avdiff_jax.methods.method import Info, Method, Vars, abstract_batch
from avdiff_jax.runtime.compiling import compile_function

BASE, NOVEL, ADDED = KINDS = ("base", "novel", "added")
PARTS = ("params", "stats", "buffers")


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


HEADER = Document("model header", Header, "write the model again", "avdiff_jax.model", 1)


class Examples(NamedTuple):
    """The training clips as `Method.features` sees them in evaluation mode, of which classes can
    be added without the clips: features [n, ...], labels [n] int32, clip ids [n]."""

    features: np.ndarray
    labels: np.ndarray
    clips: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model.

    info: configuration, classes (label = position), text vectors and input scaling.
    kinds: of each class: "base", "novel" (trained on few shots) or "added" (later).
    gamma: subtracted from the scores of base classes.
    temperature: of the probabilities, fitted on Val; None where there was no Val.
    seconds: per token of audio and of video.
    lengths: tokens of a training clip, to which those of added classes are cut too.
    epochs, cuts: of substage 2, and the epochs after which its rate was cut.
    examples: None in a file of parameters alone.
    """

    info: Info
    kinds: tuple[str, ...]
    vars: Vars
    gamma: float
    temperature: float | None
    seconds: tuple[float, float]
    lengths: Lengths
    epochs: int
    cuts: tuple[int, ...]
    examples: Examples | None = None

    @property
    def method(self) -> Method:
        """Of the configuration."""
        return METHODS[self.info.config.method]

    @property
    def limits(self) -> Limits:
        """On the tokens of a clip to be classified."""
        data = self.info.config.data
        return Limits(data.test_max_audio, data.test_max_video)

    def scores(self, audio: Sequence, video: Sequence) -> np.ndarray:
        """Scores [n, C] of clips, larger is better, before gamma is subtracted.

        Args:
          audio, video: n arrays each, [Ta, Da] and [Tv, Dv], as the training features were before
            any scaling; None where a clip lacks the modality.

        Raises:
          UserError: arrays that do not fit the model, named by their position.
        """
        found = [scores for _, scores in self.scored(stream.of_arrays(audio, video))]
        return np.concatenate([np.zeros((0, len(self.info.classes)), np.float32), *found])

    def predict(self, audio: Sequence, video: Sequence, top: int = 1):
        """The likeliest classes of clips: names [n, top] and probabilities [n, top]."""
        order, probability = self.best(self.scores(audio, video), top)
        return np.array(self.info.classes)[order], probability

    def best(self, scores: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels [n, top] of the best classes by `scores` [n, C], and their probabilities."""
        p = self.probabilities(scores)
        order = np.argsort(-metrics.calibrated(scores, self.info.is_base, self.gamma), axis=1,
                           kind="stable")[:, :top]
        return order, np.take_along_axis(p, order, axis=1)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """[n, C]; see `metrics.probabilities`."""
        return metrics.probabilities(scores, self.info.is_base, self.gamma, self.temperature)

    def scored(self, clips: Iterable[stream.Features]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Scores a stream of clips: yields clip ids and scores [n, C], piece by piece, in order.

        Raises:
          UserError: as `scores`, and where a score is not finite.
        """
        for ids, scores in self._mapped(clips, self._compiled_scores, self.limits):
            bad = ~np.isfinite(scores).all(1)
            if bad.any():
                raise UserError(
                    f"the scores of clip {ids[int(bad.argmax())]!r} are not finite: check its "
                    "features for extreme values"
                )
            yield ids, scores

    def features(self, clips: Iterable[stream.Features]) -> np.ndarray:
        """`Method.features` [n, ...] of clips, cut as in training."""
        parts = self._mapped(clips, self._compiled_features, Limits(*self.lengths))
        return np.concatenate([features for _, features in parts])

    def pieces(self, clips: Iterable[stream.Features]) -> Iterator[stream.Piece]:
        """A stream of clips in pieces, checked against the model's dimensions."""
        dims = len(self.info.audio_shift), self.info.video_dim
        return stream.pieces(clips, dims, self.seconds, self.info.config.eval.batch)

    def _mapped(self, clips, function, limits: Limits):
        """(clip ids, rows [n, ...] of `function`) for each piece; the next one is dispatched
        before the rows of one are fetched."""
        waiting = None
        for piece in self.pieces(clips):
            batches = stream.batches(piece, None, limits, self.info.config.eval.batch)
            parts = [(rows, function(self.vars, batch)) for rows, batch in batches]
            if waiting:
                yield _fetched(*waiting)
            waiting = piece.clip_ids, parts
        if waiting:
            yield _fetched(*waiting)

    def features_of(self, vars: Vars, batch: Batch) -> jax.Array:
        """What `Method.features` makes of a batch in evaluation mode, [B, ...]."""
        # No dropout in evaluation: the key is never read.
        return self.method.features(self.info, vars, batch, jax.random.key(0), False)[0]

    def scores_of(self, vars: Vars, batch: Batch) -> jax.Array:
        """Scores [B, C] of a batch."""
        return self.method.scores(self.info, vars, self.features_of(vars, batch))

    @functools.cached_property
    def _compiled_features(self) -> Callable:
        return compile_function(self.features_of, self.info.config.device.precision)

    @functools.cached_property
    def _compiled_scores(self) -> Callable:
        return compile_function(self.scores_of, self.info.config.device.precision)

    def save(self, path) -> None:
        """Writes the file, whole or not at all.

        Raises:
          UserError: it cannot be written.
        """
        header = {
            "schema": HEADER.schema, "version": HEADER.version,
            "config": self.info.config.to_dict(), "classes": self.info.classes,
            "kinds": self.kinds, "gamma": self.gamma, "temperature": self.temperature,
            "video_dim": self.info.video_dim,
            "seconds": self.seconds, "lengths": self.lengths, "epochs": self.epochs,
            "cuts": self.cuts,
        }
        content = json.dumps(plain(header), sort_keys=True, ensure_ascii=False)
        arrays = {
            "header": np.frombuffer(content.encode(), np.uint8), "text": self.info.text,
            "audio_shift": self.info.audio_shift, "audio_scale": self.info.audio_scale,
            **flat(self.vars),
        }
        if self.examples is not None:
            for name, array in self.examples._asdict().items():
                arrays[f"examples/{name}"] = array
        with draft(path) as made, open(made, "wb") as file:
            np.savez(file, **arrays)


def _fetched(ids, parts):
    first = jax.device_get(parts[0][1])
    out = np.zeros((len(ids), *first.shape[1:]), first.dtype)
    for rows, values in parts:
        out[rows[rows >= 0]] = jax.device_get(values)[rows >= 0]
    return ids, out


def model_file(workdir, draw: int) -> pathlib.Path:
    """Where a run writes the model of a draw."""
    return pathlib.Path(workdir) / f"model-draw{draw}.npz"


def load(path, draw: int = 0) -> Trained:
    """Reads a model.

    Args:
      path: a model file, or the workdir of a finished run.
      draw: of the few shots, which of a run's models; of no meaning with a file.

    Raises:
      UserError: there is none, it is damaged, or its arrays do not fit its configuration.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(
            f"{path} does not exist: name the workdir of a finished run or a model file"
        )
    if path.is_dir():
        path = model_file(path, draw)
        if not path.exists():
            raise UserError(
                f"{path} does not exist: name the workdir of a run that has finished, or write "
                "the models of an older one by launch/main.py with --run=evaluate"
            )
    files = NpzFiles([path])
    header = _header(path, files)
    info = _info(path, files, header)
    arrays = {
        key: files.array(key, "--model")
        for key in files.keys if key.startswith(tuple(f"{part}/" for part in PARTS))
    }
    vars = fitted(path, info, Lengths(*header["lengths"]), arrays)
    examples = None
    if "examples/features" in files:
        examples = Examples(*(files.array(f"examples/{n}", "--model") for n in Examples._fields))
    return Trained(
        info=info, kinds=tuple(header["kinds"]), vars=vars, gamma=header["gamma"],
        temperature=header["temperature"], seconds=(header["seconds"][0], header["seconds"][1]),
        lengths=Lengths(*header["lengths"]), epochs=header["epochs"],
        cuts=tuple(header["cuts"]), examples=examples,
    )


def fitted(path, info: Info, lengths: Lengths, arrays: Mapping[str, np.ndarray]) -> Vars:
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


def flat(vars: Vars) -> dict[str, np.ndarray]:
    """The variables by part/group/name."""
    parts = {part: getattr(vars, part) for part in PARTS}
    return {name: np.asarray(array) for name, array in flatten_dict(parts, sep="/").items()}


def _header(path, files) -> Header:
    if "header" not in files:
        raise UserError(
            f"{path} is no model file, it has no header: name a model-draw*.npz of a finished run"
        )
    return HEADER.parse(files.array("header", "--model").tobytes(), path)


def _info(path, files, header) -> Info:
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


def abstract_vars(info: Info, lengths: Lengths) -> Vars:
    """Names, shapes and types of the variables that the method has for these classes."""
    init = functools.partial(METHODS[info.config.method].init, info)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(init, abstract_batch(info, lengths), key)
