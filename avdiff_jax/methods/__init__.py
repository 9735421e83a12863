"""METHODS: the table of all methods."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from avdiff_jax.cli.choices import DEPENDENCES, OF_FIELD, fields, find_usual_value
from avdiff_jax.errors import UserError
from avdiff_jax.methods import (
    attention_fusion,
    avca,
    avdiff,
    avdiff_plus,
    avgan,
    hip,
    linear,
    mbt,
    ncm,
    perceiver,
    protogan,
    sldg,
    tcaf,
    tsl,
    zorro,
)
from avdiff_jax.methods.method import Method

METHODS = {
    "avdiff": avdiff.METHOD,
    "avdiff_plus": avdiff_plus.METHOD,
    "avgan": avgan.METHOD,
    "attention_fusion": attention_fusion.METHOD,
    "perceiver": perceiver.METHOD,
    "mbt": mbt.METHOD,
    "tcaf": tcaf.METHOD,
    "protogan": protogan.METHOD,
    "sldg": sldg.METHOD,
    "tsl": tsl.METHOD,
    "hip": hip.METHOD,
    "zorro": zorro.METHOD,
    "avca": avca.METHOD,
    "ncm": ncm.METHOD,
    "linear": linear.METHOD,
}

# The fields that methods read, each its own; and so does a group of a method's name. All others are
# read by the rest of the package, whatever the method: data and its feed, the schedule, measuring.
OF_METHODS = (
    "generator", "model.", "diffusion.", "train.learning_rate", "train.weight_decay",
    "train.frozen_mode", "train.crops",
)


def method(name: str) -> Method:
    """The method called `name`.

    Raises:
      UserError: unknown name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method={name}; known: {', '.join(METHODS)}")
    return METHODS[name]


def reads(name: str, field: str) -> bool:
    """Tells whether a run of the method `name` reads the field, named with dots."""
    group = field.split(".")[0]
    if group in METHODS:
        return group == name
    if field == "eval.generated":  # of the report on what a generator makes
        return METHODS[name].generate is not None
    return not field.startswith(OF_METHODS) or field in METHODS[name].reads


def missing(field: str, values: Mapping[str, Any]) -> str | None:
    """Names the field whose value leaves `field` without meaning, if there is one.

    Args:
      field: named with dots.
      values: of all fields, by their names with dots.
    """
    for dependence in DEPENDENCES:
        other = dependence.other
        depends = field.startswith(dependence.fields) and field != other
        if depends and values[other] not in dependence.values:
            return other
    return None


def check(config: ConfigDict, usual: ConfigDict | None = None) -> None:
    """Refuses a field that would silently be ignored, by the method or because of another field,
    and choices at odds with each other.

    Args:
      config: locked or not.
      usual: the configuration before fields were changed; without it the choices of the paper's
        tables alone are compared, with their usual values.

    Raises:
      UserError: an unknown method; or names the field and what ignores it: the method, with those
        that read it, or the other field.
    """
    name, values = config.method, dict(fields(config))
    refuse = method(name).check
    wanted = {field: find_usual_value(field, name) for field in OF_FIELD if OF_FIELD[field].word}
    wanted |= dict(fields(usual)) if usual else {}
    for field, value in values.items():
        if value == wanted.get(field, value):
            continue
        if not reads(name, field):
            readers = [other for other in METHODS if reads(other, field)]
            raise UserError(
                f"{field}={value} means nothing to method={name}: leave it at {wanted[field]}, "
                f"or choose one of {', '.join(readers)}"
            )
        other = missing(field, values)
        if other:
            raise UserError(
                f"{field}={value} means nothing with {other}={values[other]}: leave it at "
                f"{wanted[field]}, or change {other}"
            )
    model = config.model
    switches = reads(name, "model.switch") and not missing("model.switch", values)
    if switches and model.switch > model.depth:
        raise UserError(
            f"--config.model.switch={model.switch} must be at most model.depth={model.depth}"
        )
    if refuse is not None:
        refuse(config)
