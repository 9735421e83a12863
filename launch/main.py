"""Runs the protocol: python launch/main.py --config=configs/vggsound.py:5shot

--config.x.y=v changes field x.y of the configuration; configs/common.py has every field.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags, logging

from avdiff_jax import configuration, devices, hosts, results
from avdiff_jax.command_line import Parser
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.fields import check_values
from avdiff_jax.train import protocol, stop


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_argument("--config", metavar="FILE.py:WORDS",
                   help="data set, and words such as 5shot,method=mbt; configs/ has the files")
    p.add_argument("--workdir", metavar="DIR",
                   help="where everything is written; default: runs/FILE-WORDS")
    p.add_argument("--run", choices=protocol.RUNS, default="all", help="parts of the protocol")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    p.add_argument("--coordinator", default="", metavar="HOST:PORT",
                   help="process 0, where several machines share a run")
    p.add_argument("--processes", type=int, default=1, metavar="N", help="how many share it")
    p.add_argument("--process", type=int, default=0, metavar="I", help="which of them this is")
    return p


def main(argv=None):
    """Runs what the flags say and prints the table."""
    args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
    if args.config is None:
        raise UserError("--config is missing: try --config=configs/synthetic.py:5shot")
    config = configuration.resolve(args.config, overrides)
    check_values(config)
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every step of every save
    flags.FLAGS.mark_as_parsed()  # and has absl flags of its own, of which the defaults are meant
    devices.configure(config.device.deterministic, config.device.precision)
    if args.processes > 1 or args.coordinator:
        hosts.start(args.coordinator, args.processes, args.process)
    path, _, words = args.config.partition(":")
    default = "-".join(filter(None, [pathlib.Path(path).stem, *words.split(",")]))
    workdir = pathlib.Path(args.workdir or f"runs/{default}")
    print(f"workdir: {workdir}")
    try:
        outcome = protocol.run(config, workdir, args.run, args.resume)
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
        main()
