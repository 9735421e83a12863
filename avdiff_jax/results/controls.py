"""A method beside its controls on the same clips: one table and one honest sentence."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from avdiff_jax import metrics
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.results import text_table
from avdiff_jax.results.results_json import ablation
from avdiff_jax.results.run_table import COLUMNS, write_numbers
from avdiff_jax.results.runs import Finished, Key, summary
from avdiff_jax.results.text_table import TextTable

LEVEL = 0.5  # percent of HM: what is nearer than that is level, however many test clips there are
ROUNDING = 1e-6  # percent; a clip more in every draw must not count as more than a clip


class ClipWeight(NamedTuple):
    """What one test clip may change, in percent of the mean over classes."""

    B: float
    N: float


def weigh_clip(split: Split) -> ClipWeight:
    """The weight of a test clip of the class that has fewest, among base and among novel ones."""
    tested = (split["sets"]["test_base"], split["sets"]["test_novel"][0])
    return ClipWeight(*(100 / (len(clips) * min(map(len, clips.values()))) for clips in tested))


class Comparison(NamedTuple):
    """What came of it; `best` has the highest HM."""

    table: TextTable
    sentence: str
    best: Finished

    def __str__(self):
        return f"{text_table.plain(self.table)}\n{self.sentence}"

    def markdown(self) -> str:
        """The same as a file."""
        return f"{text_table.markdown(self.table)}\n{self.sentence}\n"


def compare(
    runs: Sequence[Finished], weight: ClipWeight, notes: Sequence[str] = ()
) -> Comparison:
    """Compares the first of `runs`, the method, with its controls, which are the others.

    Args:
      runs: on the same split; two at least.
      weight: of a test clip of that split.
      notes: lines below the table.
    """
    method = runs[0]
    best = max(runs, key=harmonic_mean)  # of equals the method
    rows = [[label(run), *write_numbers(run.results["test"]), f"{summary([run]).seconds / 60:.1f}"]
            for run in runs]
    table = TextTable(
        title=f"{method.dataset}, {method.config['shots']}-shot: test, percent, mean ± std of "
              f"{len(method.draws)} draws of the shots",
        heads=["", *COLUMNS, "minutes"], rows=rows, notes=[*explain_mean(runs), *notes])
    return Comparison(table, judge(runs, weight), best)


def explain_mean(runs: Sequence[Finished]) -> list[str]:
    """Says that HM is no mean of the draws' own, where there are several draws."""
    if len(runs[0].draws) < 2:
        return []
    means = ", ".join(f"{run.results['test']['mean_of_hm']:.2f} ({label(run)})" for run in runs)
    return [f"HM is that of the mean B and mean N, as in the paper; the mean of the draws' own HM "
            f"is {means}."]


def judge(runs: Sequence[Finished], weight: ClipWeight) -> str:
    """Says whether the method, the first of `runs`, is ahead of the best control or behind it, by
    HM, and in how many draws; or which runs are level."""
    method, *controls = runs
    control = max(controls, key=harmonic_mean)
    ahead, behind = order(method, control)
    if why := find_level(ahead, behind, weight):
        level = [method, *(run for run in controls if find_level(ahead, run, weight))]
        every = f"all {len(runs)} rows, " if len(level) == len(runs) > 2 else ""
        return (f"On your clips {every}{enumerate_words(map(label, level))} are level: HM "
                f"{enumerate_words(f'{harmonic_mean(run):.1f}' for run in level)}, {why}.")
    return (f"On your clips {label(ahead)} is ahead of {label(behind)} by "
            f"{harmonic_mean(ahead) - harmonic_mean(behind):.1f} HM, in "
            f"{count_ahead(ahead, behind)} of {len(ahead.draws)} draws; use it with "
            f"--model={ahead.workdir}")


def order(one: Finished, other: Finished) -> tuple[Finished, Finished]:
    """Both, the one with the higher HM first."""
    return (other, one) if harmonic_mean(other) > harmonic_mean(one) else (one, other)


def find_level(ahead: Finished, behind: Finished, weight: ClipWeight) -> str:
    """Why two runs are level, nothing where they are not: they lie near each other, one test clip
    a draw makes up for what lies between them, or the one ahead in the mean is not so in most
    draws."""
    gap, moved = harmonic_mean(ahead) - harmonic_mean(behind), move_by_clip(behind, weight)
    if gap < LEVEL:
        return f"nearer than {LEVEL}"
    if gap <= moved + ROUNDING:
        return f"no farther apart than one test clip a draw may move it ({moved:.1f})"
    times = count_ahead(ahead, behind)
    if 2 * times <= len(ahead.draws):
        return f"{label(ahead)} ahead in {times} of {len(ahead.draws)} draws"
    return ""


def move_by_clip(run: Finished, weight: ClipWeight) -> float:
    """How far HM rises where in every draw one more test clip is named right."""
    mean = run.results["test"]["mean"]
    base, novel = mean["B"], mean["N"]
    risen = (metrics.harmonic_mean(min(100.0, base + weight.B), novel),
             metrics.harmonic_mean(base, min(100.0, novel + weight.N)))
    return float(max(risen)) - harmonic_mean(run)


def count_ahead(ahead: Finished, behind: Finished) -> int:
    """In how many draws a run has the higher HM."""
    pairs = zip(ahead.draws, behind.draws, strict=True)
    return sum(one["HM"] > other["HM"] for one, other in pairs)


def enumerate_words(words: Iterable[str]) -> str:
    """a, b and c."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def harmonic_mean(run: Finished) -> float:
    """HM of a run, in percent."""
    return run.results["test"]["mean"]["HM"]


def label(run: Finished) -> str:
    """The method and what departs from its usual form: avdiff,generator=none."""
    config = run.config
    return Key("", config["shots"], config["method"], tuple(ablation(config).items())).label
