"""New classes for a trained model, from a few clips of each: substage 2 once more, on the fused
tokens of the old clips, which the model keeps, and those of the new ones."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.data import stream
from avdiff_jax.data.clip_source import ClipSource, of_arrays
from avdiff_jax.data.feed import Batch
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.training_set import extend
from avdiff_jax.data.windows import ROLES, Limits
from avdiff_jax.errors import UserError
from avdiff_jax.inference.contents import ADDED
from avdiff_jax.inference.model import Examples, Trained
from avdiff_jax.methods.method import Info, Vars
from avdiff_jax.metrics import calibrated, mean_class_accuracy
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.progress import Progress
from avdiff_jax.train.feature_cache import cache_examples
from avdiff_jax.train.optimisers import CUT, TrainState, copy_tree, cut_rate, fresh_optimisers
from avdiff_jax.train.step import compile_training

STRENGTH = 0.1  # of the ridge in `derive_text`, against a similarity of 1 of a class with itself


def add_classes(
    model: Trained,
    audio: Sequence,
    video: Sequence,
    names: Sequence[str],
    text: Mapping[str, np.ndarray] | None = None,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    **how,
) -> Trained:
    """Returns a model that knows more classes, of which clips are given as arrays.

    Args:
      audio, video: n arrays each, as for `Trained.scores`; `how` is as there.
      ids: of the clips; default: class and number.
      model, names, text, seed: as for `learn_classes`.

    Raises:
      UserError: a model or arrays that this cannot be done with.
    """
    if len(names) != len(audio):
        raise UserError(f"{len(names)} class names for {len(audio)} clips: give one a clip")
    if ids is None:
        ids = [f"{name}/{i}" for i, name in enumerate(names)]
    return learn_classes(model, of_arrays(audio, video, ids, **how), names, text, seed)


def learn_classes(
    model: Trained,
    source: ClipSource,
    names: Sequence[str] | np.ndarray,
    text: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Trained:
    """Returns a model that knows more classes.

    Base updates see the base classes, novel ones all others, so classes that were added earlier
    are learnt on: added in two steps or at once, the last step is the same but for where it starts.

    Args:
      model: with its examples; stays as it is.
      source: the clips to learn from.
      names: the class of each clip; none is known to the model.
      text: vectors [Dt] by class; a class without one is conditioned by `derive_text`.

    Raises:
      UserError: a model or clips that this cannot be done with.
    """
    check_request(model, names, text)
    new = sorted(set(map(str, names)))
    labels = np.array([len(model.info.classes) + new.index(name) for name in names], np.int32)
    old, features, grow = model.examples, model.features(source), model.method.grow
    assert old is not None and grow is not None  # `check_request` has looked
    examples = Examples(
        np.concatenate([old.features, features]), np.concatenate([old.labels, labels]),
        np.concatenate([old.clips, np.array(source.clip_ids, str)]),
    )
    info = extend_info(model.info, new, examples, text or {})
    key = jax.random.fold_in(jax.random.key(info.config.seed), seed)
    k_grow, k_train = jax.random.split(key)
    grown = dataclasses.replace(
        model, info=info, kinds=model.kinds + (ADDED,) * len(new), examples=examples,
        trained_on=model.trained_on and extend(model.trained_on, source),
        vars=grow(info, model.vars, lambda: iterate_batches(model, source, labels), k_grow),
    )
    if model.method.solve:
        solved = model.method.solve(info, grown.vars, examples.features, examples.labels)
        grown = dataclasses.replace(grown, vars=solved)
    if not model.method.players(info, 2):
        return grown
    return dataclasses.replace(grown, vars=train_on_examples(grown, k_train, seed))


def iterate_batches(
    model: Trained, source: ClipSource, labels: np.ndarray
) -> Iterator[Batch]:
    """Yields labelled clips as evaluation batches, cut as in training."""
    first, most = 0, model.info.config.eval.batch
    for piece in model.pieces(source):
        of_piece = labels[first : first + len(piece.clip_ids)]
        first += len(piece.clip_ids)
        for _, batch in stream.batches(piece, of_piece, Limits(*model.lengths), most):
            yield batch


def check_request(
    model: Trained, names: Sequence[str] | np.ndarray, text: Mapping[str, np.ndarray] | None
) -> None:
    """Checks that the model can learn these classes. Raises UserError where it cannot."""
    method = model.info.config.method
    if not model.method.grow:
        raise UserError(
            f"method={method} cannot learn more classes from what its model keeps: train a method "
            "such as avdiff, or run the protocol again with the new classes in the split"
        )
    if model.examples is None:
        raise UserError(
            "this model file holds parameters alone: use the model-draw*.npz that the run wrote, "
            "which keeps the fused tokens of the training clips"
        )
    if not len(names):
        raise UserError("there is no clip of a new class: give some")
    if known := sorted({*names} & {*model.info.classes}):
        raise UserError(
            f"the model knows {known[0]!r} already ({len(known)} such): leave it out or rename it"
        )
    width = model.info.text.shape[1]
    for name, vector in (text or {}).items():
        if name in names and width and np.shape(vector) != (width,):
            raise UserError(
                f"the text vector of {name!r} has shape {np.shape(vector)} but the model's have "
                f"{width} dimensions: make it as theirs were made"
            )


def extend_info(
    info: Info, new: list[str], examples: Examples, text: Mapping[str, np.ndarray]
) -> Info:
    """Puts the new classes behind the old ones of `info`; none of them is base."""
    if not info.text.shape[1]:  # the model was trained without text and reads none
        text = {}
    if missing := [name for name in new if name not in text]:
        derived = derive_text(info, new, missing, examples)
        text = {**text, **dict(zip(missing, derived, strict=True))}
    vectors = np.stack([text[name] for name in new]).astype(info.text.dtype)
    return info._replace(
        classes=info.classes + tuple(new), text=np.concatenate([info.text, vectors]),
        is_base=np.append(info.is_base, np.zeros(len(new), bool)),
    )


def derive_text(info: Info, new: list[str], missing: list[str], examples: Examples) -> np.ndarray:
    """Derives text vectors [m, Dt] for classes that have none, so that prototypes condition the
    generator.

    The generator only knows the text vectors of old classes, so a new one's prototype, its mean
    token, is written as a combination of the old prototypes (ridge regression), and its vector is
    the same combination of theirs, at their mean length.
    """
    flat = examples.features.reshape(len(examples.features), -1)
    means = np.stack([flat[examples.labels == c].mean(0)
                      for c in range(len(info.classes) + len(new))])
    means = means - means[: len(info.classes)].mean(0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    old, wanted = means[: len(info.classes)], means[[len(info.classes) + new.index(n)
                                                     for n in missing]]
    shares = np.linalg.solve(old @ old.T + STRENGTH * np.eye(len(old)), old @ wanted.T).T
    vectors = shares @ info.text
    length = np.linalg.norm(info.text, axis=1).mean()
    return vectors * length / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def train_on_examples(model: Trained, key: jax.Array, seed: int) -> Vars:
    """Trains substage 2 on the examples, as long as the run's own; returns the variables."""
    config, examples = model.info.config.train, model.examples
    assert examples is not None
    is_base = model.info.is_base[examples.labels]
    members = [Members(rows, examples.labels[rows])
               for rows in (np.flatnonzero(is_base), np.flatnonzero(~is_base))]
    source = cache_examples(examples.features, devices.mesh())
    run = compile_training(model.method, model.info, 2, source, model.lengths)
    variables = copy_tree(model.vars)
    opt = fresh_optimisers(model.method, model.info, 2, variables)
    state = TrainState(vars=variables, opt=opt, updates=jnp.zeros((), jnp.int32))
    with Progress(model.epochs * config.batches, "new classes") as progress:
        for epoch in range(1, model.epochs + 1):
            # Plans go to all devices as they are: the batch need not divide by their number.
            plans = {}
            for i, role in enumerate(ROLES):
                place = [model.info.config.seed, seed, epoch, i]
                plans[role] = source.plan(
                    members[i], model.lengths, config.batch, config.batches, place
                )
            state, metrics = run(state, source.data, plans, key)
            losses = np.stack([metrics[f"{role}/main/loss"] for role in ROLES])
            if not np.isfinite(losses).all():
                raise UserError(
                    f"the loss is not finite in epoch {epoch} of the new classes: check their "
                    "features for extreme values"
                )
            if epoch in model.cuts:
                state = cut_rate(state, CUT)
            progress.step(config.batches, f"loss {losses.mean():.3f}")
    return jax.tree.map(jnp.asarray, jax.device_get(state.vars))


