"""What a run writes about its test: numbers, scores, plots, tables, result files."""

import time
from collections.abc import Mapping

import jax
import numpy as np

from avdiff_jax import metrics
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits import stages
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.store import Store
from avdiff_jax.errors import UserError
from avdiff_jax.inference.model import Trained, model_file
from avdiff_jax.io.documents import plain
from avdiff_jax.io.files import draft, write_csv, write_text
from avdiff_jax.results import plots, results_json
from avdiff_jax.results.metrics_log import Writer
from avdiff_jax.runtime import devices
from avdiff_jax.train.context import Bench, joined
from avdiff_jax.train.measure import _aggregate, generator_quality, measure, model_of, numbers
from avdiff_jax.train.step import compiled
from avdiff_jax.train.substage import Services


def evaluate(models: Mapping[int, Trained], store: Store, split: dict | None, folder):
    """Measures finished models by draw; writes the files that a run writes about its test.

    Args:
      split: names the test clips of each draw; without one they are all clips of the store but
        those that a model was trained on.
      folder: made if missing.

    Returns:
      the results, as in results.json.

    Raises:
      UserError: clips of unknown classes or none to test on, or a folder that cannot be made.
    """
    started, draws, confusions = time.monotonic(), [], []
    tested = {draw: _tested(model, store, split, draw) for draw, model in models.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    for draw, model in models.items():
        feed = Feed(store, devices.mesh(), model.info.config.data.residence)
        devices.check_divides(model.info.config.eval.batch, feed.mesh, "eval.batch")
        b = Bench(
            number=2, stage=None,  # nothing is trained here
            method=model.method, info=model.info, feed=feed, lengths=model.lengths,
            steps=compiled(model.method, model.info, feed, model.lengths),
        )
        vars = jax.device_put(model.vars, devices.replicated(feed.mesh))
        measured = measure(b, vars, tested[draw], model.gamma)
        draws.append(numbers(measured))
        confusions.append(draw_files(b, model, folder, draw, measured))
    confusion_files(sum(confusions), model.info.classes, folder)
    outcome = results_json.results_json(
        test=_aggregate(draws), validation={},
        chosen={"gamma": {"value": model.gamma, "on": "Val of the run, unless --gamma was given"}},
        config=plain(model.info.config.to_dict()), device=devices.describe(),
        timing={"wall_seconds": time.monotonic() - started},
        data={"store": store.name, "classes": len(model.info.classes)},
    )
    results_json.write_results(folder, outcome)
    write_text(folder / "results.md", results_json.table(outcome))
    return outcome


def _tested(model: Trained, store: Store, split: dict | None, draw: int) -> Members:
    """Test clips, labelled as the model numbers its classes."""
    if split is None:
        trained_on = model.examples.clips if model.examples else ()
        clips = np.flatnonzero(~np.isin(store.clip_ids, trained_on))
        names, labels = store.class_names, store.labels[clips]
    else:
        stage = stages.stage(split, store, 2)
        clips, labels = joined(stage.eval_base, stage.eval_novel[draw])
        names = stage.class_names
    number = {name.casefold(): i for i, name in enumerate(model.info.classes)}
    used = [names[label] for label in np.unique(labels)]
    if unknown := [str(name) for name in used if name.casefold() not in number]:
        raise UserError(
            f"the model does not know {unknown[0]!r} ({len(unknown)} of the {len(used)} classes to "
            f"test, which {store.path} has): add it with launch/add_class.py, or name another "
            "store or split"
        )
    labels = np.array([number.get(name.casefold(), -1) for name in names], np.int32)[labels]
    base = int(model.info.is_base[labels].sum())
    if not 0 < base < len(labels):
        raise UserError(
            f"there are {base} test clips of base and {len(labels) - base} of novel classes in "
            f"{store.path}, but both kinds are needed: name another store or split"
        )
    return Members(clips, labels)


def report(b: Bench, services: Services, workdir, found, outcomes, started) -> dict:
    """Measures each draw on test; writes scores, plots, tables, models, results.

    Args:
      found: the record of stage 1.
      outcomes: (draw, outcome) of each draw.
      started: `time.monotonic()` when the run began.

    Returns:
      the results, as in results.json.
    """
    writer = services.writer
    draws, quality, confusions, seconds = [], [], [], {}
    outcomes = list(outcomes)
    # Beyond what checkpoints vouch for: a later evaluation writes these lines anew.
    at = outcomes[-1][1].record["at"] + 1
    for draw, outcome in outcomes:
        services.stop.check()
        seconds[f"stage2_substage2_draw{draw}"] = outcome.record["seconds"]
        members = joined(b.stage.eval_base, b.stage.eval_novel[draw])
        measured = measure(b, outcome.state.vars, members, found["gamma"])
        draws.append(numbers(measured))
        writer.scalars(at, {f"test/{k}": v for k, v in draws[-1].items()}, f"draw{draw}", draw=draw)
        model = model_of(b, outcome, draw, found)
        model.save(model_file(workdir, draw))
        confusions.append(draw_files(b, model, workdir, draw, measured))
        for kind in ("curve", "reliability"):
            writer.image(at, f"{kind}/draw{draw}", workdir / "plots" / f"{kind}-draw{draw}.png")
        if b.method.generate and b.info.config.generator != "none":
            quality.append(_generator_files(b, writer, workdir, at, draw, outcome))
    confusion_files(sum(confusions), b.info.classes, workdir)
    writer.image(at, "confusion", workdir / "plots" / "confusion.png")
    timing = {"wall_seconds": time.monotonic() - started, **seconds}
    outcome = _results(b, found, draws, quality, timing)
    config = b.info.config.to_dict()
    means = {f"test/{k}": outcome["test"]["mean"][k] for k in results_json.NUMBERS}
    writer.hparams(at, config, means)
    results_json.write_results(workdir, outcome)
    table = results_json.table(outcome)
    write_text(workdir / "results.md", table)
    writer.text(at, "results", table)
    return outcome


def draw_files(b: Bench, model: Trained, folder, draw: int, measured) -> np.ndarray:
    """Writes the scores of a draw, its classes, its B-N curve and how far its probabilities can be
    trusted; returns its confusion matrix [C, C] at the calibration value."""
    scores, members, point = measured["scores"], measured["members"], measured["point"]
    names, is_base, labels = b.info.classes, b.info.is_base, measured["members"].labels
    with draft(folder / f"scores-draw{draw}.npz") as made:
        np.savez(
            made, scores=scores, labels=labels, clips=b.feed.store.clip_ids[members.clips],
            classes=np.array(names), is_base=is_base,
        )
    curve = metrics.curve(scores, labels, is_base)
    hm = metrics.harmonic_mean(curve.B, curve.N)
    plots.curve_plot(
        curve.B, curve.N, (point.B, point.N), folder / "plots" / f"curve-draw{draw}.png"
    )
    write_csv(
        folder / f"curve-draw{draw}.csv", ("gamma", "B", "N", "HM"), zip(*curve, hm, strict=True)
    )
    trust = metrics.reliability(model.probabilities(scores), labels)
    plots.reliability_plot(*trust, folder / "plots" / f"reliability-draw{draw}.png")
    write_csv(
        folder / f"reliability-draw{draw}.csv", trust._fields[:3], zip(*trust[:3], strict=True)
    )
    predicted = metrics.calibrated(scores, is_base, point.gamma).argmax(-1)
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, predicted), 1)
    write_csv(
        folder / f"classes-draw{draw}.csv",
        ("class", "kind", "clips", "accuracy", "taken_for", "times"),
        ((name, kind, row.clips, row.accuracy, names[row.taken_for] if row.times else "", row.times)
         for name, kind, row in zip(
             names, model.kinds, metrics.class_table(confusion), strict=True)),
    )
    return confusion


