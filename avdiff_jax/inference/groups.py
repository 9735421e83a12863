"""Scores of clips from a speaker, session or scene that the model has never seen.

What the clips of such a group have in common moves their features alike, and a head takes it for
evidence of some class. So the mean score of a group is brought to that of the training clips. For a
head that is linear in the features, as the Gaussian one is, this is the same as to bring the
group's mean feature to that of the training clips. It reads other clips of the group, though not
their classes, and is named transductive wherever its numbers are told.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.errors import UserError, note
from avdiff_jax.inference.model import Trained
from avdiff_jax.runtime.compiling import compile_function

DOUBT = 8  # other clips of a group that are trusted half


def score_centered(
    model: Trained, source: ClipSource, tell: Callable[[int], None] = lambda clips: None
) -> np.ndarray:
    """Scores [n, C] of the clips of a source, as `Trained.score_all`, each group's moved together.

    The scores s of a group of n clips become s + (n - 1) / (n + 7) (t - m), with m the mean of its
    scores and t that of the model's training clips, [C] each: of few clips the mean says little,
    and a clip alone stays as it is.

    Args:
      source: clips with groups; where nothing is known of these, all are taken to be one.
      tell: as `score_all` takes it.

    Raises:
      UserError: as `score_all`, and where the model keeps no training clips.
    """
    wanted = score_examples(model).mean(0)
    groups = source.groups
    if groups is None:
        note(f"{source.place} has no groups: all of its clips are taken to be one")
        groups = np.full(len(source), "all")
    scores = model.score_all(source, tell)
    for group in {*groups.tolist()} - {""}:  # a clip of "" is a group of its own
        mine = groups == group
        others = mine.sum() - 1
        scores[mine] += others / (others + DOUBT) * (wanted - scores[mine].mean(0))
    return scores


def score_examples(model: Trained) -> np.ndarray:
    """Scores [n, C] of the training clips that a model keeps.

    Raises:
      UserError: it keeps none.
    """
    if model.examples is None:
        raise UserError(
            "--center-groups needs the training clips, and this model keeps none: use the "
            "model-draw*.npz that a run of avdiff, avdiff_plus or avgan wrote"
        )
    judge = compile_function(
        functools.partial(model.method.scores, model.info), model.info.config.device.precision
    )
    return np.asarray(judge(model.vars, jnp.asarray(model.examples.features)))
