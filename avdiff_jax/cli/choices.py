"""The choices of a configuration: one table. What fields may hold is checked here; which fields a
method reads, it says itself (`Method.reads`). Wrong names, types and words are refused by the
configuration."""

import math
import sys
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from avdiff_jax import diffusion
from avdiff_jax.errors import UserError
from avdiff_jax.nn import masks
from avdiff_jax.runtime.compiling import PRECISIONS

AUTO = "auto"
LARGEST = 2**32 - 1  # whole number: of seeds jax reads 32 bits


class Choice(NamedTuple):
    """A field that holds one of a few texts.

    word: its name in the words of a configuration, in variants and tables; empty where it has none.
    usual: the value of the paper's main table, where it has a word.
    table: of the paper, that varies it.
    on_val: what it holds where `AUTO` leaves it open and Val of stage 1 does not clearly speak for
      another value; empty where it cannot be left open.
    """

    field: str
    values: tuple[str, ...]
    word: str = ""
    usual: str = ""
    table: int | None = None
    on_val: str = ""


CHOICES = (
    Choice("model.attention", masks.PATTERNS, "attention", "hybrid", 3),
    Choice("model.modality", ("audio", "video", "both"), "modality", "both", 5),
    Choice("diffusion.condition", ("text", "prototype", "shuffled"), "condition", "text", 6),
    Choice(
        "generator", ("diffusion", "none", "gaussian", "transfer"), "generator", "diffusion", 4
    ),
    Choice("avdiff_plus.head", ("linear", "gaussian", AUTO), on_val="gaussian"),
    Choice("avdiff_plus.space", ("token", "raw", "both", AUTO), on_val="both"),
    Choice("avdiff_plus.jitter", ("0", "1", "2", AUTO), on_val="0"),
    Choice("avdiff_plus.predict", diffusion.PREDICTIONS),
    Choice("data.audio_scale", ("255", "standardize")),
    Choice("data.residence", ("auto", "device", "host")),
    Choice("model.video_norm", ("time", "feature", "none")),
    Choice("model.bn_padding", ("masked", "batch")),
    Choice("diffusion.schedule", diffusion.SCHEDULES),
    Choice("train.frozen_mode", ("train", "eval")),
    Choice("train.draws", ("auto", "together", "apart")),
    Choice("eval.calibration", ("grid", "exact")),
    Choice("device.precision", tuple(PRECISIONS)),
)


class Dependence(NamedTuple):
    """Fields, by the beginning of their names, that mean something only where another field holds
    one of some values."""

    fields: tuple[str, ...]
    other: str
    values: Container


DEPENDENCES = (
    Dependence(("model.attention", "model.switch"), "model.modality", ("both",)),
    Dependence(("model.switch",), "model.attention", ("hybrid",)),
    Dependence(("diffusion.",), "generator", ("diffusion",)),
    Dependence(("diffusion.final_noise",), "diffusion.few_steps", (0,)),
    Dependence(
        tuple(f"avdiff_plus.{name}" for name in (
            "predict", "residual", "shuffle_text", "learning_rate", "repeats", "ema",
            "drop_condition",
        )),
        "generator", ("diffusion",),
    ),
    Dependence(("avdiff_plus.jitter",), "avdiff_plus.head", ("linear", AUTO)),
    Dependence(("eval.generated",), "generator", ("diffusion", "gaussian", "transfer")),
    Dependence(("train.crops",), "train.frozen_mode", ("eval",)),
    Dependence(("train.patience",), "train.plateau", (True,)),
    Dependence(("data.synthetic.",), "data.synthetic.classes", range(1, sys.maxsize)),
)
# Of methods that are not the paper's: what is usual where it is not as in its main table.
USUAL = {("avdiff_plus", "generator"): "none"}
OF_FIELD = {choice.field: choice for choice in CHOICES}
OF_WORD = {choice.word: choice for choice in CHOICES if choice.word}
BELOW_ONE = ("dropout", "drop_", "ema")  # how a field's own name begins
NOT_POSITIVE = (
    "seed", "model.switch", "diffusion.few_steps", "train.patience", "train.weight_decay",
)


def find_usual_value(field: str, method: str) -> str:
    """The value that a choice with a word has unless another one is asked for."""
    return USUAL.get((method, field), OF_FIELD[field].usual)


def check_values(config: ConfigDict) -> None:
    """Checks that every field has a value that means something.

    Raises:
      UserError: names the field, its value and what it may be.
    """

    def complain(name, value, wanted):
        raise UserError(f"--config.{name}={value} must be {wanted}")

    for name, value in fields(config):
        if name in OF_FIELD:
            if value not in OF_FIELD[name].values:
                complain(name, value, "one of " + ", ".join(OF_FIELD[name].values))
        elif isinstance(value, bool | str):
            continue
        elif name.split(".")[-1].startswith(BELOW_ONE):
            if not 0 <= value < 1:
                complain(name, value, "at least 0 and below 1")
        elif not math.isfinite(value) or value < 0:
            complain(name, value, "a finite number, at least 0")
        elif isinstance(value, int) and value > LARGEST:
            complain(name, value, f"at most {LARGEST}")
        elif not value and not name.startswith(("data.", *NOT_POSITIVE)):
            complain(name, value, "above 0")
    model = config.model
    if config.diffusion.few_steps > config.diffusion.steps:
        most = f"at most diffusion.steps={config.diffusion.steps}"
        complain("diffusion.few_steps", config.diffusion.few_steps, most)
    if model.code % 2:
        complain("model.code", model.code, "even: it holds sines and cosines")
    if config.data.synthetic.classes and config.data.split and not config.data.store:
        complain("data.split", config.data.split, "empty for the made-up set, or with a data.store")


def fields(config: Mapping | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Iterates over (dotted name, value) of every field."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
