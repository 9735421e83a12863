"""What a test process has traced and compiled once it uses again.

A whole run makes a dozen large programs, which takes most of its time, and most tests train the
same tiny model. Two functions of the same code that have captured equal values are one program.
"""

import contextlib
import dataclasses
import functools
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.monitoring
import numpy as np
import pytest
from ml_collections import ConfigDict

from avdiff_jax.cli import choices
from avdiff_jax.data.feed import Feed
from avdiff_jax.inference.model import Trained
from avdiff_jax.runtime.compiling import compile_function as compile_anew

# What no program reads of a configuration: it comes as an argument, as a shape or as another
# captured value. Configurations that differ in these alone share their programs.
UNREAD = (
    "data.", "eval.", "seed", "shots", "train.batch", "train.batches", "train.crops",
    "train.draws", "train.epochs1", "train.epochs2", "train.patience", "train.plateau",
    "train.reset_optimizer", "train.steps_per_dispatch",
)


MADE: dict[tuple, Callable] = {}  # by fingerprint


class Recorded:
    """A configuration that notes the dotted names of the fields that code reads."""

    def __init__(self, config, read, prefix=""):
        self.__dict__.update(_config=config, _read=read, _prefix=prefix)

    def __getattr__(self, name):
        value = getattr(self._config, name)
        if callable(value):
            return value
        if hasattr(value, "to_dict"):
            return Recorded(value, self._read, f"{self._prefix}{name}.")
        self._read.add(f"{self._prefix}{name}")
        return value

    def __getitem__(self, name):
        return getattr(self, name)


def fingerprint(value: Any) -> Any:
    """A hashable value, equal for two that a program cannot tell apart."""
    match value:
        case types.FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            captured = [*cells, value.__defaults__, value.__kwdefaults__]
            return value.__code__, fingerprint(captured)
        case types.MethodType():
            return value.__func__.__code__, fingerprint(value.__self__)
        case functools.partial():
            return fingerprint((value.func, value.args, value.keywords))
        case ConfigDict():
            fields = choices.fields(value)
            return tuple((k, fingerprint(v)) for k, v in fields if not k.startswith(UNREAD))
        case Recorded():
            return fingerprint(value._config)
        case Feed():  # `batch` reads no more of it
            return Feed, value.seconds
        case Trained():  # `features_of`, `scores_of`
            return Trained, fingerprint((value.method, value.info))
        case np.ndarray() | jax.Array():
            return value.shape, str(value.dtype), np.asarray(value).tobytes()
        case dict():
            return tuple((k, fingerprint(v)) for k, v in sorted(value.items()))
        case list() | tuple():
            return tuple(map(fingerprint, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), fingerprint(vars(value))
    hash(value)
    return value


@contextlib.contextmanager
def count_compilations(found: Counter[str]) -> Iterator[None]:
    """Counts the programs that are compiled or read from the cache, by the name of the function."""

    def heard(event, _, fun_name=None, **__):
        if event.endswith("backend_compile_duration"):
            found[fun_name.removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


@contextlib.contextmanager
def share(made: dict[tuple, Callable] | None = MADE, anew: bool = False) -> Iterator[None]:
    """The package uses again the programs that it has made inside of this.

    Args:
      made: the programs so far, those of the process unless given; None shares nothing.
      anew: every program is made here, for those who come later.
    """

    def shared(function: Callable, *args, **options) -> Callable:
        if made is None:
            return compile_anew(function, *args, **options)
        key = fingerprint((function, args, options))
        if anew or key not in made:
            made[key] = compile_anew(function, *args, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        for name, module in [*sys.modules.items()]:
            if name.startswith("avdiff_jax.") and hasattr(module, "compile_function"):
                patch.setattr(module, "compile_function", shared)
        yield
