"""Finished runs: which there are below a folder, and which row of a table each belongs to."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avdiff_jax.cli.choices import OF_WORD
from avdiff_jax.cli.configuration import LATER, flat
from avdiff_jax.errors import UserError
from avdiff_jax.methods import METHODS
from avdiff_jax.results.intervals import half_interval
from avdiff_jax.results.results_json import NUMBERS, ablation, dataset, read_results

MEASURES = (*NUMBERS, "AUSUC")
Setting = tuple[tuple[str, str], ...]  # what departs from the usual: (("generator", "none"),)

# The rows that the benchmark never leaves out: every method, controls (ncm, linear) among them, and
# AV-Diff without its generator or with a Gaussian around each class mean in its place.
CONTROLS: tuple[tuple[str, Setting], ...] = (
    ("avdiff", (("generator", "none"),)),
    ("avdiff", (("generator", "gaussian"),)),
)
ROWS = (*((name, ()) for name in METHODS), *CONTROLS)


class Key(NamedTuple):
    """The row of a table that a run belongs to; runs that share it differ in their seed and in the
    seed of their split only."""

    dataset: str
    shots: int
    method: str
    setting: Setting = ()

    @property
    def label(self) -> str:
        """As one writes it in a command: avdiff,generator=none."""
        return ",".join([self.method, *(f"{name}={value}" for name, value in self.setting)])


class Finished(NamedTuple):
    """A workdir with a results.json, and what that says."""

    workdir: Path
    results: Mapping

    @property
    def config(self) -> Mapping:
        """The configuration, nested."""
        return self.results["config"]

    @property
    def dataset(self) -> str:
        """As tables call it."""
        return dataset(self.config)

    @property
    def draws(self) -> Sequence[Mapping]:
        """The numbers of each draw of the few shots."""
        return self.results["test"]["draws"]

    @property
    def origin(self) -> Mapping:
        """Where its split comes from, by the fields of `SplitOrigin`; empty where earlier code has
        not kept it."""
        return self.results.get("data", {}).get("split", {})

    @property
    def departures(self) -> dict[str, str]:
        """The choices that are not the usual ones, and how its numbers were made transductive."""
        made = self.results.get("transductive")
        return ablation(self.config) | ({"transductive": made} if made else {})

    @property
    def place(self) -> tuple[int | None, int]:
        """Which repetition of an experiment it is: seeds of the split and of the run."""
        return self.origin.get("seed"), self.config["seed"]


class Summary(NamedTuple):
    """Runs of one row over their class splits and seeds, in percent.

    mean: over splits, seeds averaged first, of the paper's aggregate (HM is that of the mean B and
      mean N of a run).
    spread: over several splits half of the 95 % interval of the mean; else the sample standard
      deviation over the draws of all seeds; empty for a single draw.
    splits, runs, draws: how many splits there are, runs in all, and draws in each.
    """

    mean: dict[str, float]
    spread: dict[str, float]
    splits: int
    runs: int
    draws: int
    seconds: float


def summary(runs: Sequence[Finished]) -> Summary:
    """The runs of one row as one.

    `seconds` is the mean wall time of a run. A resumed run knows the time of its last session and
    of each phase; the larger of the former and the sum of the latter counts.
    """
    tests = [run.results["test"] for run in runs]
    names = [name for name in MEASURES if all(name in test["mean"] for test in tests)]
    of_splits: dict[int | None, list[Finished]] = {}
    for run in runs:
        of_splits.setdefault(run.place[0], []).append(run)
    means = {
        name: [
            float(np.mean([run.results["test"]["mean"][name] for run in members]))
            for members in of_splits.values()
        ]
        for name in names
    }
    draws = [draw for run in runs for draw in run.draws]
    if len(of_splits) > 1:
        spread = {name: half_interval(values) or 0.0 for name, values in means.items()}
    elif len(draws) > 1:
        spread = {name: float(np.std([draw[name] for draw in draws], ddof=1)) for name in names}
    else:
        spread = {}
    return Summary(
        {name: float(np.mean(values)) for name, values in means.items()}, spread,
        len(of_splits), len(runs), len(draws) // len(runs),
        float(np.mean([_seconds(run.results["timing"]) for run in runs])),
    )


def _seconds(timing: Mapping[str, float]) -> float:
    phases = sum(value for name, value in timing.items() if name != "wall_seconds")
    return max(timing.get("wall_seconds", 0.0), phases)


def find(folders: Iterable[str | Path]) -> list[Finished]:
    """Every finished run at or below the folders, by path; the controls of a run, which lie in its
    workdir, are no runs of their own.

    Raises:
      UserError: no such folder, nothing finished below one, or a results.json of something else.
    """
    workdirs: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name the workdirs of runs or a folder of them")
        here = sorted(folder.rglob("results.json"))
        if not here:
            raise UserError(f"no results.json at or below {folder}: finish a run there first")
        folders_of_runs = {path.parent for path in here}
        workdirs |= {path.resolve(): path.parent for path in here
                     if folders_of_runs.isdisjoint(path.parent.parents)}
    return [Finished(workdir, read_results(workdir)) for _, workdir in sorted(workdirs.items())]


def group(
    runs: Iterable[Finished], default: Callable[[str, int], Mapping] = lambda name, shots: {}
) -> dict[Key, list[Finished]]:
    """Runs by row; a row holds one run for each seed of each split, in their order.

    Splits that differ in their seed alone are repetitions (`SplitOrigin`), whatever their files are
    called. What the paper's tables vary (`choices.OF_WORD`) makes a row, and so do transductive
    numbers and any other field in which a run departs from the usual, such as diffusion.steps. The
    usual value is the one that most runs of the same data set, shots, method and choices have;
    where several are as frequent, the one of most runs of the data set and shots, then the one of
    `default`, then the smallest.

    Args:
      default: the configuration that a file has, by its field dataset and the shots; {} if unknown.
    """
    rows: dict[Key, list[Finished]] = {}
    everything: dict[tuple, list[dict]] = {}
    for run in runs:
        place = (run.dataset, run.config["shots"])
        key = Key(*place, run.config["method"], tuple(sorted(run.departures.items())))
        rows.setdefault(key, []).append(run)
        everything.setdefault(place, []).append(_other_fields(run))
    out: dict[Key, dict[tuple, Finished]] = {}
    for key, members in rows.items():
        usual = _usual(
            [_other_fields(run) for run in members], everything[key.dataset, key.shots],
            flat(default(members[0].config["dataset"], key.shots)),
        )
        for run in members:
            fields = _other_fields(run)
            extra = tuple((n, str(v)) for n, v in sorted(fields.items()) if v != usual.get(n))
            full = key._replace(setting=key.setting + extra)
            # The same configuration and seed twice is the same run: the first one found stands.
            out.setdefault(full, {}).setdefault(run.place, run)
    ordered = sorted(out, key=_order)
    return {
        key: sorted(out[key].values(), key=lambda run: (run.place[0] or 0, run.place[1]))
        for key in ordered
    }


def _other_fields(run: Finished) -> dict[str, object]:
    """The fields that neither the repetition nor the parts of a plain key account for; in place of
    the file of a split stands what kind of split it is, where the run has kept that."""
    named = {"seed", "dataset", "shots", "method"}
    named |= {choice.field for choice in OF_WORD.values()}
    every = LATER | flat(run.config)
    fields = {name: value for name, value in every.items() if name not in named}
    if run.origin.get("seed") is not None:
        sizes = "-".join(map(str, run.origin["sizes"]))
        fields["data.split"] = f"{run.origin['name']}-by-{run.origin['by']}-{sizes}"
    return fields


def _usual(members: list[dict], everything: list[dict], default: Mapping) -> dict[str, object]:
    out = {}
    for name in {name for fields in members for name in fields}:
        near = Counter(repr(fields.get(name)) for fields in members)
        far = Counter(repr(fields.get(name)) for fields in everything)
        values = {repr(fields.get(name)): fields.get(name) for fields in members}
        candidates = sorted(values, key=lambda text: (len(text), text))
        out[name] = values[
            max(
                candidates,
                key=lambda text: (near[text], far[text], text == repr(default.get(name))),
            )
        ]
    return out


def _order(key: Key):
    """The data sets by name, the methods as in the table of methods."""
    names = list(METHODS)
    place = names.index(key.method) if key.method in names else len(names)
    return key.dataset, key.shots, place, key.method, len(key.setting), key.setting
