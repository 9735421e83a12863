"""Runs the protocol: python launch/main.py --config=configs/vggsound.py:5shot

    --config.x.y=v changes field x.y of the configuration; see configs/common.py.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags, logging
from ml_collections import config_flags

from avdiff_jax import devices, hosts, results
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.fields import check_values
from avdiff_jax.train import protocol, stop

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py:WORDS", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "where everything is written; runs/FILE-WORDS")
_RUN = flags.DEFINE_enum("run", "all", protocol.RUNS, "which part of the protocol")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, for several hosts")
_PROCESSES = flags.DEFINE_integer("processes", 1, "how many processes share the run")
_PROCESS = flags.DEFINE_integer("process", 0, "number of this one, from 0")
_RESUME = flags.DEFINE_bool("resume", False, "go on with an interrupted run")


def located(name):
    """FILE.py:WORDS with a FILE.py that exists, here or in the checkout."""
    file, colon, words = name.partition(":")
    path = pathlib.Path(file) if pathlib.Path(file).exists() else ROOT / file
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"--config={name} names no file that ends in .py: try "
                        "--config=configs/synthetic.py:5shot")
    return f"{path}{colon}{words}"


def parsed(argv):
    """Parses the command line; a complaint is one sentence."""
    if {"--help", "-help", "-h"} & {*argv[1:]}:
        print(f"{__doc__}{flags.FLAGS.main_module_help()}")
        raise SystemExit(0)
    line = re.sub("(?m)^(--?config)\n", r"\1=", "\n".join(argv)).split("\n")
    line = [re.sub(r"^--?config=(.*)", lambda m: f"--config={located(m[1])}", x) for x in line]
    if not any(word.startswith("--config=") for word in line):
        raise UserError("--config is missing: try --config=configs/synthetic.py:5shot")
    try:
        rest = flags.FLAGS(line)
    except (AttributeError, KeyError) as error:  # an override of a field that is not there
        name, better = re.findall(r"'(\w+)|mean \"(\w+)|$", str(error))[:2]
        word = next((w for w in line if name[0] in w.partition("=")[0].split(".")), name[0])
        advice = f"did you mean {better[1]}?" if better[1] else "configs/common.py has them all"
        raise UserError(f"unknown field {word}: {advice}") from None
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(re.sub(r"^\w*Error: ", "", str(error).splitlines()[-1])) from None
    if rest[1:]:
        raise UserError(f"stray argument {rest[1]!r}: flags look like --name=value")
    return rest


def main(_):
    """Runs what the flags say and prints the table."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every step of every save
    config = _CONFIG.value
    check_values(config)
    devices.configure(config.device.deterministic, config.device.precision)
    if _PROCESSES.value > 1 or _COORDINATOR.value:
        hosts.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    path, _, words = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    default = "-".join(filter(None, [pathlib.Path(path).stem, *words.split(",")]))
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{default}")
    print(f"workdir: {workdir}")
    try:
        outcome = protocol.run(config, workdir, _RUN.value, _RESUME.value)
    except stop.Stopped as stopped:
        print(f"stopped by {stopped}: saved in {workdir}, go on with --resume", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    except KeyboardInterrupt:
        print(f"stopped at once: go on with the last save in {workdir} by --resume",
              file=sys.stderr)
        raise SystemExit(130) from None
    if outcome:
        print(f"\n{results.table(outcome)}\nwritten to {workdir}/results.json")


if __name__ == "__main__":
    with one_sentence():
        app.run(main, flags_parser=parsed)
