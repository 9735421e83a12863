"""Runs that differ in their seed alone, as one: their scores of each clip are averaged."""

from collections.abc import Sequence

import numpy as np

from avdiff_jax import metrics
from avdiff_jax.cli.configuration import differences
from avdiff_jax.cli.home import command
from avdiff_jax.errors import UserError
from avdiff_jax.results.paired import check_same_data
from avdiff_jax.results.runs import Finished


def average_seeds(runs: Sequence[Finished]) -> list[Finished]:
    """Returns the runs with the numbers that the averaged scores of all seeds give, the same for
    each seed of a data set, shots and class split. A seed that is alone there is left out.

    The calibration value is the mean of those that the runs have chosen on their own Val.

    Raises:
      UserError: no two seeds, runs that differ in more than the seed or were measured on other
        clips, files of scores that are missing.
    """
    of_place: dict[tuple, list[Finished]] = {}
    for run in runs:
        of_place.setdefault((run.dataset, run.config["shots"], run.place[0]), []).append(run)
    several = [members for members in of_place.values() if len(members) > 1]
    if not several:
        raise UserError(
            f"{runs[0].workdir} and the other runs of its row have a seed each, so that there is "
            "nothing to average: run the benchmark with several --seeds"
        )
    return [averaged for members in several for averaged in average(members)]


def average(members: Sequence[Finished]) -> list[Finished]:
    """`average_seeds` of runs on one data set, shots and class split."""
    first = members[0]
    for other in members[1:]:
        check_same_data(first, other)
        changed = {*differences(first.config, other.config)} - {"seed"}
        if changed:
            raise UserError(
                f"{first.workdir} and {other.workdir} differ in {', '.join(sorted(changed))}: "
                "only runs that differ in their seed are averaged"
            )
    draws = [measure_average(members, draw) for draw in range(len(first.draws))]
    return [run._replace(results={**run.results, "test": {"draws": draws}}) for run in members]


def measure_average(members: Sequence[Finished], draw: int) -> dict[str, float]:
    """Measures the averaged scores of a draw: B, N, HM, FSL, gamma and AUSUC."""
    scores = []
    for run in members:
        path = run.workdir / f"scores-draw{draw}.npz"
        if not path.is_file():
            raise UserError(f"{path} is missing: write it by `{command('main')} --run=evaluate`")
        with np.load(path, allow_pickle=False) as file:
            scores.append(file["scores"])
            labels, is_base = file["labels"], file["is_base"]
    mean = np.mean(scores, axis=0)
    gamma = float(np.mean([run.draws[draw]["gamma"] for run in members]))
    point = metrics.evaluate(mean, labels, is_base, gamma)
    return {**point._asdict(), "AUSUC": metrics.ausuc(mean, labels, is_base)}
