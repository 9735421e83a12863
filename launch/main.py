"""Runs the protocol: python launch/main.py --config=configs/vggsound.py:5shot

    --config.x.y=v changes field x.y of the configuration; configs/common.py has every field.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags, logging
from ml_collections import config_flags

from avdiff_jax.cli import configuration
from avdiff_jax.cli.choices import check_values
from avdiff_jax.errors import one_sentence
from avdiff_jax.results import results_json
from avdiff_jax.runtime import devices, hosts, stop
from avdiff_jax.train import protocol

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py:WORDS", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "where everything is written; default: runs/FILE-WORDS")
_RUN = flags.DEFINE_enum("run", "all", protocol.RUNS, "parts of the protocol")
_RESUME = flags.DEFINE_bool("resume", False, "go on with an interrupted run")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, where several machines share a run")
_PROCESSES = flags.DEFINE_integer("processes", 1, "how many share it")
_PROCESS = flags.DEFINE_integer("process", 0, "which of them this is, from 0")


def main(_):
    """Runs what the flags say and prints the table."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every step of every save
    config = _CONFIG.value
    check_values(config)
    devices.configure(config.device.deterministic)
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
        print(f"\n{results_json.table(outcome)}\nwritten to {workdir}/results.json")


if __name__ == "__main__":
    with one_sentence():
        app.run(main, flags_parser=configuration.parse_flags)
