"""Runs the protocol: python launch/main.py --config=configs/vggsound.py:5shot

    --config.x.y=v changes field x.y of the configuration; configs/common.py has every field.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import shlex
from argparse import BooleanOptionalAction

from absl import logging

from avdiff_jax import methods
from avdiff_jax.cli import configuration
from avdiff_jax.cli.choices import check_values
from avdiff_jax.cli.flags import Parser
from avdiff_jax.cli.home import command
from avdiff_jax.errors import one_sentence
from avdiff_jax.fitting import controls
from avdiff_jax.results import run_table
from avdiff_jax.runtime import devices, hosts, stop
from avdiff_jax.train import protocol


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_config()
    p.add_argument("--workdir", metavar="DIR",
                   help="where everything is written; default: runs/FILE-WORDS")
    p.add_argument("--run", choices=protocol.RUNS, default="all", help="parts of the protocol")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    p.add_argument("--controls", action=BooleanOptionalAction, default=True,
                   help="beside a run on one's own clips: linear and ncm, which take seconds")
    p.add_argument("--coordinator", metavar="HOST:PORT",
                   help="of process 0, where several machines share a run")
    p.add_argument("--processes", type=int, default=1, metavar="N", help="how many share it")
    p.add_argument("--process", type=int, default=0, metavar="N",
                   help="which of them this is, from 0")
    return p


def main(argv=None):
    """Runs what the flags say and prints the table."""
    with one_sentence():
        args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
        config = configuration.resolve(args.config, overrides)
        check_values(config)
        methods.check(config, configuration.resolve(args.config))
        logging.set_verbosity(logging.WARNING)  # Orbax tells of every step of every save
        devices.configure(config.device.deterministic)
        if args.processes > 1 or args.coordinator:
            hosts.start(args.coordinator or "", args.processes, args.process)
        workdir = pathlib.Path(args.workdir or f"runs/{default_name(args.config)}")
        print(f"workdir: {workdir}")
        finish_or_stop(config, workdir, args)


def default_name(config: str) -> str:
    """configs/ucf.py:5shot,method=mbt -> ucf-5shot-method=mbt."""
    path, _, words = config.partition(":")
    return "-".join(filter(None, [pathlib.Path(path).stem, *words.split(",")]))


def finish_or_stop(config, workdir: pathlib.Path, args):
    """Runs and says what came of it, or where a signal stopped it, how to go on."""
    try:
        outcome = protocol.run(config, workdir, args.run, args.resume)
        if outcome:
            print(f"\n{run_table.plain(outcome)}\nwritten to {workdir}/results.json")
        if outcome and args.controls and args.processes == 1 and controls.wanted(config):
            print(f"\nthe controls {' and '.join(controls.CONTROLS)} (--no-controls omits them):")
            print(f"\n{controls.compare_with_controls(config, workdir)}")
            print(f"written to {workdir / 'controls.md'} and {workdir / 'controls'}")
        if outcome:
            print(f"look at {workdir / 'plots' / 'overview.png'}")
            uses = {"predict": "classifies other clips"}
            if methods.method(config.method).grow:
                uses["add_class"] = "learns more classes"
            for name, what in uses.items():
                print(f"{command(name)} --model {shlex.quote(str(workdir))} {what}")
    except stop.Stopped as stopped:
        print(f"stopped by {stopped}: saved in {workdir}, go on with --resume", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    except KeyboardInterrupt:
        print(f"stopped at once: go on with the last save in {workdir} by --resume",
              file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
