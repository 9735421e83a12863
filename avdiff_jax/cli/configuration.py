"""From `--config=FILE.py:WORDS --config.field=value ...` to the configuration of a run."""

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from avdiff_jax.cli.home import HOME
from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import Document

# The config.json of a run.
RECORDED = Document("configuration", dict, "choose another --workdir, or remove that folder")


def located(name: str) -> str:
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


@contextlib.contextmanager
def one_complaint(line: Sequence[str]):
    """Says in one sentence what is wrong with a command line that absl parses inside.

    Meanwhile `from configs import common`, which every configuration says, finds our folder,
    whatever else of that name is on the path.

    Raises:
      UserError: an unknown flag, word or field, or a value of the wrong type.
    """
    sys.path.insert(0, str(HOME))
    try:
        yield
    except (AttributeError, KeyError) as error:  # an override of a field that is not there
        field, better = re.findall(r"'(\w+)|mean \"(\w+)|$", str(error))[:2]
        word = next((w for w in line if field[0] in w.partition("=")[0].split(".")), field[0])
        advice = f"did you mean {better[1]}?" if better[1] else "configs/common.py has them all"
        raise UserError(f"unknown field {word}: {advice}") from None
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(re.sub(r"^\w*Error: ", "", str(error).splitlines()[-1])) from None
    finally:
        sys.path.remove(str(HOME))


def resolve(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration, locked, of a FILE.py:WORDS after `--config.field=value` overrides.

    Raises:
      UserError: no such file, an unknown word or field, or a value of the wrong type.
    """
    line = ["", f"--config={located(name)}", *overrides]
    values = flags.FlagValues()
    with one_complaint(line):
        config_flags.DEFINE_config_file(
            "config", flag_values=values, lock_config=True, sys_argv=line
        )
        values(line)
        return values.config


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the absl flags of a launch file, `--config` among them, for `app.run`.

    Raises:
      UserError: `--config` is missing, an unknown flag, word or field, or a wrong value.
    """
    if {"--help", "-help", "-h"} & {*argv[1:]}:
        print(f"{sys.modules['__main__'].__doc__}{flags.FLAGS.main_module_help()}")
        raise SystemExit(0)
    line = re.sub("(?m)^(--?config)\n", r"\1=", "\n".join(argv)).split("\n")
    line = [
        re.sub(r"^--?config=(.*)", lambda m: f"--config={located(m[1])}", word) for word in line
    ]
    if not any(word.startswith("--config=") for word in line):
        raise UserError("--config is missing: try --config=configs/synthetic.py:5shot")
    with one_complaint(line):
        rest = flags.FLAGS(line)
    if rest[1:]:
        raise UserError(f"stray argument {rest[1]!r}: flags look like --name=value")
    return rest


def flat(config: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested configuration -> {"model.dim": 300, ...}."""
    out = {}
    for name, value in config.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        out |= {f"{prefix}{name}": value} if inner is None else inner
    return out


def differences(ours: Mapping, theirs: Mapping) -> dict[str, tuple]:
    """Field -> its two values, for the fields in which two configurations differ."""
    a, b = flat(ours), flat(theirs)
    return {n: (a.get(n), b.get(n)) for n in sorted({*a, *b}) if a.get(n) != b.get(n)}
