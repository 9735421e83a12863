"""What was measured, as records, as text, as a JSON file; and the ratios to an earlier one."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.io import documents
from avdiff_jax.io.text_files import text_of
from avdiff_jax.speed.product import card_gflops


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run.

    first_call_seconds: tracing, compilation and one dispatch. seconds_per_step: median.
    matmul_gflops: rate of the large product in turns with it. clips: of a step. needed_gflop: what
    the mathematics needs for a step, see `speed.flops`; executed_gflop: what the program computes.
    """

    first_call_seconds: float
    seconds_per_step: float
    matmul_gflops: float
    clips: int = 0
    needed_gflop: float | None = None
    executed_gflop: float | None = None
    compilations: int = 0
    compile_seconds: float = 0.0

    @property
    def efficiency(self) -> float | None:
        """Needed FLOPs over time and over the rate of the large product."""
        if not self.needed_gflop:
            return None
        return self.needed_gflop / self.seconds_per_step / self.matmul_gflops

    def record(self) -> dict:
        """With the rates that follow."""
        return dataclasses.asdict(self) | {
            "efficiency": self.efficiency, "steps_per_second": 1 / self.seconds_per_step,
            "clips_per_second": self.clips / self.seconds_per_step,
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """All phases of a configuration on one device; None for one that the method lacks.

    product: rows and columns of the large product.
    """

    device: str
    config: str
    precision: str
    ragged: bool
    product: int
    compilations: int
    compile_seconds: float
    peak_memory_mb: float
    device_peak_memory_mb: float | None
    phases: Mapping[str, Phase | None]

    @property
    def matmul_gflops(self) -> float:
        """Median over the phases of the rate of the large product."""
        return float(np.median([p.matmul_gflops for p in self.phases.values() if p]))

    @property
    def loader_share(self) -> float | None:
        """The loader's part of a substage-1 step, if nothing hid it."""
        loader, step = self.phases.get("loader"), self.phases.get("substage1")
        if not (loader and step):
            return None
        return loader.seconds_per_step / (loader.seconds_per_step + step.seconds_per_step)

    def record(self) -> dict:
        """As it stands in a JSON file."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        phases = {name: phase and phase.record() for name, phase in self.phases.items()}
        return values | {"phases": phases, "matmul_gflops": self.matmul_gflops}


def summary(report: Report, import_seconds: float) -> str:
    """What is not of one phase."""
    device, share = report.device_peak_memory_mb, report.loader_share
    card = card_gflops(report.device, report.precision)
    return (
        f"{report.device}, {os.cpu_count()} CPU cores\n"
        f"{report.precision} products of {report.product} rows at {report.matmul_gflops:.0f} "
        "GFLOP/s"
        + (f", {report.matmul_gflops / card:.0%} of the card's {card:.0f}" if card else "")
        + f"; imports {import_seconds:.1f} s; {report.compilations} compilations, "
        f"{report.compile_seconds:.0f} s; peak memory {report.peak_memory_mb:.0f} MB"
        + (f", of the device {device:.0f} MB" if device else "")
        + (f"; the loader's share {share:.1%}" if share else "")
    )


def table(report: Report, old: Mapping[str, float] | None = None) -> str:
    """The phases as lines of text; with ratios to the seconds per step `old`."""
    card = card_gflops(report.device, report.precision)
    head = ["phase", "ms/step", "steps/s", "clips/s", "needed GFLOP", "efficiency"]
    head += ["of the card"] * bool(card) + ["start s"] + ["times faster"] * (old is not None)
    rows = [head]
    for name, phase in report.phases.items():
        if phase is None:
            continue
        seconds, work, efficiency = phase.seconds_per_step, phase.needed_gflop, phase.efficiency
        row = [
            name, f"{seconds * 1e3:.1f}" if seconds > 0.01 else f"{seconds * 1e3:.2f}",
            f"{1 / seconds:.2f}", f"{phase.clips / seconds:.0f}",
            f"{work:.1f}" if work else "-", f"{efficiency:.0%}" if efficiency else "-",
        ]
        if card:
            row.append(f"{work / seconds / card:.0%}" if work else "-")
        row.append(f"{phase.first_call_seconds:.1f}")
        if old is not None:
            row.append(f"{old[name] / seconds:.2f}" if name in old else "-")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def write(path: pathlib.Path, report: Report, ragged: Report | None, growth: dict | None) -> None:
    """Writes the JSON file, whole or not at all. Raises UserError where it cannot be written."""
    content = report.record()
    if ragged:
        content["ragged_case"] = ragged.record()
    if growth:
        content["grow"] = growth
    documents.write(path, content, indent=1, sort_keys=False)


def read_seconds(path: pathlib.Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds per step by phase that an earlier run wrote, on fixed and on ragged clips.

    Raises:
      UserError: they cannot be read.
    """

    def of_phases(report: dict) -> dict[str, float]:
        phases = report["phases"].items()
        return {name: float(phase["seconds_per_step"]) for name, phase in phases if phase}

    try:
        content = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:  # a UserError is a ValueError
        raise UserError(f"--compare={path} cannot be read: {error}") from None
    try:
        ragged = content.get("ragged_case")
        return of_phases(content), of_phases(ragged) if ragged else {}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"--compare={path} was not written by launch/speed.py --json") from None
