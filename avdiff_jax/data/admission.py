"""The gate through which clips reach a trained model: of its rates, its dimensions, its scale."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from avdiff_jax.data.clip_source import ClipSource, Features
from avdiff_jax.data.rates import agree, check_seconds, resample
from avdiff_jax.data.store import MODALITIES, VALUE_TYPES
from avdiff_jax.data.values import Tally, Values
from avdiff_jax.errors import UserError, note

LOOK = 64  # clips after which their values are held against those of training, and again


class Usual(NamedTuple):
    """What the training clips of a model were like: features of a token, seconds per token, and
    how the values lie, of audio and of video each. Files of earlier versions do not tell the
    last."""

    dims: tuple[int, int]
    seconds: tuple[float, float]
    values: tuple[Values, Values] | None


class Admitted(NamedTuple):
    """A clip as a model takes it: [Ta, Da] and [Tv, Dv], of length 0 where it lacks a modality."""

    clip_id: str
    audio: np.ndarray
    video: np.ndarray


def admit(source: ClipSource, usual: Usual) -> Iterator[Admitted]:
    """Lets the clips of a source through to a model, of a type that a store may have and at the
    model's rates.

    Says what it changed and what looks odd (`errors.note`).

    Raises:
      UserError: tokens of another rate, unless the source says that they are to be matched; a
        clip of another dimension, without tokens, or with NaN or infinity; values far from those
        of training, unless the source says that they are accepted.
    """
    return _admitted(source, usual, choose_rates(source, usual))


def choose_rates(source: ClipSource, usual: Usual) -> list[float | None]:
    """The seconds per token from which each modality is resampled; None where it stays.

    Raises:
      UserError: tokens of another rate, unless the source says that they are to be matched.
    """
    check_seconds(source.seconds, source.place)
    rates: list[float | None] = []
    for modality, given, wanted in zip(MODALITIES, source.seconds, usual.seconds, strict=True):
        if given is None or agree(given, wanted):
            rates.append(None)
            continue
        if not source.match_rate:
            raise UserError(
                f"{source.place} has {given:g} s per {modality} token where the model was trained "
                f"on {wanted:g} s: extract features at that rate, or have these resampled with "
                "--match-rate (in Python match_rate=True)"
            )
        note(f"{source.place}: {modality} tokens of {given:g} s are resampled to the model's "
             f"{wanted:g} s")
        rates.append(given)
    return rates


def _admitted(
    source: ClipSource, usual: Usual, rates: list[float | None]
) -> Iterator[Admitted]:
    usual_values = None if source.is_alike else usual.values
    tallies = [Tally(values) for values in usual_values or (None, None)]
    count = 0
    for count, clip in enumerate(source, 1):
        parts = []
        for i, modality in enumerate(MODALITIES):
            values = _check_tokens(clip, modality, getattr(clip, modality), usual.dims[i])
            rate = rates[i]
            if rate is not None:
                values = resample(values, rate, usual.seconds[i])
            if usual_values is not None:
                tallies[i].add(values)
            parts.append(values)
        if not any(map(len, parts)):
            raise UserError(f"clip {clip.clip_id!r} has neither audio nor video: leave it out")
        if count % LOOK == 0:
            _refuse_gross(source, tallies)
        yield Admitted(clip.clip_id, *parts)
    _refuse_gross(source, tallies)
    for modality, tally in zip(MODALITIES, tallies, strict=True):
        if tally.usual and tally.is_notable():
            note(f"{source.place} has {modality} values of {tally.values()} where the model was "
                 f"trained on {tally.usual}, and {tally.outside / tally.count:.1%} of them lie "
                 "beyond: check that the extractor is the same")


def _refuse_gross(source: ClipSource, tallies: list[Tally]) -> None:
    if source.accept_values:
        return
    for modality, tally in zip(MODALITIES, tallies, strict=True):
        if tally.is_gross():
            raise UserError(
                f"{source.place} has {modality} values of {tally.values()} where the model was "
                f"trained on {tally.usual}: use the extractor and the scale of its training data, "
                "or accept them with --accept-values (in Python accept_values=True)"
            )


def _check_tokens(clip: Features, modality: str, values: Any, dim: int) -> np.ndarray:
    """One modality of a clip as [T, D] of a type that a store may have."""
    if values is None:
        return np.zeros((0, dim), np.float32)
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != dim or values.dtype.kind not in "biuf":
        raise UserError(
            f"clip {clip.clip_id!r} has {modality} features of shape {values.shape}, type "
            f"{values.dtype}, but the model was trained on [tokens, {dim}] numbers: use the "
            "extractor of its training data"
        )
    if values.dtype.name not in VALUE_TYPES[modality]:
        with np.errstate(over="ignore"):  # infinity is refused below
            values = values.astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(
            f"clip {clip.clip_id!r} has NaN or infinite {modality} features: mend or leave it out"
        )
    return values
