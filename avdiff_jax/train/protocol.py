"""The whole experiment (Section 3.2 and 4 of the paper): data, stage 1, stage 2, test, results."""

import json
import pathlib
import time

import jax
import numpy as np

from avdiff_jax import devices, metrics, plots, results
from avdiff_jax.checkpoint import Checkpoints
from avdiff_jax.data import splits, synthetic
from avdiff_jax.data.batches import Feed
from avdiff_jax.data.store import Store, open_store
from avdiff_jax.errors import UserError
from avdiff_jax.files import plain, write_atomically
from avdiff_jax.methods import method as find_method
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
        for name, (ours, theirs) in _differences(wanted, there).items():
            raise UserError(
                f"{workdir} was begun with {name}={theirs}, now it is {ours}: use the same "
                "configuration, or another --workdir"
            )
        return
    if resume:
        raise UserError(f"{workdir} holds no run to go on with: leave out --resume")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(wanted, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to --workdir={workdir}: {error.strerror}") from error


def _differences(ours: dict, theirs: dict, prefix: str = "") -> dict:
    found = {}
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = (a, b)
    return found


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
            split = splits.from_store(
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
    chosen_method = find_method(config.method)
    resume = resume or what in ("stage2", "evaluate")
    mesh = devices.mesh()
    devices.check_divides(config.train.batch, mesh, "train.batch")
    devices.check_divides(config.eval.batch, mesh, "eval.batch")
    if not config.data.synthetic.classes or config.data.store:
        data(config, workdir)  # complain before anything is written
    claim(workdir, config, resume)
    store, split = data(config, workdir)
    feed = Feed(store, mesh, config.data.residence)
    print(f"device: {devices.describe()}; features {'streamed' if feed.streamed else 'resident'}")
    last, best = checkpoints(workdir)
    writer = Writer.open_at(workdir, committed(last)) if resume else Writer(workdir)
    with writer, Stop().listening() as stop:
        services = Services(writer, last, best, stop)
        record_path = workdir / "stage1.json"
        if what in ("all", "stage1") and not record_path.exists():
            one = bench(config, chosen_method, feed, _stage(config, split, store, 1), 1)
            found = stage1(one, services)
            write_atomically(record_path, json.dumps(found, indent=2, sort_keys=True) + "\n")
        if not record_path.exists():
            raise UserError(f"{record_path} does not exist: run stage 1 first (--run=stage1)")
        found = json.loads(record_path.read_text())
        if what == "stage1":
            return None
        two = bench(config, chosen_method, feed, _stage(config, split, store, 2), 2)
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
    draws, quality, at, seconds = [], [], found["at"], {}
    names, is_base = b.info.classes, b.info.is_base
    confusion = np.zeros((len(names), len(names)))
    for draw, outcome in outcomes:
        at = outcome.record["at"]
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
    )
    writer.hparams(at, config.to_dict(), {f"test/{k}": test["mean"][k] for k in results.NUMBERS})
    results.write_results(workdir, outcome)
    table = results.table(outcome)
    write_atomically(workdir / "results.md", table)
    writer.text(at, "results", table)
    return outcome
