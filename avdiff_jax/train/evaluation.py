"""What a finished run is measured by on test: numbers, scores, plots, the result files."""

import time
from typing import NamedTuple

import jax
import numpy as np

from avdiff_jax import devices, metrics, plots, results
from avdiff_jax.data.batches import ROLES
from avdiff_jax.data.drafts import draft
from avdiff_jax.data.splits import Members
from avdiff_jax.files import plain, write_atomically
from avdiff_jax.hosts import fetch
from avdiff_jax.methods.method import Vars
from avdiff_jax.train.stage import Bench, joined, measured_buckets, scored, training_clips
from avdiff_jax.train.substage import Outcome, Services
from avdiff_jax.writer import Writer


def measure(b: Bench, vars: Vars, draw: int, gamma: float) -> dict:
    """The paper's numbers on test for one draw, with the scores that they come from."""
    members = joined(b.stage.eval_base, b.stage.eval_novel[draw])
    scores = scored(b, vars, members, measured_buckets(b, members, test=True))
    point = metrics.evaluate(scores, members.labels, b.info.is_base, gamma)
    area = metrics.ausuc(scores, members.labels, b.info.is_base)
    return {"point": point, "AUSUC": area, "scores": scores, "members": members}


def embedded(b: Bench, vars: Vars, members: Members) -> tuple[np.ndarray, np.ndarray]:
    """Real features [n, d] of training clips in the space of `Method.generate`, and labels."""

    @jax.jit
    def embed(vars, batch):
        shared, _ = b.method.features(b.info, vars, batch, jax.random.key(0), False)
        return b.method.embed(b.info, vars, shared)

    rows, labels = [], []
    for batch in training_clips(b, (members,))():
        found, weight, label = fetch((embed(vars, batch), batch.weight, batch.label))
        rows.append(found[weight > 0])
        labels.append(label[weight > 0])
    return np.concatenate(rows), np.concatenate(labels)


class Quality(NamedTuple):
    """Real and synthetic features of the novel classes of a draw, and a report on them."""

    real: np.ndarray
    real_labels: np.ndarray
    synthetic: np.ndarray
    synthetic_labels: np.ndarray
    report: dict


def generator_quality(b: Bench, outcome: Outcome, draw: int) -> Quality:
    """How good the generator is: its noise loss (1.0 is what predicting zero gives), the norm of
    synthetic against real features, and how many synthetic features the nearest mean of real
    ones assigns to their own novel class (chance: 1 / classes)."""
    vars, config = outcome.state.vars, b.info.config
    novel = np.flatnonzero(~b.info.is_base)
    labels = np.repeat(novel, config.eval.generated)
    key = jax.random.fold_in(jax.random.key(config.seed), draw)
    generate = jax.jit(lambda vars, key, labels: b.method.generate(b.info, vars, key, labels))
    fake = fetch(generate(vars, key, labels))
    real, real_labels = embedded(b, vars, b.stage.novel[draw])
    means = np.stack([real[real_labels == c].mean(0) for c in novel])
    distance = ((fake[:, None] - means[None]) ** 2).sum(-1)
    last = outcome.record["last"] or {}
    report = {
        "norm_synthetic": float(np.linalg.norm(fake, axis=1).mean()),
        "norm_real": float(np.linalg.norm(real, axis=1).mean()),
        "recognised": float(100 * (novel[distance.argmin(1)] == labels).mean()),
        "chance": 100 / len(novel),
    }
    for role in ROLES:
        if f"{role}/main/noise_loss" in last:
            report[f"noise_loss_{role}"] = last[f"{role}/main/noise_loss"]
    return Quality(real, real_labels, fake, labels, report)


def report(b: Bench, services: Services, workdir, found, outcomes, started) -> dict:
    """Measures each draw on test; writes scores, plots, results and the table.

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
        measured = measure(b, outcome.state.vars, draw, found["gamma"])
        draws.append(measured["point"]._asdict() | {"AUSUC": measured["AUSUC"]})
        writer.scalars(at, {f"test/{k}": v for k, v in draws[-1].items()}, f"draw{draw}", draw=draw)
        confusions.append(_draw_files(b, writer, workdir, at, draw, measured))
        if b.method.generate and b.info.config.generator != "none":
            quality.append(_generator_files(b, writer, workdir, at, draw, outcome))
    file = workdir / "plots" / "confusion.png"
    plots.confusion_plot(sum(confusions), b.info.classes, file)
    writer.image(at, "confusion", file)
    timing = {"wall_seconds": time.monotonic() - started, **seconds}
    outcome = _results(b, found, draws, quality, timing)
    config = b.info.config.to_dict()
    numbers = {f"test/{k}": outcome["test"]["mean"][k] for k in results.NUMBERS}
    writer.hparams(at, config, numbers)
    results.write_results(workdir, outcome)
    table = results.table(outcome)
    write_atomically(workdir / "results.md", table)
    writer.text(at, "results", table)
    return outcome


def _draw_files(b: Bench, writer: Writer, workdir, at: int, draw: int, measured) -> np.ndarray:
    """Writes the scores of a draw and its B-N curve; returns its confusion matrix [C, C]."""
    scores, members, point = measured["scores"], measured["members"], measured["point"]
    names, is_base = b.info.classes, b.info.is_base
    with draft(workdir / f"scores-draw{draw}.npz") as made:
        np.savez(
            made, scores=scores, labels=members.labels,
            clips=b.feed.store.clip_ids[members.clips], classes=np.array(names), is_base=is_base,
        )
    curve = metrics.curve(scores, members.labels, is_base)
    file = workdir / "plots" / f"curve-draw{draw}.png"
    plots.curve_plot(curve.B, curve.N, (point.B, point.N), file)
    writer.image(at, f"curve/draw{draw}", file)
    predicted = metrics.calibrated(scores, is_base, point.gamma).argmax(-1)
    confusion = np.zeros((len(names), len(names)))
    np.add.at(confusion, (members.labels, predicted), 1)
    return confusion


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
    points = [metrics.Point(**{k: d[k] for k in metrics.Point._fields}) for d in draws]
    test = metrics.aggregate(points, [d["AUSUC"] for d in draws]) | {"draws": draws}
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
    return results.results_json(
        test=test, validation={"substage1": one["measured"], "substage2": two["measured"]},
        chosen=chosen, config=plain(config.to_dict()), device=devices.describe(), timing=timing,
        generator=quality, data={"store": b.feed.store.name, "classes": len(b.info.classes)},
    )
