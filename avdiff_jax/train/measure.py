"""What models are measured by on test clips, and the model that a run leaves."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax import metrics
from avdiff_jax.data.clip_source import of_store
from avdiff_jax.data.origin import trace
from avdiff_jax.data.splits.stages import Members, concat_members
from avdiff_jax.data.training_set import Draw, TrainingSet, describe
from avdiff_jax.inference.contents import BASE, NOVEL
from avdiff_jax.inference.model import Examples, Trained
from avdiff_jax.methods.method import Vars
from avdiff_jax.methods.shared.gaussian_head import average_rows
from avdiff_jax.runtime.hosts import fetch
from avdiff_jax.train.context import StageContext, fuse_training_clips
from avdiff_jax.train.records import Stage1Record
from avdiff_jax.train.scoring import Scorer, batch_members, score_members
from avdiff_jax.train.substage import Outcome

# Synthetic features that are made and compared at a time, so that memory does not grow with the
# number of classes.
FEATURES_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """The paper's numbers on test clips, with the scores that they come from. Where all clips are
    of one kind, what needs the other is NaN.

    scores: [n, C], of `members` in their order.
    point: B, N, HM and FSL, in percent, at the calibration value.
    ausuc: the area under the B-N curve, in percent.
    confusion: [C, C] at the calibration value, true class by row.
    """

    members: Members
    scores: np.ndarray
    point: metrics.Point
    ausuc: float
    confusion: np.ndarray

    @property
    def of_both_kinds(self) -> bool:
        """Whether there are clips of base and of novel classes."""
        return not np.isnan(self.ausuc)

    def numbers(self) -> dict[str, float]:
        """Returns B, N, HM, FSL, gamma and AUSUC, as far as they could be measured."""
        found = self.point._asdict() | {"AUSUC": self.ausuc}
        return {name: value for name, value in found.items() if not np.isnan(value)}


def measure_members(
    scorer: Scorer, variables: Vars, members: Members, gamma: float
) -> Measurement:
    """Measures a model on test clips, with `gamma` as it is given."""
    scores = score_members(scorer, variables, members, batch_members(scorer, members, test=True))
    return measure_scores(scores, members, scorer.info.is_base, gamma)


def measure_scores(
    scores: np.ndarray, members: Members, is_base: np.ndarray, gamma: float
) -> Measurement:
    """Measures the scores [n, C] of test clips, with `gamma` as it is given."""
    labels = members.labels
    confusion = np.zeros((len(is_base), len(is_base)), int)
    predicted = metrics.find_leaders(scores, is_base).predict(gamma)
    np.add.at(confusion, (labels, predicted), 1)
    if len({*is_base[labels]}) == 1:
        point, area = metrics.evaluate_kind(scores, labels, is_base, gamma), float("nan")
    else:
        point = metrics.evaluate(scores, labels, is_base, gamma)
        area = metrics.ausuc(scores, labels, is_base)
    return Measurement(members, scores, point, area, confusion)


def aggregate_draws(measurements: Sequence[Measurement]) -> dict:
    """Makes the part `test` of results.json."""
    points, areas = [m.point for m in measurements], [m.ausuc for m in measurements]
    return metrics.aggregate(points, areas) | {"draws": [m.numbers() for m in measurements]}


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratorQuality:
    """Real and synthetic features [n, d] of the novel classes of a draw, with their labels, and
    a report on them."""

    real: np.ndarray
    real_labels: np.ndarray
    synthetic: np.ndarray
    synthetic_labels: np.ndarray
    report: dict[str, float]


def measure_generator(context: StageContext, outcome: Outcome, draw: int) -> GeneratorQuality:
    """Measures how good the generator is: its noise loss (1.0 is what predicting zero gives), the
    norm of synthetic against real features, the variance within classes of both, and how many
    synthetic features the nearest mean of real ones assigns to their own novel class (chance:
    1 / classes)."""
    variables, config = outcome.state.vars, context.info.config
    assert context.generate and context.embed
    novel = np.flatnonzero(~context.info.is_base)
    labels = np.repeat(novel, config.eval.generated)
    key = jax.random.fold_in(jax.random.key(config.seed), draw)
    synthetic = generate_features(context, variables, labels, key)
    members = context.stage.novel[draw]
    features = fuse_training_clips(context, variables, members)
    real = fetch(context.embed(variables, features))
    means = average_rows(real, members.labels, len(context.info.is_base))[novel]
    recognised = novel[find_nearest(synthetic, means)] == labels
    report = {
        "norm_synthetic": float(np.linalg.norm(synthetic, axis=1).mean()),
        "norm_real": float(np.linalg.norm(real, axis=1).mean()),
        "variance_synthetic": measure_variance(synthetic, labels),
        "variance_real": measure_variance(real, members.labels),
        "recognised": float(100 * recognised.mean()),
        "chance": 100 / len(novel),
    }
    last = outcome.record.last or {}
    for name, value in last.items():
        role, _, metric = name.split("/")
        if metric == "noise_loss":
            report[f"noise_loss_{role}"] = value
    return GeneratorQuality(real, members.labels, synthetic, labels, report)


def generate_features(
    context: StageContext, variables: Vars, labels: np.ndarray, key: jax.Array
) -> np.ndarray:
    """Draws a synthetic feature for each label, [n, d], so many at a time."""
    assert context.generate
    at_once = min(len(labels), FEATURES_AT_ONCE)
    parts = np.resize(labels, (-(-len(labels) // at_once), at_once))  # what fills up is cut off
    features = [
        fetch(context.generate(variables, part, jax.random.fold_in(key, i)))
        for i, part in enumerate(parts)
    ]
    return np.concatenate(features)[: len(labels)]


def find_nearest(rows: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Finds which of `means` [C, d] is nearest to each of `rows` [n, d]: its position, [n]."""
    squares = (means**2).sum(1)
    parts = np.array_split(rows, -(-len(rows) // FEATURES_AT_ONCE))
    # |x - m|^2 is |m|^2 - 2 x m and what does not depend on m.
    return np.concatenate([(squares - 2 * part @ means.T).argmin(1) for part in parts])


def measure_overlap(quality: GeneratorQuality) -> float | None:
    """Measures how many synthetic features, in percent, lie where real ones of their class do: no
    farther from its mean than 95 % of all real ones are from the mean of theirs. None where every
    class has a single real one.

    Means of few clips lie nearer to these than the mean of all would; distances are corrected for
    that.
    """
    count = max(quality.real_labels.max(), quality.synthetic_labels.max()) + 1
    clips = np.bincount(quality.real_labels, minlength=count)[quality.real_labels]
    means = average_rows(quality.real, quality.real_labels, count)
    apart = np.square(quality.real - means[quality.real_labels]).sum(1)[clips > 1]
    if not apart.size:
        return None
    reach = np.quantile(apart * (clips / (clips - 1.0))[clips > 1], 0.95)
    distance = np.square(quality.synthetic - means[quality.synthetic_labels]).sum(1)
    return float(100 * (distance <= reach).mean())


def measure_variance(rows: np.ndarray, labels: np.ndarray) -> float:
    """Measures the variance within classes of rows [n, d], averaged over dimensions; 0 where every
    class has a single row."""
    residual = rows - average_rows(rows, labels, labels.max() + 1)[labels]
    freedom = max(len(rows) - len(np.unique(labels)), 1)
    return float(np.square(residual).sum(0).mean() / freedom)


def build_models(
    context: StageContext, outcomes: Sequence[tuple[int, Outcome]], record: Stage1Record
) -> Iterator[Trained]:
    """Builds what each draw of a run has made, to be used and enlarged without the store and the
    split."""
    chosen, base = record.substage2, None
    for draw, outcome in outcomes:
        model = Trained(
            info=context.info,
            kinds=tuple(BASE if is_base else NOVEL for is_base in context.info.is_base),
            vars=jax.tree.map(jnp.asarray, fetch(outcome.state.vars)), gamma=record.gamma,
            temperature=record.temperature, seconds=context.feed.seconds, lengths=context.lengths,
            epochs=chosen.epochs, cuts=chosen.cuts,
            trained_on=describe_training(context, draw), origin=trace(context.feed.store),
        )
        if not context.method.grow:
            yield model
            continue
        variables, novel = outcome.state.vars, context.stage.novel[draw]
        # What stands still in substage 2 fuses the base clips of all draws alike.
        if base is None or not context.uses_cache(2):
            base = fuse_training_clips(context, variables, context.stage.base)
        features = np.concatenate([base, fuse_training_clips(context, variables, novel)])
        members = concat_members(context.stage.base, novel)
        clip_ids = context.feed.store.clip_ids[members.clips]
        yield dataclasses.replace(model, examples=Examples(features, members.labels, clip_ids))


def describe_training(context: StageContext, draw: int) -> TrainingSet:
    """Describes what the model of a draw is trained on."""
    store, novel = context.feed.store, context.stage.novel[draw]
    clips = concat_members(context.stage.base, novel).clips
    prints = np.append(context.base_prints, of_store(store, novel.clips).prints)
    known_by = Draw(context.identity, context.stage.fingerprint, draw)
    return describe(store, clips, prints, known_by)
