"""What the fields of a configuration may hold. Wrong names, types and words are refused by the
configuration itself; this is about values."""

import math

from avdiff_jax import diffusion
from avdiff_jax.errors import UserError
from avdiff_jax.nn import masks
from avdiff_jax.runtime.compiling import PRECISIONS

VALUES = {
    "generator": ("diffusion", "none", "gaussian"),
    "data.audio_scale": ("255", "standardize"),
    "data.residence": ("auto", "device", "host"),
    "model.modality": ("both", "audio", "video"),
    "model.attention": masks.PATTERNS,
    "model.video_norm": ("time", "feature", "none"),
    "model.bn_padding": ("masked", "batch"),
    "diffusion.schedule": diffusion.SCHEDULES,
    "diffusion.condition": ("text", "prototype"),
    "train.frozen_mode": ("train", "eval"),
    "train.draws": ("auto", "together", "apart"),
    "eval.calibration": ("grid", "exact"),
    "device.precision": tuple(PRECISIONS),
}
NOT_POSITIVE = (
    "seed", "model.switch", "diffusion.few_steps", "train.patience", "train.weight_decay",
)
BELOW_ONE = ("diffusion.dropout", "model.dropout_")


def check_values(config) -> None:
    """Every field has a value that means something.

    Raises:
      UserError: names the field, its value and what it may be.
    """

    def complain(name, value, wanted):
        raise UserError(f"--config.{name}={value} must be {wanted}")

    for name, value in fields(config):
        if name in VALUES:
            if value not in VALUES[name]:
                complain(name, value, "one of " + ", ".join(VALUES[name]))
        elif isinstance(value, bool | str):
            continue
        elif name.startswith(BELOW_ONE):
            if not 0 <= value < 1:
                complain(name, value, "at least 0 and below 1")
        elif not math.isfinite(value) or value < 0:
            complain(name, value, "a finite number, at least 0")
        elif not value and not name.startswith(("data.", *NOT_POSITIVE)):
            complain(name, value, "above 0")
    model = config.model
    if model.switch > model.depth:
        complain("model.switch", model.switch, f"at most model.depth={model.depth}")
    if config.diffusion.few_steps > config.diffusion.steps:
        most = f"at most diffusion.steps={config.diffusion.steps}"
        complain("diffusion.few_steps", config.diffusion.few_steps, most)
    if model.code % 2:
        complain("model.code", model.code, "even: it holds sines and cosines")
    if config.data.synthetic.classes and config.data.split and not config.data.store:
        complain("data.split", config.data.split, "empty for the made-up set, or with a data.store")


def fields(config, prefix: str = ""):
    """(dotted name, value) of every field."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
