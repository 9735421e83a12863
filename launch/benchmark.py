"""Many methods x shots x data sets x class splits x seeds -> one table beside the paper's.

    python launch/benchmark.py --config=configs/ucf.py --methods=all --shots=1,5 --root=runs/bench
    python launch/benchmark.py --config=configs/own.py --config.data.store=data/mine.h5 \
        --methods=avdiff,avdiff,generator=none,linear --splits=10 --jobs=2 --root=runs/bench
    python launch/benchmark.py tables runs/bench
    python launch/benchmark.py compare avdiff avdiff,generator=none --root=runs/bench

The first two run what is missing, go on with what was interrupted and skip what is done; the same
command again goes on after a stop. `--config.x.y=v` goes to every run. The others look at finished
runs; `python launch/benchmark.py tables --help` lists the flags of one.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import os
import signal

from avdiff_jax.cli import configuration
from avdiff_jax.cli.flags import Parser, check_outputs
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.io.documents import plain
from avdiff_jax.results import benchmark, jobs, paired, runs, tables
from avdiff_jax.results.benchmark import ClassSplits
from avdiff_jax.results.ensemble import average_seeds


def parser() -> Parser:
    """The flags of all three commands."""
    p = Parser(__doc__)
    names, numbers = (lambda text: text.split(",")), (lambda text: [*map(int, text.split(","))])
    numbers.__name__ = "list of whole numbers"  # argparse names it in its complaint
    usual = ClassSplits(1)
    p.set_defaults(command=run)
    p.add_argument("--config", action="append", metavar="FILE.py", help="a data set; may repeat")
    p.add_argument("--methods", type=names, default=["all"], metavar="A,B",
                   help="names, name=value behind one is its setting, such as "
                        "avdiff,generator=none; all = every method and the controls")
    p.add_argument("--shots", type=numbers, default=[5], metavar="K,L", help="such as 1,5,10,20")
    p.add_argument("--seeds", type=numbers, default=[42], metavar="S,T", help="one run for each")
    p.add_argument("--splits", type=positive, metavar="N",
                   help="N class splits of the store, each with draws of its own, made by the "
                        "splitter from the seeds 0 to N - 1; default: the configuration's split")
    for kind in ("base", "novel1", "novel2"):
        p.add_argument(f"--{kind}", type=count_or_share, metavar="N|0.N",
                       help=f"{kind} classes of such a split: count or fraction; "
                            f"default: {getattr(usual, kind)}")
    p.add_argument("--jobs", type=positive, default=1, metavar="N",
                   help="runs side by side, each on its share of the cores")
    p.add_argument("--variants", type=names, default=[], metavar="NAME=VALUE,...",
                   help="more rows, such as attention=full,modality=audio,diffusion.steps=50")
    p.add_argument("--root", default="runs/benchmark", metavar="DIR", help="folder of the runs")
    p.add_argument("--out", metavar="DIR", help="folder of the table; default: the root")
    p.add_argument("--dry-run", action="store_true", help="only list what would be run")
    commands = p.add_subparsers(metavar="[COMMAND]", title="of finished runs")

    def command(name, made_by):
        subparser = commands.add_parser(name, help=made_by.__doc__, description=made_by.__doc__)
        subparser.set_defaults(command=made_by)
        return subparser

    t = command("tables", remake)
    t.add_argument("folders", nargs="+", metavar="DIR", help="workdirs, or folders of them")
    t.add_output("DIR", "folder of the tables; default: the first DIR", required=False)
    c = command("compare", compare)
    for side in "ab":
        c.add_argument(side, metavar=side.upper(),
                       help="a row such as avdiff,generator=none, a workdir or a folder of them")
    c.add_argument("--root", default="runs/benchmark", metavar="DIR",
                   help="folder of the runs that rows are taken from")
    c.add_argument("--dataset", metavar="NAME", help="one of several data sets, as tables call it")
    c.add_argument("--average", choices=("A", "B", "both"),
                   help="whose seeds count as one, with the mean of their scores of each clip")
    return p


def positive(text: str) -> int:
    """A whole number, at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def count_or_share(text: str) -> int | float:
    """"14" -> 14, "0.5" -> 0.5."""
    return float(text) if "." in text else int(text)


