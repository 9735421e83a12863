"""A against B: paired differences over draws and seeds, with an interval."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from avdiff_jax.cli.configuration import differences
from avdiff_jax.errors import UserError
from avdiff_jax.results.runs import MEASURES, Finished, find, group

LEVEL = 0.95
# Two runs that differ in one of these do not see the same clips.
SAME = ("dataset", "shots", "data.store", "data.split", "data.shuffle_labels", "data.synthetic.")


class Difference(NamedTuple):
    """A - B of one number over n pairs; percentage points.

    interval: of the mean difference, by Student's t; None for a single pair. ahead: pairs in
    which A is larger.
    """

    a: float
    b: float
    mean: float
    interval: tuple[float, float] | None
    ahead: int
    n: int


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference of two lists of numbers, entry by entry."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    d, n = first - second, len(first)
    mean, interval = float(d.mean()), None
    if n > 1:
        half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * d.std(ddof=1) / np.sqrt(n))
        interval = (mean - half, mean + half)
    ahead = int((d > 0).sum())
    return Difference(float(first.mean()), float(second.mean()), mean, interval, ahead, n)


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
    """The runs of equal data set, shots and seed, and a sentence for each run without a partner.

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
        _check_same_data(one, other)
    alone = [
        f"{run.workdir} has no partner and is left out."
        for place, run in [*ours.items(), *theirs.items()]
        if (place in ours) != (place in theirs)
    ]
    return matched, alone


def _by_place(runs: Sequence[Finished]) -> dict[tuple, Finished]:
    out: dict[tuple, Finished] = {}
    for run in runs:
        place = (run.dataset, run.config["shots"], run.config["seed"])
        if place in out:
            raise UserError(
                f"{out[place].workdir} and {run.workdir} are both {_places([place])}: name a "
                "folder that holds one of them"
            )
        out[place] = run
    return out


def _places(places) -> str:
    return "; ".join(f"{dataset} {shots}-shot seed {seed}" for dataset, shots, seed in places)


def _check_same_data(a: Finished, b: Finished) -> None:
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
    """A against B as Markdown, one table for each data set and shots."""
    matched, alone = pairs(a, b)
    places = sorted({(one.dataset, one.config["shots"]) for one, _ in matched})
    parts = [_block(place, matched, names) for place in places]
    several = sorted({dataset for dataset, _ in places})
    hint = [f"{len(several)} data sets; --dataset={several[0]} shows one of them."]
    return "\n\n".join([*parts, *alone, *(hint if len(several) > 1 else [])]) + "\n"


def _block(place: tuple[str, int], matched, names: tuple[str, str]) -> str:
    here = [pair for pair in matched if (pair[0].dataset, pair[0].config["shots"]) == place]
    lines = [
        f"**{place[0]}, {place[1]}-shot: A = {names[0]}, B = {names[1]}**; percent of test",
        "",
        "|  | A | B | A - B | 95 % interval | A ahead |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in MEASURES:
        if not all(name in draw for pair in here for run in pair for draw in run.draws):
            continue
        a, b = ([draw[name] for pair in here for draw in pair[side].draws] for side in (0, 1))
        d = paired(a, b)
        span = "–" if d.interval is None else f"{d.interval[0]:+.2f} to {d.interval[1]:+.2f}"
        lines.append(
            f"| {name} | {d.a:.2f} | {d.b:.2f} | {d.mean:+.2f} | {span} | {d.ahead} of {d.n} |"
        )
    seeds = [str(one.config["seed"]) for one, _ in here]
    draws = len(here[0][0].draws)
    other = sorted({n for one, two in here for n in differences(one.config, two.config)})
    return "\n".join([
        *lines,
        "",
        f"n = {len(here) * draws} pairs: seeds {', '.join(seeds)} x {draws} draws. The interval is "
        "the paired t-interval over these. The draws of a seed share a base model and the test "
        "clips, so that it says little of other clips and is too narrow where seeds differ more "
        "than draws. HM is each draw's own.",
        f"The two differ in: {', '.join(other) or 'nothing'}.",
    ])
