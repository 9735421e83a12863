"""Times the phases of a run on random clips of the benchmark's sizes."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from avdiff_jax.data.feed import AHEAD, fill, prefetch
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import ROLES, Lengths, Plan, training_plan
from avdiff_jax.methods.method import Vars
from avdiff_jax.runtime import devices
from avdiff_jax.speed import clock, flops
from avdiff_jax.speed.clips import TEST, lengths_of, prepare, random_store, training_lengths
from avdiff_jax.speed.product import Product, large_product
from avdiff_jax.speed.report import Phase, Report
from avdiff_jax.train import records
from avdiff_jax.train.context import StageContext, initialise_variables
from avdiff_jax.train.stage import prepare_substage

SAMPLES = 9
PHASES = (
    "substage1", "substage2", "substage2_cached", "streaming", "evaluation", "sampler", "loader",
)


def dispatch_steps() -> int:
    """Steps of one dispatch: a GPU takes so short for a step that starting them would count."""
    return 20 if devices.on_gpu() else 2


def in_a_row(run: Callable, calls: int) -> Callable:
    """So many calls as one, of which each is sent before the last is done."""
    return lambda: [run() for _ in range(calls)]


class Stopwatch(NamedTuple):
    """Times the phases. product: what their efficiency is measured against; traces: a folder for
    traces of them, or None."""

    product: Product
    traces: str | None = None

    def phase(self, name: str, run: Callable, steps: int = 1, **more) -> Phase:
        """Times a first call, which compiles, and later ones in turns with the large product,
        since other work on the machine takes from both. Medians count.

        Args:
          steps: that a call makes.
          more: fields of the `Phase` that are known already.
        """
        with clock.Compilations() as heard:
            first = clock.timed(run)
        turns = [(clock.timed(run), clock.timed(self.product.run)) for _ in range(SAMPLES)]
        seconds, beside = np.median(turns, axis=0)
        if self.traces:
            with jax.profiler.trace(f"{self.traces}/{name}"):
                clock.timed(run)
        return Phase(
            first, float(seconds) / steps, self.product.gflop / float(beside),
            compilations=heard.count, compile_seconds=heard.seconds, **more,
        )


def needed(config, phase: str, plans: Sequence[Plan], sizes: flops.Sizes) -> float | None:
    """Mean needed GFLOP of a step over the clips of `plans`; None but for AV-Diff."""
    if config.method != "avdiff" or config.generator != "diffusion":
        return None
    counts = [
        flops.needed(config, phase, audio, video, sizes)
        for plan in plans
        for audio, video in zip(plan.audio_length, plan.video_length, strict=True)
    ]
    return float(np.mean(counts))


def training(
    context: StageContext, variables: Vars, phase: str, watch: Stopwatch, sizes: flops.Sizes
) -> Phase | None:
    """A step of a substage; None where the method trains nothing."""
    config, number, steps = context.info.config, 1 if phase == "substage1" else 2, dispatch_steps()
    if not context.method.players(context.info, number):
        return None
    setting, state = prepare_substage(context, records.Phase(1, number), variables, None)
    feed, (members,) = setting.source, setting.members
    steps = feed.steps(context.lengths, config.train.batch, steps, steps)
    plan = functools.partial(
        feed.plan, lengths=context.lengths, batch=config.train.batch, steps=steps
    )
    windows = [
        training_plan(context.feed.store, part, context.lengths, config.train.batch, steps, [i])
        for i, part in enumerate(members)
    ]

    inputs = {
        role: feed.inputs(plan(part, seed=[i]), context.lengths)
        for i, (role, part) in enumerate(zip(ROLES, members, strict=False))
    }
    key = jax.random.key(0)
    work = flops.executed(setting.program, state, feed.data, inputs, key)
    box = [state]

    def dispatch():
        box[0], metrics = setting.program(box[0], feed.data, inputs, key)
        return metrics

    return watch.phase(
        phase, dispatch, steps,
        needed_gflop=needed(config, phase, windows, sizes), executed_gflop=work / steps,
        clips=config.train.batch * len(members),
    )


def streaming(
    context: StageContext, variables: Vars, watch: Stopwatch, sizes: flops.Sizes
) -> Phase | None:
    """A step of substage 1 whose clips are read from the file beside the step before, as where
    the features do not fit the device."""
    config = context.info.config
    if not context.method.players(context.info, 1):
        return None
    setting, state = prepare_substage(context, records.Phase(1, 1), variables, None)
    feed, ((base,),) = setting.source, setting.members
    steps = feed.steps(context.lengths, config.train.batch, dispatch_steps(), dispatch_steps())

    def plan(seed):
        return feed.plan(base, context.lengths, config.train.batch, steps, [seed])

    # On a GPU so many that what is read while the large product runs hardly counts.
    calls = 5 * AHEAD if devices.on_gpu() else 1
    inputs = prefetch(
        lambda seed: {ROLES[0]: feed.inputs(plan(seed), context.lengths)},
        range(calls * (SAMPLES + 2)),
    )
    box, key = [state], jax.random.key(0)

    def dispatch():
        box[0], metrics = setting.program(box[0], feed.data, next(inputs), key)
        return metrics

    phase = watch.phase(
        "streaming", in_a_row(dispatch, calls), steps * calls, clips=config.train.batch,
        needed_gflop=needed(config, "substage1", [plan(0)], sizes),
    )
    inputs.close()
    return phase


def change(config, **fields):
    """A copy of a configuration with fields such as `train__batch` set."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for name, value in fields.items():
            group, field = name.split("__")
            copy[group][field] = value
    return copy


