"""Runs the protocol: python launch/main.py --config=configs/vggsound.py:5shot"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags, logging
from ml_collections import config_flags

from avdiff_jax import devices, results
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.train import protocol, stop

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py:WORDS", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "where everything is written; runs/FILE-WORDS")
_RUN = flags.DEFINE_enum("run", "all", protocol.RUNS, "which part of the protocol")
_RESUME = flags.DEFINE_bool("resume", False, "go on with an interrupted run")


def main(argv):
    """Runs what the flags say and prints the table."""
    if argv[1:]:
        raise UserError(f"stray argument {argv[1]!r}: flags look like --name=value")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every step of every save
    config = _CONFIG.value
    devices.configure(config.device.deterministic)
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    path, _, words = name.partition(":")
    default = "-".join(filter(None, [pathlib.Path(path).stem, words.replace(",", "-")]))
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{default}")
    print(f"workdir: {workdir}")
    try:
        outcome = protocol.run(config, workdir, _RUN.value, _RESUME.value)
    except stop.Stopped as stopped:
        print(f"stopped by {stopped}: saved in {workdir}, go on with --resume", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    if outcome:
        print(f"\n{results.table(outcome)}\nwritten to {workdir}/results.json")


if __name__ == "__main__":
    with one_sentence():
        app.run(main)
