"""The whole experiment (Section 3.2 and 4 of the paper): data, stage 1, stage 2, test, results."""

import contextlib
import json
import math
import pathlib
import time

import jax
import numpy as np

from avdiff_jax import devices, diffusion, metrics, plots, results
from avdiff_jax.checkpoint import Checkpoints
from avdiff_jax.data import partition, splits, synthetic
from avdiff_jax.data.batches import Feed
from avdiff_jax.data.store import Store, open_store
from avdiff_jax.errors import UserError
from avdiff_jax.files import plain, write_atomically
from avdiff_jax.methods import check
from avdiff_jax.methods import method as find_method
from avdiff_jax.nn import masks
from avdiff_jax.runs import differences
from avdiff_jax.train.stage import (
    Bench,
    bench,
    generator_quality,
    initial_vars,
    measure,
    ready,
    stage1,
    stage2,
)
from avdiff_jax.train.stop import Stop
from avdiff_jax.train.substage import Outcome, Phase, Services
from avdiff_jax.writer import Writer

RUNS = ("all", "stage1", "stage2", "evaluate")
PHASES = (Phase(1, 1), Phase(1, 2), Phase(2, 1), *(Phase(2, 2, draw) for draw in range(3)))


# What a field may be. Wrong names, types and words are refused before a run begins.
VALUES = {
    "generator": ("diffusion", "none", "gaussian"),
    "data.audio_scale": ("255", "standardize"),
    "data.residence": ("auto", "device", "host"),
    "model.modality": ("both", "audio", "video"),
    "model.attention": masks.PATTERNS,
    "model.video_norm": ("time", "feature", "none"),
    "model.bn_padding": ("masked", "batch"),
    "diffusion.schedule": diffusion.SCHEDULES,
    "diffusion.condition": ("text", "prototype"),
    "train.frozen_mode": ("train", "eval"),
    "eval.calibration": ("grid", "exact"),
}
NOT_POSITIVE = ("seed", "model.switch", "train.patience", "train.weight_decay")
BELOW_ONE = ("diffusion.dropout", "model.dropout_")


def check_values(config) -> None:
    """Every field has a value that means something.

    Raises:
      UserError: names the field, its value and what it may be.
    """

    def complain(name, value, wanted):
        raise UserError(f"--config.{name}={value} must be {wanted}")

    for name, value in _fields(config):
        if name in VALUES:
            if value not in VALUES[name]:
                complain(name, value, "one of " + ", ".join(VALUES[name]))
        elif isinstance(value, bool | str):
            continue
        elif name.startswith(BELOW_ONE):
            if not 0 <= value < 1:
                complain(name, value, "at least 0 and below 1")
        elif not math.isfinite(value) or value < 0:
            complain(name, value, "a finite number, at least 0")
        elif not value and not name.startswith(("data.", *NOT_POSITIVE)):
            complain(name, value, "above 0")
    model = config.model
    if model.switch > model.depth:
        complain("model.switch", model.switch, f"at most model.depth={model.depth}")
    if model.code % 2:
        complain("model.code", model.code, "even: it holds sines and cosines")
    if config.data.synthetic.classes and config.data.split and not config.data.store:
        complain("data.split", config.data.split, "empty for the made-up set, or with a data.store")


