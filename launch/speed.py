"""What a step costs on this machine, or making features of clips.

    python launch/speed.py --config=configs/ucf.py:5shot
    python launch/speed.py --clips FOLDER

Features are random, of the benchmark's sizes, so no file is needed.

Efficiency = (matrix-product FLOPs that the mathematics needs, see avdiff_jax/speed/flops.py) /
seconds / (the rate of a matrix product so large that the rate rises no more). Calls of a phase
and that product take turns, since other work on the machine takes from both; medians count.
Where the card is known, its data sheet's figure is a second measure. Start s is the first call:
tracing, compilation, one dispatch. Streaming is substage 1 where the clips are read from the file
meanwhile; the loader's line is that reading alone, and its share is its part of a step of
substage 1 if nothing hid it.

With --clips the video files in FOLDER or a CSV are decoded and encoded, and nothing is kept.
"""

import pathlib
import sys
import time
from argparse import Namespace

BEGUN = time.perf_counter()
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from avdiff_jax.cli import configuration
from avdiff_jax.cli.choices import check_values
from avdiff_jax.cli.flags import Parser
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.extract import encoders, recipes
from avdiff_jax.methods import check
from avdiff_jax.results import text_table
from avdiff_jax.runtime import devices
from avdiff_jax.speed import clips, measure, report, trace
from avdiff_jax.speed.product import large_product

IMPORT_SECONDS = time.perf_counter() - BEGUN


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_config(required=False)
    p.add_argument("--clips", metavar="FOLDER|CSV", help="video files: times launch/extract.py")
    for modality, name in encoders.DEFAULTS.items():
        p.add_argument(f"--{modality}", default=name, metavar="ENCODER",
                       help="that needs no file of weights, for --clips")
    p.add_output("OUT.json", "also write the numbers", flag="--json", required=False)
    p.add_argument("--compare", metavar="OLD.json",
                   help="print ratios to an earlier run (above 1: faster now)")
    p.add_argument("--only", nargs="+", choices=measure.PHASES, metavar="PHASE",
                   help=f"phases, of {', '.join(measure.PHASES)}; default: all")
    p.add_argument("--grow", action="store_true",
                   help="how cost grows with T, L, tokens, batch and devices")
    p.add_argument("--trace", metavar="DIR",
                   help="also record each phase with jax.profiler, for TensorBoard or Perfetto, "
                   "and print its costliest kernels and for how long the device waits")
    return p


def main(argv=None):
    """Measures, prints, writes."""
    args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
    if bool(args.config) == bool(args.clips):
        raise UserError("name a configuration with --config, or video files with --clips: one of "
                        "them")
    if args.clips:
        print(time_extraction(args))
        return
    config = configuration.resolve(args.config, overrides)
    check_values(config)
    check(config)
    devices.configure(config.device.deterministic)
    old, old_ragged = report.read_seconds(args.compare) if args.compare else (None, None)
    target = args.json and pathlib.Path(args.json)
    if target and not target.parent.is_dir():  # said now, not after minutes
        raise UserError(f"--json={target}: there is no folder {target.parent}; make it first")
    only = args.only or measure.PHASES
    watch = measure.Stopwatch(large_product(config.device.precision), args.trace)
    fixed = measure.measure(config, only=only, watch=watch)
    watch, ragged, growth = watch._replace(traces=None), None, {}
    if config.dataset == "ucf" and not (args.only or args.trace):
        ragged = measure.measure(config, watch=watch, ragged=True)
    if args.grow:
        growth = measure.grow(config, watch)
    print(report.summary(fixed, IMPORT_SECONDS))
    print(report.table(fixed, old))
    if ragged:
        print(f"\nragged clips, {clips.RAGGED[0]:g} to {clips.RAGGED[1]:g} s")
        print(report.table(ragged, old_ragged))
    for name, ratios in growth.items():
        print(f"{name}: " + ", ".join(f"{p} x {r:.2f}" for p, r in ratios.items()))
    for name in (name for name in only if args.trace and fixed.phases[name]):
        if name != "loader":
            print(f"\n{name}: {trace.table(trace.read(pathlib.Path(args.trace) / name))}")
    if target:
        report.write(target, fixed, ragged, growth)


def time_extraction(args: Namespace) -> str:
    """The table of decoding and encoding the clips that the flags name."""
    # They need PyAV, which a machine that only trains may lack.
    from avdiff_jax.extract.collection import open_collection
    from avdiff_jax.extract.pipeline import Encoders
    from avdiff_jax.speed import extraction

    collection, plain = open_collection(args.clips), recipes.find("plain")
    devices.configure()
    chosen = Encoders(*(
        encoders.make(getattr(args, modality), modality, plain) for modality in encoders.DEFAULTS
    ))
    timings = list(extraction.measure_extraction(collection.clips, chosen))
    return text_table.plain(extraction.tabulate_extraction(timings, devices.describe()))


if __name__ == "__main__":
    with one_sentence():
        main()
