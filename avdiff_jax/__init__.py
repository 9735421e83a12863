"""Audio-visual (generalised) few-shot learning with text-to-feature diffusion, in JAX.

    import avdiff_jax

    made = avdiff_jax.fit("clips/", out="runs/mine")      # video files, in folders of classes
    model = made.best                                     # or
    model = avdiff_jax.load("runs/own-5shot")             # a finished run, or a model file
    classes, probabilities = model.predict(audio, video)  # lists of [tokens, features] arrays
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avdiff_jax.fitting.fit import fit
    from avdiff_jax.inference.model import load

__version__ = "0.2.0"
__all__ = ["__version__", "fit", "load"]

# Where the public names come from. They are imported at their first use: jax takes a while.
_PUBLIC = {"fit": "avdiff_jax.fitting.fit", "load": "avdiff_jax.inference.model"}


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
