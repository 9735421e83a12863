"""What a finished run is measured by on test, and the models that it leaves."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax import metrics
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import ROLES
from avdiff_jax.inference.model import BASE, NOVEL, Examples, Trained
from avdiff_jax.methods.method import Vars
from avdiff_jax.runtime.hosts import fetch
from avdiff_jax.train.context import Bench, joined, measured_buckets, scored, training_features
from avdiff_jax.train.substage import Outcome


def measure(b: Bench, vars: Vars, members: Members, gamma: float) -> dict:
    """The paper's numbers on test clips, with the scores that they come from."""
    scores = scored(b, vars, members, measured_buckets(b, members, test=True))
    point = metrics.evaluate(scores, members.labels, b.info.is_base, gamma)
    area = metrics.ausuc(scores, members.labels, b.info.is_base)
    return {"point": point, "AUSUC": area, "scores": scores, "members": members}


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
    fake = fetch(b.steps.generate(vars, key, labels))
    members = b.stage.novel[draw]
    real = fetch(b.steps.embed(vars, training_features(b, vars, members)))
    real_labels = members.labels
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


def model_of(b: Bench, outcome: Outcome, draw: int, found: dict) -> Trained:
    """What a draw of a run has made, to be used and enlarged without the store and the split."""
    vars = jax.tree.map(jnp.asarray, fetch(outcome.state.vars))
    kinds = tuple(BASE if base else NOVEL for base in b.info.is_base)
    two = found["substage2"]
    model = Trained(
        info=b.info, kinds=kinds, vars=vars, gamma=found["gamma"],
        temperature=found.get("temperature"), seconds=b.feed.seconds, lengths=b.lengths,
        epochs=two["epochs"], cuts=tuple(two["cuts"]),
    )
    if not b.method.grow:
        return model
    members = joined(b.stage.base, b.stage.novel[draw])
    features = fetch(training_features(b, outcome.state.vars, members))
    examples = Examples(features, members.labels, b.feed.store.clip_ids[members.clips])
    return dataclasses.replace(model, examples=examples)


def numbers(measured: dict) -> dict:
    """B, N, HM, FSL, gamma and AUSUC of what `measure` found."""
    return measured["point"]._asdict() | {"AUSUC": measured["AUSUC"]}


def _aggregate(draws: list[dict]) -> dict:
    """The part `test` of results.json."""
    points = [metrics.Point(**{k: d[k] for k in metrics.Point._fields}) for d in draws]
    return metrics.aggregate(points, [d["AUSUC"] for d in draws]) | {"draws": draws}
