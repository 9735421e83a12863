"""Many methods x shots x data sets x seeds -> one table beside the paper's.

    python launch/benchmark.py --config=configs/ucf.py --methods=all --shots=1,5 --root=runs/bench
    python launch/benchmark.py tables runs/bench
    python launch/benchmark.py compare avdiff avdiff,generator=none --root=runs/bench

The first runs what is missing, goes on with what was interrupted and skips what is done; the same
command again goes on after a stop. `--config.x.y=v` goes to every run. --help lists the flags.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import functools
import signal

from avdiff_jax import benchmark, comparison, runs, tables
from avdiff_jax.errors import Parser, UserError, one_sentence


def parser() -> Parser:
    """The flags of all three commands."""
    p = Parser(__doc__)
    names, numbers = (lambda text: text.split(",")), (lambda text: [*map(int, text.split(","))])
    numbers.__name__ = "list of whole numbers"  # argparse names it in its complaint
    p.add_argument("--config", action="append", metavar="FILE.py", help="a data set; repeatable")
    p.add_argument("--methods", type=names, default=["all"], help="names; all = with the controls")
    p.add_argument("--shots", type=numbers, default=[5], help="such as 1,5,10,20")
    p.add_argument("--seeds", type=numbers, default=[42])
    p.add_argument("--variants", type=names, default=[],
                   help="more rows, such as attention=full,modality=audio,diffusion.steps=50")
    p.add_argument("--root", default="runs/benchmark", help="folder of the runs")
    p.add_argument("--out", help="folder of the tables; default: the root, or the first folder")
    p.add_argument("--dry-run", action="store_true", help="list what would be run")
    p.add_argument("--tables", nargs="+", metavar="DIR", help="the paper's tables from runs below")
    p.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two workdirs or rows below root")
    return p


def run(args, overrides) -> int:
    """Runs the rest of the benchmark and writes its table; 1 if a run failed."""
    if not args.config:
        raise UserError("name a data set, such as --config=configs/ucf.py")
    files = [file if pathlib.Path(file).exists() else str(ROOT / file) for file in args.config]
    wanted = benchmark.grid(
        configs=files, methods=args.methods, shots=args.shots, seeds=args.seeds, root=args.root,
        variants=args.variants, overrides=overrides,
    )
    if args.dry_run:
        print(benchmark.plan(wanted))
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command = [sys.executable, str(ROOT / "launch" / "main.py")]
    failures = benchmark.execute(wanted, functools.partial(benchmark.start_process, command))
    table = tables.benchmark_table(benchmark.finished(wanted))
    written = tables.write([table], args.out or args.root, "benchmark")
    print(f"{tables.markdown(table)}\nwritten to {', '.join(map(str, written))}")
    if failures:
        print(benchmark.failure_report(failures), file=sys.stderr)
    return 1 if failures else 0


def remake(args) -> int:
    """The benchmark's table and all of the paper's from finished runs."""
    cells = runs.group(runs.find(args.tables), default=from_file)
    out = args.out or args.tables[0]
    made = [tables.benchmark_table(cells), *tables.paper_tables(cells)]
    written = [*tables.write(made, out, "tables"), *tables.figure1(cells, out)]
    print("\n\n".join(map(tables.markdown, made)))
    print(f"written to {', '.join(map(str, written))}")
    return 0


def from_file(dataset: str, shots: int) -> dict:
    """The configuration of a published data set as its file has it."""
    file = ROOT / "configs" / f"{dataset}.py"
    return benchmark.resolve([f"--config={file}:{shots}shot"]) if file.exists() else {}


def compare(args) -> int:
    """Paired differences of two workdirs, folders of workdirs, or rows below the root."""
    a, b = (comparison.named(name, args.root, from_file) for name in args.compare)
    print(comparison.report(a, b, tuple(args.compare)), end="")
    return 0


def main(argv=None):
    """Runs one command; `argv` defaults to the command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["tables"], ["compare"]):
        argv[0] = f"--{argv[0]}"
    with one_sentence():
        args, rest = parser().parse_known_args(argv)
        for text in rest:
            if not text.startswith("--config."):
                raise UserError(f"unknown argument {text!r} (--help lists the flags)")
        if args.tables or args.compare:
            if rest:
                raise UserError(f"{rest[0]} means nothing to finished runs: leave it out")
            code = remake(args) if args.tables else compare(args)
        else:
            code = run(args, rest)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
