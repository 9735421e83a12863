"""A trained model and all that using it takes, as one object and one portable file.

    from avdiff_jax import load
    model = load("runs/own-5shot")                        # a workdir, or one of its model files
    classes, probabilities = model.predict(audio, video)  # lists of [tokens, features] arrays
    bigger = add_classes(model, audio, video, names)      # from avdiff_jax.train.add_classes
    bigger.save("bigger.npz")

Clips reach a model by one way, whoever asks: from a `ClipSource` through `data.admission`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from avdiff_jax import metrics
from avdiff_jax.cli.home import command
from avdiff_jax.data import clip_source, stream, training_set
from avdiff_jax.data.admission import Usual, admit, choose_rates
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.feed import Batch
from avdiff_jax.data.origin import Origin
from avdiff_jax.data.rates import Seconds
from avdiff_jax.data.training_set import TrainingSet
from avdiff_jax.data.windows import Lengths, Limits
from avdiff_jax.errors import UserError, note
from avdiff_jax.inference import contents
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.npy_npz import NpzFiles
from avdiff_jax.methods import METHODS
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.probabilities import compute_probabilities
from avdiff_jax.runtime.compiling import compile_function


class Examples(NamedTuple):
    """The training clips as `Method.features` sees them in evaluation mode, of which classes can
    be added without the clips: features [n, ...], labels [n] int32, clip ids [n]."""

    features: np.ndarray
    labels: np.ndarray
    clips: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A trained model.

    info: configuration, classes (label = position), text vectors and input scaling.
    kinds: of each class: "base", "novel" (trained on few shots) or "added" (later).
    gamma: subtracted from the scores of base classes.
    temperature: of the probabilities, fitted on Val; None where there was no Val.
    seconds: per token of audio and of video.
    lengths: tokens of a training clip, to which those of added classes are cut too.
    epochs, cuts: of substage 2, and the epochs after which its rate was cut.
    trained_on: tells the training clips from others; None in files of version 0.1.
    origin: what made the features and the text; None where nobody has said.
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
    trained_on: TrainingSet | None = None
    origin: Origin | None = None
    examples: Examples | None = None

    def __repr__(self):
        counts = ", ".join(f"{self.kinds.count(kind)} {kind}" for kind in contents.KINDS
                           if kind in self.kinds)
        return f"Trained({self.info.config.method}, classes: {counts})"

    @property
    def method(self) -> Method:
        """Of the configuration."""
        return METHODS[self.info.config.method]

    @property
    def limits(self) -> Limits:
        """On the tokens of a clip to be classified."""
        data = self.info.config.data
        return Limits(data.test_max_audio, data.test_max_video)

    @property
    def usual(self) -> Usual:
        """What clips must be like to be let through."""
        values = self.trained_on.values if self.trained_on else None
        return Usual((len(self.info.audio_shift), self.info.video_dim), self.seconds, values)

    def open(self, path: FilePath) -> ClipSource:
        """The clips of a folder or list of video files, made into features as those were that the
        model was trained on.

        Raises:
          UserError: as `extracted.extract_clips`.
        """
        from avdiff_jax.inference.extracted import extract_clips  # decoders are not always wanted

        return extract_clips(path, self.origin)

    def scores(
        self, audio: Sequence | ClipSource, video: Sequence = (), *,
        seconds: Seconds = clip_source.UNKNOWN, match_rate: bool = False,
        accept_values: bool = False,
    ) -> np.ndarray:
        """Scores [n, C] of clips, larger is better, before gamma is subtracted.

        Args:
          audio, video: n arrays each, [Ta, Da] and [Tv, Dv], as the training features were before
            any scaling; None where a clip lacks the modality. An array of [features] is a single
            token, an array of [tokens, features] in the place of a list a single clip. Or clips
            that `open` gave, alone.
          seconds: per token of audio and of video; None is taken to be the model's.
          match_rate: resample tokens of another rate.
          accept_values: take values that lie far from those of the training clips.

        Raises:
          UserError: arrays that do not fit the model, named by their position.
        """
        if isinstance(audio, ClipSource):
            return self.score_all(audio)
        return self.score_all(clip_source.of_arrays(
            audio, video, seconds=seconds, match_rate=match_rate, accept_values=accept_values
        ))

    def predict(
        self, audio: Sequence | ClipSource, video: Sequence = (), top: int = 1, **how
    ) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest classes of clips: names [n, top] and probabilities [n, top]; `how` is as
        for `scores`."""
        order, probability = self.best(self.scores(audio, video, **how), top)
        return np.array(self.info.classes)[order], probability

    def best(self, scores: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels [n, top] of the best classes by `scores` [n, C], and their probabilities."""
        orders, probabilities = [], []
        for part in metrics.blocks(scores):
            calibrated = metrics.calibrated(part, self.info.is_base, self.gamma)
            orders.append(np.argsort(-calibrated, axis=1, kind="stable")[:, :top])
            p = self.probabilities(part)
            probabilities.append(np.take_along_axis(p, orders[-1], axis=1))
        return np.concatenate(orders), np.concatenate(probabilities)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """[n, C]; see `compute_probabilities`."""
        return compute_probabilities(scores, self.info.is_base, self.gamma, self.temperature)

    def scored(self, source: ClipSource) -> Iterator[tuple[list[str], np.ndarray]]:
        """Scores the clips of a source: yields clip ids and scores [n, C], piece by piece, in
        order.

        Raises:
          UserError: as `scores`, and where a score is not finite.
        """
        for ids, scores in self._mapped(source, self._compiled_scores, self.limits):
            bad = ~np.isfinite(scores).all(1)
            if bad.any():
                raise UserError(
                    f"the scores of clip {ids[int(bad.argmax())]!r} are not finite: check its "
                    "features for extreme values"
                )
            yield ids, scores

    def score_all(
        self, source: ClipSource, tell: Callable[[int], None] = lambda clips: None
    ) -> np.ndarray:
        """Scores [n, C] of the clips of a source; raises UserError as `scored` does.

        Args:
          tell: called with the number of clips of each piece that is scored.
        """
        parts = []
        for ids, scores in self.scored(source):
            parts.append(scores)
            tell(len(ids))
        return np.concatenate([np.zeros((0, len(self.info.classes)), np.float32), *parts])

    def find_unseen(self, source: ClipSource, rows: np.ndarray) -> np.ndarray:
        """Where in `rows` of a source the clips are that the model may be measured on, see
        `training_set.find_unseen`."""
        if any(choose_rates(source, self.usual)):
            note(f"tokens of {source.place} are of another rate, so clips that the model was "
                 "trained on cannot be told by what they hold, only by their group")
        trained_ids = self.examples.clips if self.examples else np.zeros(0, str)
        return training_set.find_unseen(self.trained_on, trained_ids, source, rows)

    def features(self, source: ClipSource) -> np.ndarray:
        """`Method.features` [n, ...] of clips, cut as in training."""
        parts = self._mapped(source, self._compiled_features, Limits(*self.lengths))
        return np.concatenate([features for _, features in parts])

    def pieces(self, source: ClipSource) -> Iterator[stream.Piece]:
        """The clips of a source in pieces, as far as the model lets them through."""
        clips = admit(source, self.usual)
        return stream.pieces(clips, self.seconds, self.info.config.eval.batch)

    def _mapped(self, source: ClipSource, function: Callable, limits: Limits):
        """(clip ids, rows [n, ...] of `function`) for each piece; the next one is dispatched
        before the rows of one are fetched."""
        waiting = None
        for piece in self.pieces(source):
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

    def save(self, path: FilePath) -> None:
        """Writes the file, whole or not at all.

        Raises:
          UserError: it cannot be written.
        """
        header = {
            "config": self.info.config.to_dict(), "classes": self.info.classes,
            "kinds": self.kinds, "gamma": self.gamma, "temperature": self.temperature,
            "video_dim": self.info.video_dim,
            "seconds": self.seconds, "lengths": self.lengths, "epochs": self.epochs,
            "cuts": self.cuts, "origin": self.origin and self.origin._asdict(),
        }
        arrays = {
            "text": self.info.text, "audio_shift": self.info.audio_shift,
            "audio_scale": self.info.audio_scale, **contents.flat(self.vars),
        }
        if self.trained_on is not None:
            header["trained_on"], more = contents.pack_training_set(self.trained_on)
            arrays |= more
        if self.examples is not None:
            for name, array in self.examples._asdict().items():
                arrays[f"examples/{name}"] = array
        contents.write(path, header, arrays)


def _fetched(ids: list[str], parts: list) -> tuple[list[str], np.ndarray]:
    first = jax.device_get(parts[0][1])
    out = np.zeros((len(ids), *first.shape[1:]), first.dtype)
    for rows, values in parts:
        out[rows[rows >= 0]] = jax.device_get(values)[rows >= 0]
    return ids, out


def model_file(workdir: FilePath, draw: int) -> pathlib.Path:
    """Where a run writes the model of a draw."""
    return pathlib.Path(workdir) / f"model-draw{draw}.npz"


def load(path: FilePath, draw: int = 0) -> Trained:
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
        folder, path = path, model_file(path, draw)
        inside = sorted(str(file.parent) for file in folder.glob(f"*/{path.name}"))
        draws = sum(1 for _ in folder.glob("model-draw*.npz"))
        if not path.exists() and draws:
            raise UserError(f"--draw={draw}: {folder} has the models of {draws} draws; name one of "
                            f"0 to {draws - 1}")
        if not path.exists() and inside:
            raise UserError(
                f"{folder} has a model for each of its runs: name one of {', '.join(inside)}"
            )
        if not path.exists():
            raise UserError(
                f"{path} does not exist: name the workdir of a run that has finished, or write "
                f"the models of an older one by `{command('main')} --run=evaluate`"
            )
    files = NpzFiles([path], "name the workdir of a finished run or the model file of one")
    header = contents.read_header(path, files)
    info, lengths = contents.read_info(path, files, header), Lengths(*header["lengths"])
    examples = None
    if "examples/features" in files:
        examples = Examples(*(files.array(f"examples/{n}", "--model") for n in Examples._fields))
    return Trained(
        info=info, kinds=tuple(header["kinds"]),
        vars=contents.fit_variables(
            path, info, lengths, contents.read_arrays(files, *contents.PARTS)
        ),
        gamma=header["gamma"], temperature=header["temperature"],
        seconds=(header["seconds"][0], header["seconds"][1]), lengths=lengths,
        epochs=header["epochs"], cuts=tuple(header["cuts"]),
        trained_on=contents.unpack_training_set(path, header, files),
        origin=contents.read_origin(header), examples=examples,
    )