positive.__name__ = "whole number above 0"  # argparse names them in its complaints
count_or_share.__name__ = "count or fraction"


def class_splits(args) -> ClassSplits | None:
    """What --splits, --base, --novel1 and --novel2 ask for."""
    sizes = {kind: getattr(args, kind) for kind in ("base", "novel1", "novel2")}
    sizes = {kind: size for kind, size in sizes.items() if size is not None}
    if sizes and not args.splits:
        raise UserError(f"--{next(iter(sizes))} means nothing without --splits: leave it out")
    return ClassSplits(args.splits, **sizes) if args.splits else None


def run(args, overrides) -> int:
    """Runs the rest of the benchmark and writes its table; 1 if a run failed."""
    if not args.config:
        raise UserError("name a data set, such as --config=configs/ucf.py")
    splits = class_splits(args)
    wanted = benchmark.grid(
        configs=args.config, methods=args.methods, shots=args.shots, seeds=args.seeds,
        root=args.root, variants=args.variants, overrides=overrides, splits=splits,
    )
    if args.dry_run:
        missing = jobs.list_missing(wanted)
        print("\n".join([jobs.plan(wanted), *missing]))
        return 1 if missing else 0
    for path in splits.make(wanted) if splits else []:
        print(f"split made: {path}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # Controls are rows of their own.
    command = [sys.executable, str(ROOT / "launch" / "main.py"), "--no-controls"]
    failures = jobs.execute(wanted, jobs.Processes(command, args.jobs), args.jobs)
    table = tables.benchmark_table(jobs.finished(wanted))
    written = tables.write([table], args.out or args.root, "benchmark")
    print(f"{tables.plain(table)}\nwritten to {', '.join(map(str, written))}")
    if failures:
        print(jobs.failure_report(failures), file=sys.stderr)
    return 1 if failures else 0


def remake(args, _) -> int:
    """The benchmark's table, and those of the paper's for which there are finished runs."""
    cells = runs.group(runs.find(args.folders), default=from_file)
    out = args.out or args.folders[0]
    if args.out:
        check_outputs(args, os.path.join(out, "tables.md"))
    all_tables = [tables.benchmark_table(cells), *tables.paper_tables(cells)]
    written = [*tables.write(all_tables, out, "tables"), *tables.figure1(cells, out)]
    print("\n\n".join(map(tables.plain, all_tables)))
    print(f"written to {', '.join(map(str, written))}")
    return 0


def from_file(name: str, shots: int) -> dict:
    """The configuration with this field dataset as its file has it."""
    file = ROOT / "configs" / f"{name}.py"
    return plain(configuration.resolve(f"{file}:{shots}shot")) if file.exists() else {}


def compare(args, _) -> int:
    """Paired differences of two rows, workdirs or folders of workdirs."""
    (a, name_a), (b, name_b) = (
        choose_side(args, name, side) for side, name in (("A", args.a), ("B", args.b))
    )
    print(paired.report(a, b, (name_a, name_b)), end="")
    return 0


def choose_side(args, name: str, side: str) -> tuple[list[runs.Finished], str]:
    """The runs of one side of a comparison, and what it is called."""
    here = paired.named(name, args.root, from_file)
    if args.dataset:
        here = paired.of_dataset(here, args.dataset)
    if args.average in (side, "both"):
        return average_seeds(here), f"{name}, seeds averaged"
    return here, name


def main(argv=None):
    """Runs one command; `argv` defaults to the command line."""
    with one_sentence():
        args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
        if overrides and args.command is not run:
            raise UserError(f"{overrides[0]} means nothing to finished runs: leave it out")
        code = args.command(args, overrides)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
