"""What a step costs on this machine: python launch/speed.py --config=configs/ucf.py:5shot

Features are random, of the benchmark's sizes, so no file is needed.

Efficiency = (matrix-product FLOPs that the mathematics needs, see avdiff_jax/flops.py) / seconds
/ (this machine's float32 matrix-product rate). Calls of a phase and a large product take turns,
since other work on the machine takes from both; medians count. Start s is the first call:
tracing, compilation, one dispatch. The loader's line is the streamed mode's reading; its share is
its part of a substage-1 step if nothing hid it.
"""

import contextlib
import functools
import json
import os
import pathlib
import resource
import sys
import tempfile
import time

BEGUN = time.perf_counter()
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from avdiff_jax.cli import configuration
from avdiff_jax.cli.choices import check_values
from avdiff_jax.cli.flags import Parser
from avdiff_jax.data.feed import Feed, fill
from avdiff_jax.data.splits.stages import Members, Stage
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import Clip, write_store
from avdiff_jax.data.windows import ROLES, Lengths, training_plan
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.io import documents
from avdiff_jax.io.text_files import text_of
from avdiff_jax.methods import method
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.speed import flops
from avdiff_jax.train.context import initialise_variables, prepare_stage
from avdiff_jax.train.records import Phase
from avdiff_jax.train.stage import prepare_substage

IMPORT_SECONDS = time.perf_counter() - BEGUN
AUDIO_SECONDS, VIDEO_SECONDS = 0.96, 0.64
TRAINING = {"ucf": Lengths(11, 17), "vggsound": Lengths(10, 16), "activitynet": Lengths(37, 60)}
TEST = {**TRAINING, "activitynet": Lengths(184, 300)}
RAGGED = (3.0, 11.5)  # seconds, the clips of UCF
CLASSES, BASE = 48, 42
STEPS = 2  # of one dispatch
PRODUCT = 2048  # rows and columns of the matrices that the machine's rate is measured with
SAMPLES = 9


class Compilations:
    """Counts programs that XLA compiled or loaded from the cache, and the seconds it took."""

    def __init__(self):
        """Starts to listen."""
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            self.count, self.seconds = self.count + 1, self.seconds + seconds


def timed(run) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


@functools.cache
def large_product(size: int):
    """A function without arguments that multiplies two [size, size] matrices; compiled."""
    a, product = jnp.ones((size, size)), compile_function(jnp.matmul, "float32")
    timed(lambda: product(a, a))
    return lambda: product(a, a)


def seconds_of(run, steps: int = 1) -> dict:
    """Seconds of a first call, which compiles, and the median of later ones, for each of the
    `steps` that a call makes; and the rate in GFLOP/s of large float32 products in between, on
    the part of all devices that one program uses."""
    first, product = timed(run), large_product(PRODUCT)
    turns = [(timed(run), timed(product)) for _ in range(SAMPLES)]
    found, beside = np.median(turns, axis=0)
    return {
        "first_call_seconds": first, "seconds_per_step": float(found) / steps,
        "matmul_gflops": 2 * PRODUCT**3 / float(beside) / flops.GIGA,
    }


def peak_memory() -> dict:
    """MB of the host process and, where it tells, of the device."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"peak_memory_mb": host, "device_peak_memory_mb": device and device / (1 << 20)}


@contextlib.contextmanager
def random_store(lengths: np.ndarray, sizes: flops.Sizes):
    """An open store of clips with `lengths` [n, 2] audio and video tokens, clip i of class
    i modulo their number."""
    rng = np.random.default_rng(0)
    names = [f"class {i:03d}" for i in range(sizes.classes)]

    def clips():
        for i, (audio, video) in enumerate(lengths):
            yield Clip(
                f"clip {i:06d}", names[i % len(names)], None,
                rng.integers(0, 256, (audio, sizes.audio)).astype(np.uint8),
                rng.random((video, sizes.video), np.float32),
            )

    with tempfile.TemporaryDirectory(prefix="avdiff_jax-speed-") as folder:
        path = pathlib.Path(folder) / "random.h5"
        write_store(
            path, name="random", clips=clips(), class_names=names,
            class_text=rng.standard_normal((sizes.classes, sizes.text)).astype(np.float32),
            audio_seconds=AUDIO_SECONDS, video_seconds=VIDEO_SECONDS, provenance={},
        )
        yield open_store(path)


def training_lengths(config) -> Lengths:
    """Tokens of a training clip of the config's dataset."""
    return TRAINING.get(config.dataset, TRAINING["vggsound"])


