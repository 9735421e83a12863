"""METHODS: the table of all methods."""

from avdiff_jax.errors import UserError
from avdiff_jax.methods import (
    attention_fusion,
    avca,
    avdiff,
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

# Choices that only some methods have: field, its usual value, the methods that read it.
CHOICES = (
    ("generator", "diffusion", ("avdiff",)),
    ("diffusion.condition", "text", ("avdiff", "avgan")),
    ("model.attention", "hybrid", ("avdiff", "avgan")),
    ("model.modality", "both", ("avdiff", "avgan", "perceiver", "sldg", "ncm", "linear")),
)


def method(name: str) -> Method:
    """The method called `name`.

    Raises:
      UserError: unknown name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method={name}; known: {', '.join(METHODS)}")
    return METHODS[name]


def check(config) -> None:
    """Refuses a choice that the method would silently ignore.

    Raises:
      UserError: names the field, the method and the methods that have the choice.
    """
    for field, usual, readers in CHOICES:
        value = config
        for part in field.split("."):
            value = value[part]
        if value != usual and config.method not in readers:
            raise UserError(
                f"{field}={value} means nothing to method={config.method}: leave it at {usual}, "
                f"or choose one of {', '.join(readers)}"
            )
