"""What a run writes about its test: numbers, scores, plots, tables, models, result files."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from avdiff_jax import metrics
from avdiff_jax.cli.alternatives import MARGIN, fill_fields
from avdiff_jax.cli.choices import AUTO
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.splits.stages import SplitOrigin, concat_members
from avdiff_jax.data.store import Store
from avdiff_jax.inference.model import Trained, model_file
from avdiff_jax.io.documents import plain
from avdiff_jax.io.files import draft, write_csv, write_text
from avdiff_jax.methods.method import Info
from avdiff_jax.probabilities import measure_reliability
from avdiff_jax.results import plots, results_json, run_table
from avdiff_jax.results.metrics_log import Writer
from avdiff_jax.results.overview import draw_overview
from avdiff_jax.results.panels import Classes, DrawCurve
from avdiff_jax.runtime import devices
from avdiff_jax.train.announcements import announce_test
from avdiff_jax.train.context import StageContext
from avdiff_jax.train.measure import (
    Measurement,
    aggregate_draws,
    build_models,
    measure_generator,
    measure_members,
    measure_overlap,
)
from avdiff_jax.train.records import Stage1Record
from avdiff_jax.train.substage import Outcome, Services

# --- of a run ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Destination:
    """Where a run tells of its test: files in a folder, and lines of its curves that stand at one
    place, behind all epochs and their steps."""

    folder: Path
    writer: Writer
    line: int
    step: int


def report(
    context: StageContext,
    services: Services,
    folder: Path,
    record: Stage1Record,
    outcomes: Iterable[tuple[int, Outcome]],
    started: float,
) -> dict:
    """Measures each draw on test; writes scores, plots, tables, models, results.

    Args:
      outcomes: (draw, outcome) of each draw.
      started: `time.monotonic()` when the run began.

    Returns:
      the results, as in results.json.
    """
    outcomes = list(outcomes)
    # Beyond what checkpoints vouch for: a later evaluation writes these lines anew.
    run_epochs = outcomes[-1][1].record.run_epochs
    line, step = run_epochs + 1, run_epochs * context.info.config.train.batches
    writer, to = services.writer, Destination(folder, services.writer, line, step)
    # Before all else: whatever a report dies of, the trained models can be read.
    models = []
    for (draw, _), model in zip(outcomes, build_models(context, outcomes, record), strict=True):
        model.save(model_file(folder, draw))
        models.append(model)
    measurements, generators, seconds = [], [], {}
    announce_test(context)
    for (draw, outcome), model in zip(outcomes, models, strict=True):
        services.stop.check()
        seconds[f"stage2_substage2_draw{draw}"] = outcome.record.seconds
        measurements.append(report_draw(context, model, draw, outcome, to))
        if context.method.generate and context.info.config.generator != "none":
            generators.append(report_generator(context, draw, outcome, to))
    confusion = np.sum([m.confusion for m in measurements], axis=0)
    write_confusion(confusion, Classes(context.info.classes, context.info.is_base), folder)
    writer.image(line, "confusion", folder / "plots" / "confusion.png", step)
    timing = {"wall_seconds": time.monotonic() - started, **seconds}
    together = all(outcome.together for _, outcome in outcomes)
    results = collect_results(context, record, measurements, generators, timing, together)
    means = {f"test/{name}": value for name, value in results["test"]["mean"].items()}
    writer.scalars(line, {name: means.pop(name) for name in ("test/B", "test/N")}, step=step)
    writer.hparams(line, results_json.compared_by(results["config"]), means, step)
    table = write_results(folder, results)
    writer.text(line, "results", table)
    writer.image(line, "overview", draw_overview(folder), step)
    return results


def report_draw(
    context: StageContext, model: Trained, draw: int, outcome: Outcome, to: Destination
) -> Measurement:
    """Measures a draw on test; writes its numbers and files."""
    stage, folder = context.stage, to.folder
    members = concat_members(stage.eval_base, stage.eval_novel[draw])
    measurement = measure_members(context, outcome.state.vars, members, model.gamma)
    numbers = {f"test/{name}": value for name, value in measurement.numbers().items()}
    to.writer.scalars(to.line, numbers, f"draw{draw}", step=to.step, draw=draw)
    write_draw(folder, draw, model, measurement, context.feed.store.clip_ids)
    for kind in ("curve", "reliability"):
        file = folder / "plots" / f"{kind}-draw{draw}.png"
        to.writer.image(to.line, kind, file, step=draw)
    return measurement


def report_generator(
    context: StageContext, draw: int, outcome: Outcome, to: Destination
) -> dict[str, float]:
    """Plots real against synthetic features of a draw; returns the report on the generator."""
    quality = measure_generator(context, outcome, draw)
    overlap, report = measure_overlap(quality), dict(quality.report)
    file = to.folder / "plots" / f"features-draw{draw}.png"
    if overlap is not None:
        report["overlap"] = overlap
    plots.features_plot(
        quality.real, quality.real_labels, quality.synthetic, quality.synthetic_labels,
        context.info.classes, f"draw {draw}, {describe_generator(report)}", file,
    )
    to.writer.image(to.line, "features", file, step=draw)
    return report


def describe_generator(report: Mapping[str, float]) -> str:
    """Says in a line how far synthetic features are from real ones."""
    lies = f"{report['overlap']:.0f} % lie where real ones do, " if "overlap" in report else ""
    return (
        f"generated features: {lies}{report['recognised']:.0f} % are recognised (guessing "
        f"{report['chance']:.0f} %); norm {report['norm_synthetic']:.3g}, real "
        f"{report['norm_real']:.3g}; variance within classes {report['variance_synthetic']:.2g}, "
        f"real {report['variance_real']:.2g}"
    )


def collect_results(
    context: StageContext,
    record: Stage1Record,
    measurements: Sequence[Measurement],
    generators: Sequence[dict[str, float]],
    timing: dict[str, float],
    together: bool,
) -> dict:
    """Collects the content of results.json.

    Args:
      together: the draws were trained side by side, which rounds otherwise.
    """
    config, info, where = context.info.config, context.info, "Val of stage 1"
    one, two = record.substage1, record.substage2
    trials = [{**trial.filled, "AUSUC": trial.ausuc} for trial in record.trials]
    asked = fill_fields(config, dict.fromkeys(record.filled, AUTO))
    schedule = {
        "epochs_substage1": {"value": one.epochs, "on": f"{where}, best B"},
        "epochs_substage2": {"value": two.epochs, "on": f"{where}, best HM"},
        "rate_cuts_substage1": {"value": list(one.cuts), "on": where},
        "rate_cuts_substage2": {"value": list(two.cuts), "on": where},
    }
    trains = any(context.method.players(info, substage) for substage in (1, 2))
    chosen = {
        **(schedule if trains else {}),  # a method without steps has nothing to choose there
        "gamma": {"value": record.gamma, "on": f"{where}, {config.eval.calibration}"},
        **{
            name: {"value": value, "on": f"{where}, AUSUC", "margin": MARGIN, "trials": trials}
            for name, value in record.filled.items()
        },
    }
    of_stage1 = {"stage1_substage1": one.seconds, "stage1_substage2": two.seconds}
    return results_json.results_json(
        test=aggregate_draws(measurements),
        validation={"substage1": one.measured, "substage2": two.measured},
        chosen=chosen, config=plain(asked.to_dict()), device=devices.describe(),
        timing=timing | of_stage1, generator=generators,
        data=describe_data(context.feed.store, info, context.stage.origin),
        draws_trained="together" if together else "apart",
    )


def describe_data(data: Store | ClipSource, info: Info, origin: SplitOrigin | None) -> dict:
    """Says what was measured on, `results_json.Data`."""
    said = {"store": data.name, "classes": len(info.classes), "made_up": data.made_up}
    return said | ({"split": origin._asdict()} if origin else {})


# --- files ---------------------------------------------------------------------------------------


def write_results(folder: Path, results: dict) -> str:
    """Writes results.json and results.md; returns the table of the latter."""
    results_json.write_results(folder, results)
    table = run_table.markdown(results)
    write_text(folder / "results.md", table)
    return table


def write_draw(
    folder: Path, draw: int, model: Trained, measurement: Measurement, clip_ids: np.ndarray
) -> None:
    """Writes the scores of a draw, its B-N curve if there are clips of both kinds, how far its
    probabilities can be trusted, and its classes.

    Args:
      clip_ids: of the store that the measured members number.
    """
    info, members, scores = model.info, measurement.members, measurement.scores
    with draft(folder / f"scores-draw{draw}.npz") as scratch:
        np.savez(
            scratch, scores=scores, labels=members.labels, clips=clip_ids[members.clips],
            classes=np.array(info.classes), is_base=info.is_base,
        )
    if measurement.of_both_kinds:
        write_curve(folder, draw, measurement, Classes(info.classes, info.is_base))
    predicted, probability = model.best(scores, 1)
    trust = measure_reliability(probability[:, 0], predicted[:, 0] == members.labels)
    plots.reliability_plot(
        trust, f"draw {draw}", folder / "plots" / f"reliability-draw{draw}.png"
    )
    write_csv(
        folder / f"reliability-draw{draw}.csv", trust._fields[:3], zip(*trust[:3], strict=True)
    )
    write_classes(folder, draw, model, measurement.confusion)


def write_curve(folder: Path, draw: int, measurement: Measurement, classes: Classes) -> None:
    """Writes and plots the B-N curve of a draw."""
    curve = metrics.curve(measurement.scores, measurement.members.labels, classes.is_base)
    drawn = DrawCurve(f"draw {draw}", curve, measurement.point, measurement.ausuc)
    plots.curve_plot(drawn, classes, folder / "plots" / f"curve-draw{draw}.png")
    means = np.asarray(metrics.harmonic_mean(curve.B, curve.N))
    rows = zip(*curve, means, strict=True)
    write_csv(folder / f"curve-draw{draw}.csv", ("gamma", "B", "N", "HM"), rows)


def write_classes(folder: Path, draw: int, model: Trained, confusion: np.ndarray) -> None:
    """Writes the accuracy of each class, and what it is taken for most often."""
    names = model.info.classes
    rows = (
        (name, kind, row.clips, row.accuracy, names[row.taken_for] if row.times else "", row.times)
        for name, kind, row in zip(
            names, model.kinds, metrics.class_table(confusion), strict=True)
    )
    header = ("class", "kind", "clips", "accuracy", "taken_for", "times")
    write_csv(folder / f"classes-draw{draw}.csv", header, rows)


def write_confusion(confusion: np.ndarray, classes: Classes, folder: Path) -> None:
    """Writes the confusion matrix [C, C] of all draws, true class by row."""
    plots.confusion_plot(confusion, classes, folder / "plots" / "confusion.png")
    rows = ((name, *row.tolist()) for name, row in zip(classes.names, confusion, strict=True))
    write_csv(folder / "confusion.csv", ("true", *classes.names), rows)