def lengths_of(count: int, fixed: Lengths, ragged: bool) -> np.ndarray:
    """[count, 2] tokens of each clip."""
    if not ragged:
        return np.tile(np.asarray(fixed), (count, 1))
    seconds = np.random.default_rng(1).uniform(*RAGGED, count)
    tokens = np.stack([seconds / AUDIO_SECONDS, seconds / VIDEO_SECONDS], -1).astype(int)
    tokens[0] = fixed  # the longest clip decides the shape
    return np.minimum(tokens, fixed)


def made_ready(config, store, mesh, sizes):
    """A stage on the random clips: the first classes are base, the rest novel."""
    is_base = np.arange(sizes.classes) < sizes.classes * BASE // CLASSES
    every = Members(np.arange(len(store)), store.labels)
    base = Members(*(x[is_base[every.labels]] for x in every))
    novel = Members(*(x[~is_base[every.labels]] for x in every))
    stage = Stage(store.class_names, is_base, base, (novel,), base, (novel,))
    return prepare_stage(config, method(config.method), Feed(store, mesh, "device"), stage, 1)


def needed(config, phase, plans, sizes):
    """Mean needed GFLOP of a step over the clips of `plans`; None but for AV-Diff."""
    if config.method != "avdiff" or config.generator != "diffusion":
        return None
    counts = [
        flops.needed(config, phase, audio, video, sizes)
        for plan in plans
        for audio, video in zip(plan.audio_length, plan.video_length, strict=True)
    ]
    return float(np.mean(counts))


def training(b, vars, phase: str, sizes) -> dict | None:
    """Seconds and FLOPs of a step of a substage; None where the method trains nothing."""
    config, number = b.info.config, 1 if phase == "substage1" else 2
    if not b.method.players(b.info, number):
        return None
    setting, state = prepare_substage(b, Phase(1, number), vars, None)
    feed, (members,) = setting.source, setting.members
    plan = functools.partial(
        feed.plan, lengths=b.lengths, batch=config.train.batch, steps=STEPS
    )
    inputs = {
        role: feed.inputs(plan(part, seed=[i]), b.lengths)
        for i, (role, part) in enumerate(zip(ROLES, members, strict=False))
    }
    windows = [
        training_plan(b.feed.store, part, b.lengths, config.train.batch, STEPS, [i])
        for i, part in enumerate(members)
    ]
    key = jax.random.key(0)
    done = flops.executed(setting.program, state, feed.data, inputs, key)
    box = [state]

    def dispatch():
        box[0], metrics = setting.program(box[0], feed.data, inputs, key)
        return metrics

    return {
        **seconds_of(dispatch, STEPS),
        "needed_gflop": needed(config, phase, windows, sizes),
        "executed_gflop": done / STEPS,
        "clips": config.train.batch * len(members),
    }


