"""From `--config=FILE.py:WORDS --config.field=value ...` to the configuration of a run."""

import difflib
import functools
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from avdiff_jax.cli.choices import fields
from avdiff_jax.cli.home import HOME
from avdiff_jax.cli.upgrade import upgrade
from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import WORDS, Document

TRUTH = {"true": True, "1": True, "false": False, "0": False}

# The config.json of a run.
RECORDED = Document("configuration", dict, "choose another --workdir, or remove that folder")


def read_recorded(path: str | os.PathLike) -> dict:
    """Reads the config.json of a run as today's code means it.

    Raises:
      UserError: the file is missing or damaged.
    """
    return upgrade(RECORDED.read(path))


def locate(name: str) -> str:
    """FILE.py:WORDS with a FILE.py that exists, in this folder or beside `launch/`.

    Raises:
      UserError: there is none.
    """
    file, colon, words = name.partition(":")
    path = Path(file) if Path(file).exists() else HOME / file
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"--config={file} names no file that ends in .py: try "
                        "--config=configs/synthetic.py:5shot")
    return f"{path}{colon}{words}"


def resolve(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration, locked, of a FILE.py:WORDS after `--config.field=value` overrides.

    Raises:
      UserError: no such file, an unknown word or field, or a value of the wrong type.
    """
    file, _, words = locate(name).partition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec and spec.loader  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    # `from configs import common` means ours, whatever else of that name is on the path.
    sys.path.insert(0, str(HOME))
    try:
        spec.loader.exec_module(module)
        config = module.get_config(words or None)
    except ValueError as error:
        raise UserError(str(error)) from None
    finally:
        sys.path.remove(str(HOME))
    for override in overrides:
        field, _, text = override.removeprefix("--config.").partition("=")
        set_field(config, field, text)
    return config.lock()


def set_field(config: ConfigDict, field: str, text: str) -> None:
    """Sets a field, named with dots, to what a text means in the type that the field has.

    Raises:
      UserError: there is no such field, or the text does not mean such a value.
    """
    known = dict(fields(config))
    if field not in known:
        near = difflib.get_close_matches(field, known, n=1)
        advice = f"did you mean {near[0]}?" if near else "configs/common.py has them all"
        raise UserError(f"unknown field --config.{field}={text}: {advice}")
    if field == "method":
        raise UserError(
            f"--config.method={text} comes too late for the sizes of a method: write method={text} "
            f"among the words, --config=FILE.py:method={text}"
        )
    *path, last = field.split(".")
    kind = type(known[field])
    try:
        value = TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UserError(f"--config.{field}={text} must be {WORDS[kind]}") from None
    functools.reduce(getattr, path, config)[last] = value


def flat(config: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested configuration -> {"model.dim": 300, ...}."""
    out = {}
    for name, value in config.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        out |= {f"{prefix}{name}": value} if inner is None else inner
    return out


def find_usual(config: Mapping, *words: str) -> dict:
    """Finds the configuration, nested, that the file of its data set gives for the same shots and
    method, and for `words`; `configs/own.py` where there is no such file."""
    file = HOME / "configs" / f"{config['dataset']}.py"
    file = file if file.is_file() else HOME / "configs" / "own.py"
    of_row = [f"{config['shots']}shot", f"method={config['method']}"]
    return resolve(f"{file}:{','.join([*of_row, *words])}").to_dict()


# Fields that files of earlier code lack, with the values that stand for what it did.
LATER = {"train.draws": "auto", "avdiff_plus.jitter": "0"}


def differences(ours: Mapping, theirs: Mapping) -> dict[str, tuple]:
    """Field -> its two values, for the fields in which two configurations differ."""
    a, b = LATER | flat(ours), LATER | flat(theirs)
    return {n: (a.get(n), b.get(n)) for n in sorted({*a, *b}) if a.get(n) != b.get(n)}