def _fields(config, prefix: str = ""):
    """(dotted name, value) of every field."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def claim(workdir: pathlib.Path, config, resume: bool) -> None:
    """Makes a workdir, or takes up one of the same configuration.

    Raises:
      UserError: it holds a run and `resume` is off; or its configuration differs.
    """
    path = workdir / "config.json"
    wanted = json.loads(json.dumps(plain(config.to_dict())))
    if path.exists():
        if not resume:
            raise UserError(
                f"{workdir} already holds a run: add --resume to go on with it, or choose "
                "another --workdir"
            )
        there = json.loads(path.read_text())
        for name, (ours, theirs) in differences(wanted, there).items():
            raise UserError(
                f"{workdir} was begun with {name}={theirs}, now it is {ours}: use the same "
                "configuration, or another --workdir"
            )
        return
    if resume:
        raise UserError(
            f"{workdir} holds no run to go on with: begin one without --resume and with "
            "--run=all or --run=stage1"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(wanted, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to --workdir={workdir}: {error.strerror}") from error


@contextlib.contextmanager
def claimed(workdir: pathlib.Path, config, resume: bool):
    """`claim`, and if the block fails, nothing is left of what a new claim and the block wrote."""
    missing = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    before = set() if missing else set(workdir.iterdir()) if workdir.is_dir() else set()
    new = not (workdir / "config.json").exists()
    try:
        claim(workdir, config, resume)
        yield
    except BaseException:
        if new and workdir.is_dir():
            for path in set(workdir.iterdir()) - before:
                path.unlink()
        for folder in missing:
            if folder.is_dir():
                folder.rmdir()
        raise


def data(config, workdir: pathlib.Path) -> tuple[Store, dict]:
    """Store and split of a configuration; the embedded default is made in the workdir.

    Raises:
      UserError: a file is missing (the sentence says how to make it) or wrong.
    """
    name = config.dataset
    spec = config.data.synthetic
    if spec.classes and not config.data.store:
        store_path, split_path = workdir / "synthetic.h5", workdir / "split.json"
        if not store_path.exists():
            synthetic.synthesize(
                store_path, seed=config.seed, classes=spec.classes,
                clips_per_class=spec.clips_per_class, audio_dim=spec.audio_dim,
                video_dim=spec.video_dim, text_dim=spec.text_dim,
            )
        store = open_store(store_path)
        if not split_path.exists():
            split = partition.from_store(
                store, config.shots, config.seed, base=0.5, novel1=0.25, novel2=0.25, by="clip"
            )
            splits.write(split, split_path)
        return store, splits.load(split_path)
    store_path = pathlib.Path(config.data.store or f"data/{name}.h5")
    split_path = pathlib.Path(config.data.split or f"data/{name}-{config.shots}shot.json")
    for path, flag, verb in (
        (store_path, "data.store", "import"), (split_path, "data.split", "split"),
    ):
        if not path.exists():
            raise UserError(
                f"{path} does not exist: make it with `python launch/data.py {verb}` (see the "
                f"README), or name another with --config.{flag}"
            )
    store, split = open_store(store_path), splits.load(split_path)
    if split["shots"] != config.shots:
        raise UserError(
            f"{split_path} holds {split['shots']} shots but the configuration asks for "
            f"{config.shots}: name another split, or use the word {split['shots']}shot"
        )
    return store, split


def parameter_table(b: Bench, vars) -> str:
    """Parameters by group and in all."""
    sizes = {
        group: sum(x.size for x in jax.tree.leaves(tree)) for group, tree in vars.params.items()
    }
    lines = [f"  {group:8s} {size:>10,d}" for group, size in sizes.items()]
    total = sum(sizes.values())
    return "\n".join(["parameters (stage 2):", *lines, f"  {'all':8s} {total:>10,d}"])


def checkpoints(workdir: pathlib.Path):
    """Factories of the last and best checkpoints of a phase."""
    folder = workdir / "checkpoints"
    return (
        lambda phase: Checkpoints(folder / phase.name, keep=1),
        # The newest best may be newer than the last checkpoint after a kill: keep its forerunner.
        lambda phase: Checkpoints(folder / f"{phase.name}-best", keep=2),
    )


def committed(last) -> int:
    """Finished epochs that checkpoints vouch for, over the whole run."""
    found = [0]
    for phase in PHASES:
        with last(phase) as manager:
            if (number := manager.latest()) is not None:
                found.append(manager.metadata(number)["at"])
    return max(found)


def run(config, workdir: pathlib.Path, what: str = "all", resume: bool = False) -> dict | None:
    """Runs the protocol and returns the results, None where only stage 1 was asked for.

    Args:
      config: a locked configuration.
      workdir: everything is written here.
      what: one of `RUNS`; "stage2" and "evaluate" go on in a workdir with the parts before.
      resume: go on with an interrupted run.

    Raises:
      UserError: anything that a user can put right.
      Stopped: after a stop signal, once the state is saved.
    """
    started = time.monotonic()
    workdir = pathlib.Path(workdir)
    check_values(config)
    chosen_method = find_method(config.method)
    check(config)
    resume = resume or what in ("stage2", "evaluate")
    mesh = devices.mesh()
    devices.check_divides(config.train.batch, mesh, "train.batch")
    devices.check_divides(config.eval.batch, mesh, "eval.batch")
    with Stop().listening() as stop:
        with claimed(workdir, config, resume):
            store, split = data(config, workdir)
            stages = {n: _stage(config, split, store, n) for n in (1, 2)}
        feed = Feed(store, mesh, config.data.residence)
        where = "streamed" if feed.streamed else "resident"
        print(f"device: {devices.describe()}; features {where}")
        last, best = checkpoints(workdir)
        stop.check()
        with Writer.open_at(workdir, committed(last)) if resume else Writer(workdir) as writer:
            services = Services(writer, last, best, stop)
            record_path = workdir / "stage1.json"
            if what in ("all", "stage1") and not record_path.exists():
                found = stage1(bench(config, chosen_method, feed, stages[1], 1), services)
                write_atomically(record_path, json.dumps(found, indent=2, sort_keys=True) + "\n")
            if not record_path.exists():
                raise UserError(f"{record_path} does not exist: run stage 1 first (--run=stage1)")
            found = json.loads(record_path.read_text())
            if what == "stage1":
                return None
            two = bench(config, chosen_method, feed, stages[2], 2)
            print(parameter_table(two, initial_vars(two)))
            outcomes = _trained(two, last) if what == "evaluate" else stage2(two, services, found)
            return _report(two, services, workdir, found, outcomes, started)


def _stage(config, split, store, number):
    stage = splits.stage(split, store, number)
    if config.data.shuffle_labels:
        stage = stage._replace(
            base=splits.shuffled(stage.base, config.seed),
            novel=tuple(splits.shuffled(m, config.seed) for m in stage.novel),
        )
    return stage


def _trained(b: Bench, last):
    """(draw, outcome) of a finished run, from its checkpoints."""
    for draw in range(len(b.stage.novel)):
        phase = Phase(2, 2, draw)
        _, like = ready(b, phase, initial_vars(b), None)
        with last(phase) as manager:
            number = manager.latest()
            record = manager.metadata(number) if number is not None else {"finished": False}
            if not record["finished"]:
                raise UserError(
                    f"{manager.folder} holds no finished training: run stage 2 first (--run=stage2)"
                )
            state = manager.restore(number, like)
        yield draw, Outcome(state, state.vars, record)


def _report(b: Bench, services: Services, workdir, found, outcomes, started) -> dict:
    """Measures each draw on test; writes scores, plots, results and the table."""
    config, writer, gamma = b.info.config, services.writer, found["gamma"]
    draws, quality, seconds = [], [], {}
    names, is_base = b.info.classes, b.info.is_base
    confusion = np.zeros((len(names), len(names)))
    outcomes = list(outcomes)
    # Beyond what checkpoints vouch for: a later evaluation writes these lines anew.
    at = outcomes[-1][1].record["at"] + 1
    for draw, outcome in outcomes:
        services.stop.check()
        seconds[f"stage2_substage2_draw{draw}"] = outcome.record["seconds"]
        measured = measure(b, outcome.state.vars, draw, gamma)
        scores, members = measured["scores"], measured["members"]
        draws.append(measured["point"]._asdict() | {"AUSUC": measured["AUSUC"]})
        np.savez(
            workdir / f"scores-draw{draw}.npz", scores=scores, labels=members.labels,
            clips=b.feed.store.clip_ids[members.clips], classes=np.array(names), is_base=is_base,
        )
        predicted = metrics.calibrated(scores, is_base, gamma).argmax(-1)
        np.add.at(confusion, (members.labels, predicted), 1)
        writer.scalars(at, {f"test/{k}": v for k, v in draws[-1].items()}, f"draw{draw}", draw=draw)
        curve = metrics.curve(scores, members.labels, is_base)
        chosen = (measured["point"].B, measured["point"].N)
        file = workdir / "plots" / f"curve-draw{draw}.png"
        plots.curve_plot(curve.B, curve.N, chosen, file)
        writer.image(at, f"curve/draw{draw}", file)
        if b.method.generate and config.generator != "none":
            found_quality = generator_quality(b, outcome, draw)
            quality.append(found_quality.report)
            file = workdir / "plots" / f"features-draw{draw}.png"
            plots.features_plot(
                found_quality.real, found_quality.real_labels,
                found_quality.synthetic, found_quality.synthetic_labels, file,
            )
            writer.image(at, f"features/draw{draw}", file)
    file = workdir / "plots" / "confusion.png"
    plots.confusion_plot(confusion, names, file)
    writer.image(at, "confusion", file)
    points = [metrics.Point(**{k: d[k] for k in metrics.Point._fields}) for d in draws]
    test = metrics.aggregate(points, [d["AUSUC"] for d in draws]) | {"draws": draws}
    one, two = found["substage1"], found["substage2"]
    where = "Val of stage 1"
    chosen = {
        "epochs_substage1": {"value": one["epochs"], "on": f"{where}, best B"},
        "epochs_substage2": {"value": two["epochs"], "on": f"{where}, best HM"},
        "rate_cuts_substage1": {"value": one["cuts"], "on": where},
        "rate_cuts_substage2": {"value": two["cuts"], "on": where},
        "gamma": {"value": gamma, "on": f"{where}, {config.eval.calibration}"},
    }
    timing = {"wall_seconds": time.monotonic() - started, **seconds}
    timing |= {f"stage1_substage{i}": s["seconds"] for i, s in ((1, one), (2, two))}
    validation = {"substage1": one["measured"], "substage2": two["measured"]}
    outcome = results.results_json(
        test=test, validation=validation, chosen=chosen, config=plain(config.to_dict()),
        device=devices.describe(), timing=timing, generator=quality,
        data={"store": b.feed.store.name, "classes": len(names)},
    )
    writer.hparams(at, config.to_dict(), {f"test/{k}": test["mean"][k] for k in results.NUMBERS})
    results.write_results(workdir, outcome)
    table = results.table(outcome)
    write_atomically(workdir / "results.md", table)
    writer.text(at, "results", table)
    return outcome
