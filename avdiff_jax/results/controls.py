"""A method beside its controls on the same clips: one table and one honest sentence."""

from collections.abc import Sequence
from typing import NamedTuple

from avdiff_jax.results import text_table
from avdiff_jax.results.results_json import ablation
from avdiff_jax.results.run_table import COLUMNS, write_numbers
from avdiff_jax.results.runs import Finished, Key, summary
from avdiff_jax.results.text_table import TextTable

LEVEL = 0.5  # percent of HM: what is nearer than that is level


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


def compare(runs: Sequence[Finished], notes: Sequence[str] = ()) -> Comparison:
    """Compares the first of `runs`, the method, with its controls, which are the others.

    Args:
      runs: on the same split; two at least.
      notes: lines below the table.
    """
    method, *controls = runs
    best = max(runs, key=harmonic_mean)  # of equals the method
    against = max(controls, key=harmonic_mean)
    rows = [[label(run), *write_numbers(run.results["test"]), f"{summary([run]).seconds / 60:.1f}"]
            for run in runs]
    table = TextTable(
        title=f"{method.dataset}, {method.config['shots']}-shot: test, percent, mean ± std of "
              f"{len(method.draws)} draws of the shots",
        heads=["", *COLUMNS, "minutes"], rows=rows, notes=notes)
    return Comparison(table, judge(method, against), best)


def judge(method: Finished, control: Finished) -> str:
    """Says which of the two is ahead by HM, in how many draws, and where its model lies. One that
    is ahead in the mean but not in most draws is level with the other."""
    gap = harmonic_mean(control) - harmonic_mean(method)
    ahead, behind = (control, method) if gap > 0 else (method, control)
    pairs = list(zip(ahead.draws, behind.draws, strict=True))
    times = sum(one["HM"] > other["HM"] for one, other in pairs)
    if abs(gap) < LEVEL or 2 * times <= len(pairs):
        return (f"On your clips {label(method)} and {label(control)} are level: HM "
                f"{harmonic_mean(method):.1f} and {harmonic_mean(control):.1f}.")
    return (f"On your clips {label(ahead)} is ahead of {label(behind)} by {abs(gap):.1f} HM, in "
            f"{times} of {len(pairs)} draws; use it with --model={ahead.workdir}")


def harmonic_mean(run: Finished) -> float:
    """HM of a run, in percent."""
    return run.results["test"]["mean"]["HM"]


def label(run: Finished) -> str:
    """The method and what departs from its usual form: avdiff,generator=none."""
    config = run.config
    return Key("", config["shots"], config["method"], tuple(ablation(config).items())).label
