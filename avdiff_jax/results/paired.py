"""A against B: paired differences over class splits, or over draws and seeds, with an interval."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avdiff_jax.cli.configuration import differences
from avdiff_jax.errors import UserError
from avdiff_jax.results.intervals import chance_above_zero, half_interval
from avdiff_jax.results.runs import MEASURES, Finished, find, group
from avdiff_jax.results.text_table import TextTable, plain

# Two runs that differ in one of these do not see the same clips.
SAME = ("dataset", "shots", "data.store", "data.split", "data.shuffle_labels", "data.synthetic.")


class Difference(NamedTuple):
    """A - B of one number over n pairs; percentage points.

    interval: of the mean difference, by Student's t; None for a single pair. ahead: pairs in
    which A is larger. chance: that A is better, 0..1, by the same t-distribution; None for a
    single pair.
    """

    a: float
    b: float
    mean: float
    interval: tuple[float, float] | None
    ahead: int
    n: int
    chance: float | None


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference of two lists of numbers, entry by entry."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    d = first - second
    mean, half = float(d.mean()), half_interval(d)
    interval = None if half is None else (mean - half, mean + half)
    return Difference(
        float(first.mean()), float(second.mean()), mean, interval, int((d > 0).sum()), len(d),
        chance_above_zero(d),
    )


def named(
    name: str, root: str | Path, default: Callable[[str, int], Mapping] = lambda name, shots: {}
) -> list[Finished]:
    """The runs that a folder holds, or those of a row such as avdiff,generator=none below `root`.

    Args:
      default: as `runs.group` takes it.

    Raises:
      UserError: it is neither.
    """
    if Path(name).is_dir():
        return find([name])
    if not Path(root).is_dir():
        raise UserError(f"{name} is no folder, and there is no folder {root} to find a row in")
    cells = group(find([root]), default)
    members_of_row = [run for key, members in cells.items() if key.label == name for run in members]
    if not members_of_row:
        labels = dict.fromkeys(key.label for key in cells)
        raise UserError(f"{name} is neither a folder nor a row below {root}: {'; '.join(labels)}")
    return members_of_row


def of_dataset(runs: Sequence[Finished], name: str) -> list[Finished]:
    """The runs on one data set, by the name that tables call it.

    Raises:
      UserError: none is.
    """
    here = [run for run in runs if run.dataset == name]
    if not here:
        others = ", ".join(sorted({run.dataset for run in runs}))
        raise UserError(f"--dataset={name}: there are runs on {others} only; name one of these")
    return here


def pairs(
    a: Sequence[Finished], b: Sequence[Finished]
) -> tuple[list[tuple[Finished, Finished]], list[str]]:
    """The runs of equal data set, shots, split and seed, and a sentence for each without a
    partner.

    Raises:
      UserError: no pair, or a pair that did not see the same clips in the same draws.
    """
    ours, theirs = _by_place(a), _by_place(b)
    matched = [(ours[place], theirs[place]) for place in sorted(ours) if place in theirs]
    if not matched:
        raise UserError(
            f"nothing to pair: A has {_places(ours)} and B has {_places(theirs)}; run one of them "
            "with the data set, shots and seed of the other"
        )
    for one, other in matched:
        check_same_data(one, other)
    alone = [
        f"{run.workdir} has no partner and is left out."
        for place, run in [*ours.items(), *theirs.items()]
        if (place in ours) != (place in theirs)
    ]
    return matched, alone


def _by_place(runs: Sequence[Finished]) -> dict[tuple, Finished]:
    out: dict[tuple, Finished] = {}
    for run in runs:
        split, seed = run.place
        place = (run.dataset, run.config["shots"], -1 if split is None else split, seed)
        if place in out:
            raise UserError(
                f"{out[place].workdir} and {run.workdir} are both {_places([place])}: name a "
                "folder that holds one of them"
            )
        out[place] = run
    return out


def _places(places) -> str:
    return "; ".join(
        f"{dataset} {shots}-shot{'' if split < 0 else f' split {split}'} seed {seed}"
        for dataset, shots, split, seed in places
    )


def check_same_data(a: Finished, b: Finished) -> None:
    """Refuses two runs on other clips: by configuration, and by what lies in their workdirs."""
    for name, (ours, theirs) in differences(a.config, b.config).items():
        if name.startswith(SAME):
            raise UserError(
                f"{a.workdir} has {name}={ours} and {b.workdir} has {theirs}: only runs on the "
                "same data and split can be paired"
            )
    if len(a.draws) != len(b.draws):
        raise UserError(
            f"{a.workdir} has {len(a.draws)} draws and {b.workdir} has {len(b.draws)}: only runs "
            "over the same draws can be paired"
        )
    files = ["split.json", *(f"scores-draw{i}.npz" for i in range(len(a.draws)))]
    for file in files:
        ours, theirs = _clips(a.workdir / file), _clips(b.workdir / file)
        if ours is not None and theirs is not None and not _equal(ours, theirs):
            raise UserError(
                f"{a.workdir / file} and {b.workdir / file} hold other clips: only runs on the "
                "same split can be paired"
            )


def _clips(path: Path) -> Mapping[str, np.ndarray] | None:
    """What identifies the clips in a file of a workdir; None where there is no such file."""
    if not path.is_file():
        return None
    if path.suffix == ".json":
        return {"text": np.array(path.read_text(encoding="utf-8"))}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in ("clips", "labels", "classes") if name in file}


def _equal(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def report(a: Sequence[Finished], b: Sequence[Finished], names: tuple[str, str]) -> str:
    """A against B, one table for each data set and shots."""
    matched, alone = pairs(a, b)
    places = sorted({(one.dataset, one.config["shots"]) for one, _ in matched})
    parts = [plain(tabulate_place(place, matched, names)) for place in places]
    several = sorted({dataset for dataset, _ in places})
    hint = [f"{len(several)} data sets; --dataset={several[0]} shows one of them."]
    return "\n".join([*parts, *alone, *(hint if len(several) > 1 else [])]).rstrip() + "\n"


def tabulate_place(
    place: tuple[str, int], matched: Sequence[tuple[Finished, Finished]], names: tuple[str, str]
) -> TextTable:
    """A against B on one data set and shots."""
    here = [pair for pair in matched if (pair[0].dataset, pair[0].config["shots"]) == place]
    splits = {one.place[0] for one, _ in here}
    rows = []
    for name in MEASURES:
        if all(name in draw for pair in here for run in pair for draw in run.draws):
            d = paired(*(_values(here, side, name, len(splits) > 1) for side in (0, 1)))
            span = d.interval and f"{d.interval[0]:+.2f} to {d.interval[1]:+.2f}"
            chance = "–" if d.chance is None else f"{100 * d.chance:.1f} %"
            rows.append([name, f"{d.a:.2f}", f"{d.b:.2f}", f"{d.mean:+.2f}", span or "–",
                         f"{d.ahead} of {d.n}", chance])
    other = sorted({n for one, two in here for n in differences(one.config, two.config)})
    return TextTable(
        f"{place[0]}, {place[1]}-shot: A = {names[0]}, B = {names[1]}; percent of test",
        ["", "A", "B", "A - B", "95 % interval", "A ahead", "A is better"], rows,
        notes=[*_explain(here, len(splits)),
               f"The two differ in: {', '.join(other) or 'nothing'}."],
    )


def _values(
    here: Sequence[tuple[Finished, Finished]], side: int, name: str, over_splits: bool
) -> list[float]:
    """The numbers of one side: of each draw; or of each split, averaged over its draws and seeds,
    which share most of what they learned from and are tested on."""
    of_splits: dict[int | None, list[float]] = {}
    for pair in here:
        values = of_splits.setdefault(pair[side].place[0], [])
        values += [draw[name] for draw in pair[side].draws]
    if over_splits:
        return [float(np.mean(values)) for values in of_splits.values()]
    return [value for values in of_splits.values() for value in values]


def _explain(here: Sequence[tuple[Finished, Finished]], splits: int) -> list[str]:
    """What the pairs are, and what the interval says of them."""
    draws, seeds = len(here[0][0].draws), sorted({one.config["seed"] for one, _ in here})
    of_seeds = f"seeds {', '.join(map(str, seeds))} x {draws} draws"
    chance = "The chance that A is better is that of the mean difference above 0, by the same t."
    if splits > 1:
        return [
            f"n = {splits} pairs: class splits, each the mean of {of_seeds}. The interval is the "
            f"paired t-interval over splits. {chance} HM is the mean of the draws' own."
        ]
    return [
        f"n = {len(here) * draws} pairs: {of_seeds}. The interval is the paired t-interval over "
        "these. The draws of a seed share a base model and the test clips, so that it says little "
        "of other clips and is too narrow where seeds differ more than draws: --splits of the "
        f"benchmark tries other classes. {chance} HM is each draw's own."
    ]