def confusion_files(confusion: np.ndarray, names, folder) -> None:
    """Writes the confusion matrix [C, C] of all draws, true class by row."""
    plots.confusion_plot(confusion, names, folder / "plots" / "confusion.png")
    rows = ((name, *row) for name, row in zip(names, confusion.tolist(), strict=True))
    write_csv(folder / "confusion.csv", ("true", *names), rows)


def _generator_files(b: Bench, writer: Writer, workdir, at: int, draw: int, outcome) -> dict:
    """Plots real against synthetic features of a draw; returns the report on the generator."""
    found = generator_quality(b, outcome, draw)
    file = workdir / "plots" / f"features-draw{draw}.png"
    plots.features_plot(
        found.real, found.real_labels, found.synthetic, found.synthetic_labels, file
    )
    writer.image(at, f"features/draw{draw}", file)
    return found.report


def _results(b: Bench, found: dict, draws: list, quality: list, timing: dict) -> dict:
    """The content of results.json."""
    config = b.info.config
    one, two = found["substage1"], found["substage2"]
    where = "Val of stage 1"
    chosen = {
        "epochs_substage1": {"value": one["epochs"], "on": f"{where}, best B"},
        "epochs_substage2": {"value": two["epochs"], "on": f"{where}, best HM"},
        "rate_cuts_substage1": {"value": one["cuts"], "on": where},
        "rate_cuts_substage2": {"value": two["cuts"], "on": where},
        "gamma": {"value": found["gamma"], "on": f"{where}, {config.eval.calibration}"},
    }
    timing |= {f"stage1_substage{i}": s["seconds"] for i, s in ((1, one), (2, two))}
    return results_json.results_json(
        test=_aggregate(draws),
        validation={"substage1": one["measured"], "substage2": two["measured"]},
        chosen=chosen, config=plain(config.to_dict()), device=devices.describe(), timing=timing,
        generator=quality, data={"store": b.feed.store.name, "classes": len(b.info.classes)},
    )