def compare_models(before: Trained, after: Trained, source: ClipSource) -> str:
    """Makes a table of accuracies on held-out clips, in percent, before and after classes were
    added.

    Args:
      after: knows the classes of `before` and more.
      source: labelled clips of classes that `after` knows.
    """
    labels = np.array([after.info.classes.index(str(name)) for name in source.names()], int)
    known = len(before.info.classes)
    new = np.arange(len(after.info.classes)) >= known
    base = after.info.is_base
    groups = {
        "B: base classes, against all": (base, np.ones_like(base)),
        "N: old few-shot classes, against all": (~base & ~new, np.ones_like(base)),
        "new classes, against all": (new, np.ones_like(base)),
        "new classes, against all few-shot ones": (new, ~base),
        "new classes, against each other": (new, new),
    }
    old = np.flatnonzero(labels < known)
    scores = {before: before.score_all(source.select(old)), after: after.score_all(source)}

    def accuracy(model, members, rivals):
        if model is before and (members & new).any():
            return None
        rows = labels if model is after else labels[old]
        count = len(model.info.classes)
        mine = np.flatnonzero(members[rows])
        rivals, members = rivals[:count], members[:count]
        shifted = calibrated(scores[model], model.info.is_base, model.gamma)[mine]
        predicted = np.where(rivals[None], shifted, -np.inf).argmax(1)
        return mean_class_accuracy(predicted, rows[mine], count, members)

    head = ("held-out clips, accuracy in percent", "clips", "before", "after")
    lines = ["{:40s} {:>6s} {:>7s} {:>7s}".format(*head)]
    for title, (members, rivals) in groups.items():
        clips = int(members[labels].sum())
        if clips:
            cells = (accuracy(model, members, rivals) for model in (before, after))
            shown = " ".join(f"{'' if cell is None else f'{cell:.1f}':>7s}" for cell in cells)
            lines.append(f"{title:40s} {clips:6d} {shown}")
    return "\n".join(lines)