def evaluation(
    config, variables: Vars, mesh: Mesh, sizes: flops.Sizes, fixed: Lengths, ragged: bool,
    watch: Stopwatch,
) -> Phase:
    """Scoring one batch of test clips."""
    with random_store(lengths_of(config.eval.batch, fixed, ragged), sizes) as store:
        context = prepare(config, store, mesh, sizes)
        every = Members(np.arange(len(store)), store.labels)
        plan = training_plan(store, every, fixed, config.eval.batch, 1, [0])
        inputs = context.feed.inputs(jax.tree.map(lambda x: x[0], plan), fixed)
        calls = dispatch_steps() // 2
        return watch.phase(
            "evaluation",
            in_a_row(lambda: context.score_batch(variables, inputs, fixed), calls), calls,
            needed_gflop=needed(config, "evaluation", [plan], sizes), clips=config.eval.batch,
        )


def sampler(
    context: StageContext, variables: Vars, watch: Stopwatch, sizes: flops.Sizes
) -> Phase | None:
    """Drawing one batch of synthetic features, without gradient."""
    if context.generate is None:
        return None
    generate = context.generate
    config, batch = context.info.config, context.info.config.train.batch
    labels = jnp.arange(batch) % sizes.classes
    plan = training_plan(
        context.feed.store, context.stage.base, context.lengths, batch, 1, [0]
    )
    key, calls = jax.random.key(0), dispatch_steps() // 2
    return watch.phase(
        "sampler", in_a_row(lambda: generate(variables, labels, key), calls), calls,
        needed_gflop=needed(config, "sampler", [plan], sizes), clips=batch,
    )


def loader(context: StageContext, watch: Stopwatch) -> Phase:
    """Drawing and reading one training batch from the memory-mapped file, as in the streamed
    mode."""
    config, steps = context.info.config, 2

    def read():
        plan = training_plan(
            context.feed.store, context.stage.base, context.lengths, config.train.batch, steps, [0]
        )
        return fill(context.feed.store, plan, context.lengths)

    return watch.phase("loader", read, steps, clips=config.train.batch)


def measure(
    config, sizes: flops.Sizes = flops.BENCHMARK, ragged: bool = False, mesh: Mesh | None = None,
    only: Sequence[str] = PHASES, fixed: Lengths | None = None, watch: Stopwatch | None = None,
) -> Report:
    """Every phase on fixed or ragged clips.

    Args:
      fixed: tokens of a training clip, by default those of the config's dataset.
      only: names of the phases.
      watch: what times them; its large product is found here unless given.
    """
    mesh = mesh or devices.mesh()
    fixed = fixed or training_lengths(config)
    watch = watch or Stopwatch(large_product(config.device.precision))
    clips = lengths_of(4 * config.train.batch, fixed, ragged)
    with clock.Compilations() as heard, random_store(clips, sizes) as store:
        context = prepare(config, store, mesh, sizes)
        cached = prepare(change(config, train__frozen_mode="eval"), store, mesh, sizes)
        streamed = prepare(config, store, mesh, sizes, "host")
        variables = initialise_variables(context)
        test = TEST.get(config.dataset, fixed)
        jobs = {
            "substage1": lambda: training(context, variables, "substage1", watch, sizes),
            "substage2": lambda: training(context, variables, "substage2", watch, sizes),
            "substage2_cached": lambda: training(
                cached, variables, "substage2_cached", watch, sizes
            ),
            "streaming": lambda: streaming(streamed, variables, watch, sizes),
            "evaluation": lambda: evaluation(config, variables, mesh, sizes, test, ragged, watch),
            "sampler": lambda: sampler(context, variables, watch, sizes),
            "loader": lambda: loader(context, watch),
        }
        phases = {name: job() for name, job in jobs.items() if name in only}
    return Report(
        device=devices.describe(), config=config.dataset, precision=config.device.precision,
        ragged=ragged, product=watch.product.size, compilations=heard.count,
        compile_seconds=heard.seconds, peak_memory_mb=clock.host_peak_mb(),
        device_peak_memory_mb=clock.device_peak_mb(), phases=phases,
    )


def grow(config, watch: Stopwatch, sizes: flops.Sizes = flops.BENCHMARK) -> dict[str, dict]:
    """What a substage-1 and a substage-2 step cost where one size is doubled, as a multiple of the
    usual; and on fewer devices. Cost is time over that of a large product."""
    only = ("substage1", "substage2")

    def costs(config, **changes):
        phases = measure(config, sizes, only=only, watch=watch, **changes).phases
        return {
            name: phase.seconds_per_step * phase.matmul_gflops
            for name, phase in phases.items() if phase
        }

    usual = costs(config)

    def ratios(config, **changes):
        return {name: cost / usual[name] for name, cost in costs(config, **changes).items()}

    out = {}
    for name, field in (
        ("T x 2", "diffusion__steps"), ("L x 2", "model__depth"), ("batch x 2", "train__batch"),
    ):
        group, leaf = field.split("__")
        out[name] = ratios(change(config, **{field: 2 * config[group][leaf]}))
    out["tokens x 2"] = ratios(config, fixed=Lengths(*(2 * n for n in training_lengths(config))))
    for count in (2**i for i in range(jax.device_count().bit_length() - 1)):
        mesh = jax.make_mesh(
            (count,), ("data",), devices=jax.devices()[:count], axis_types=(AxisType.Auto,)
        )
        out[f"devices {count} of {jax.device_count()}"] = ratios(config, mesh=mesh)
    return out