def changed(config, **fields):
    """A copy of a configuration with fields such as `train__batch` set."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for name, value in fields.items():
            group, field = name.split("__")
            copy[group][field] = value
    return copy


def evaluation(config, vars, mesh, sizes, fixed, ragged) -> dict:
    """Seconds and FLOPs of scoring one batch of test clips."""
    with random_store(lengths_of(config.eval.batch, fixed, ragged), sizes) as store:
        b = made_ready(config, store, mesh, sizes)
        every = Members(np.arange(len(store)), store.labels)
        plan = training_plan(store, every, fixed, config.eval.batch, 1, [0])
        inputs = b.feed.inputs(jax.tree.map(lambda x: x[0], plan), fixed)
        return {
            **seconds_of(lambda: b.score_batch(vars, inputs, fixed)),
            "needed_gflop": needed(config, "evaluation", [plan], sizes),
            "clips": config.eval.batch,
        }


def sampler(b, vars, sizes) -> dict | None:
    """Seconds and FLOPs of drawing one batch of synthetic features, without gradient."""
    if b.method.generate is None:
        return None
    config = b.info.config
    labels = jnp.arange(config.train.batch) % sizes.classes
    plan = training_plan(b.feed.store, b.stage.base, b.lengths, config.train.batch, 1, [0])
    return {
        **seconds_of(lambda: b.generate(vars, labels, jax.random.key(0))),
        "needed_gflop": needed(config, "sampler", [plan], sizes),
        "clips": config.train.batch,
    }


def loader(b) -> dict:
    """Seconds to draw and read one training batch from the memory-mapped file."""
    config = b.info.config

    def read():
        plan = training_plan(
            b.feed.store, b.stage.base, b.lengths, config.train.batch, STEPS, [0]
        )
        return fill(b.feed.store, plan, b.lengths)

    return {**seconds_of(read, STEPS), "clips": config.train.batch}


def completed(phase: dict | None) -> dict | None:
    """A phase with efficiency, steps and clips per second."""
    if phase is None:
        return None
    seconds, work = phase["seconds_per_step"], phase.get("needed_gflop")
    return {
        "needed_gflop": None, **phase,
        "efficiency": work and work / seconds / phase["matmul_gflops"],
        "steps_per_second": 1 / seconds,
        "clips_per_second": phase["clips"] / seconds,
    }


def measured(
    config, sizes=flops.BENCHMARK, ragged=False, mesh=None, only=None, trace=None, fixed=None
) -> dict:
    """Every phase on fixed or ragged clips.

    Args:
      fixed: tokens of a training clip, by default those of the config's dataset.
      only: names of the phases; all unless given.
      trace: a folder for traces of them.
    """
    mesh = mesh or devices.mesh()
    name = config.dataset
    fixed = fixed or training_lengths(config)
    large_product(PRODUCT)  # now, so that no phase counts its compilation
    heard = Compilations()
    phases = {}
    with random_store(lengths_of(4 * config.train.batch, fixed, ragged), sizes) as store:
        b = made_ready(config, store, mesh, sizes)
        cached = made_ready(changed(config, train__frozen_mode="eval"), store, mesh, sizes)
        vars = initialise_variables(b)
        jobs = {
            "substage1": lambda: training(b, vars, "substage1", sizes),
            "substage2": lambda: training(b, vars, "substage2", sizes),
            "substage2_cached": lambda: training(cached, vars, "substage2_cached", sizes),
            "evaluation": lambda: evaluation(
                config, vars, mesh, sizes, TEST.get(name, fixed), ragged
            ),
            "sampler": lambda: sampler(b, vars, sizes),
            "loader": lambda: loader(b),
        }
        for phase, job in jobs.items():
            if only and phase not in only:
                continue
            count, spent = heard.count, heard.seconds
            with jax.profiler.trace(f"{trace}/{phase}") if trace else contextlib.nullcontext():
                found = completed(job())
            if found:
                found |= {
                    "compilations": heard.count - count,
                    "compile_seconds": heard.seconds - spent,
                }
            phases[phase] = found
    if phases.get("loader") and phases.get("substage1"):
        read, step = (phases[p]["seconds_per_step"] for p in ("loader", "substage1"))
        phases["loader"]["share"] = read / (read + step)
    return {
        "device": devices.describe(), "config": config.dataset, "ragged": ragged,
        "matmul_gflops": float(np.median([p["matmul_gflops"] for p in phases.values() if p])),
        "import_seconds": IMPORT_SECONDS,
        "compilations": heard.count, "compile_seconds": heard.seconds,
        **peak_memory(), "phases": phases,
    }


def grown(config, sizes=flops.BENCHMARK) -> dict:
    """What a substage-1 and a substage-2 step cost where one size is doubled, as a multiple of the
    usual; and on fewer devices. Cost is time over that of a large product."""
    only = ("substage1", "substage2")

    def costs(config, **changes):
        found = measured(config, sizes, only=only, **changes)["phases"]
        return {
            p: phase["seconds_per_step"] * phase["matmul_gflops"]
            for p, phase in found.items() if phase
        }

    usual = costs(config)

    def ratios(config, **changes):
        return {p: cost / usual[p] for p, cost in costs(config, **changes).items()}

    out = {}
    for name, field in (
        ("T x 2", "diffusion__steps"), ("L x 2", "model__depth"), ("batch x 2", "train__batch"),
    ):
        group, leaf = field.split("__")
        out[name] = ratios(changed(config, **{field: 2 * config[group][leaf]}))
    out["tokens x 2"] = ratios(config, fixed=Lengths(*(2 * n for n in training_lengths(config))))
    for count in (2**i for i in range(jax.device_count().bit_length() - 1)):
        mesh = jax.make_mesh(
            (count,), ("data",), devices=jax.devices()[:count], axis_types=(AxisType.Auto,)
        )
        out[f"devices {count} of {jax.device_count()}"] = ratios(config, mesh=mesh)
    return out


def earlier(path: pathlib.Path) -> dict:
    """The numbers that an earlier run wrote.

    Raises:
      UserError: they cannot be read.
    """
    try:
        report = json.loads(text_of(path))
        table(report, report)
        if "ragged_case" in report:
            table(report["ragged_case"], report["ragged_case"])
    except (ValueError, RecursionError) as error:  # a UserError is a ValueError
        raise UserError(f"--compare={path} cannot be read: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError):
        raise UserError(f"--compare={path} was not written by launch/speed.py --json") from None
    return report


def table(report: dict, old: dict | None = None) -> str:
    """The phases as lines of text; with ratios to `old`."""
    head = ["phase", "ms/step", "steps/s", "clips/s", "needed GFLOP", "efficiency", "start s"]
    rows = [head + ["times faster"] * bool(old)]
    for name, phase in report["phases"].items():
        if phase is None:
            continue
        work, efficiency = phase["needed_gflop"], phase["efficiency"]
        row = [
            name, f"{phase['seconds_per_step'] * 1e3:.1f}", f"{phase['steps_per_second']:.2f}",
            f"{phase['clips_per_second']:.0f}", f"{work:.1f}" if work else "-",
            f"{efficiency:.0%}" if efficiency else "-", f"{phase['first_call_seconds']:.1f}",
        ]
        if old:
            before = old["phases"].get(name)
            seconds = before and before["seconds_per_step"]
            row.append(f"{seconds / phase['seconds_per_step']:.2f}" if seconds else "-")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def summary(report: dict) -> str:
    """What is not of one phase."""
    device, share = report["device_peak_memory_mb"], report["phases"]["loader"].get("share")
    return (
        f"{report['device']}, {os.cpu_count()} CPU cores\n"
        f"float32 products at {report['matmul_gflops']:.0f} GFLOP/s; "
        f"imports {report['import_seconds']:.1f} s; {report['compilations']} compilations, "
        f"{report['compile_seconds']:.0f} s; peak memory {report['peak_memory_mb']:.0f} MB"
        + (f", of the device {device:.0f} MB" if device else "")
        + (f"; the loader's share {share:.1%}" if share else "")
    )


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_config()
    p.add_output("OUT.json", "also write the numbers", flag="--json", required=False)
    p.add_argument("--compare", metavar="OLD.json",
                   help="print ratios to an earlier run (above 1: faster now)")
    p.add_argument("--grow", action="store_true",
                   help="how cost grows with T, L, tokens, batch and devices")
    p.add_argument("--trace", metavar="DIR",
                   help="also record each phase with jax.profiler, for TensorBoard or Perfetto")
    return p


def main(argv=None):
    """Measures, prints, writes."""
    args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
    config = configuration.resolve(args.config, overrides)
    check_values(config)
    devices.configure(config.device.deterministic)
    old = earlier(pathlib.Path(args.compare)) if args.compare else None
    target = args.json and pathlib.Path(args.json)
    if target and not target.parent.is_dir():  # said now, not after minutes
        raise UserError(f"--json={target}: there is no folder {target.parent}; make it first")
    report = measured(config, trace=args.trace)
    if config.dataset == "ucf":
        report["ragged_case"] = measured(config, ragged=True)
    if args.grow:
        report["grow"] = grown(config)
    print(summary(report))
    print(table(report, old))
    if "ragged_case" in report:
        print(f"\nragged clips, {RAGGED[0]:g} to {RAGGED[1]:g} s")
        print(table(report["ragged_case"], (old or {}).get("ragged_case")))
    for name, ratios in report.get("grow", {}).items():
        print(f"{name}: " + ", ".join(f"{p} x {r:.2f}" for p, r in ratios.items()))
    if target:
        documents.write(target, report, indent=1, sort_keys=False)


if __name__ == "__main__":
    with one_sentence():
        main()
