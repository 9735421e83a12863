"""What a trace of `jax.profiler` says: the costliest kernels, and for how long the device waits."""

import collections
import gzip
import json
import pathlib
from typing import NamedTuple

from avdiff_jax.errors import UserError


class Kernel(NamedTuple):
    """All launches of one name: seconds together, and their number."""

    name: str
    seconds: float
    launches: int


class Profile(NamedTuple):
    """kernels: costliest first. busy: seconds in which any ran, of the `span` from the first one's
    start to the last one's end."""

    kernels: list[Kernel]
    busy: float
    span: float

    @property
    def waiting(self) -> float:
        """The share of the span in which the device had nothing to do."""
        return 1 - self.busy / self.span


def read(folder: str | pathlib.Path) -> Profile:
    """The newest trace below `folder`, of the first device; of the CPU's threads where there is
    no other.

    Raises:
      UserError: there is none, or it holds no kernels.
    """
    files = sorted(pathlib.Path(folder).rglob("*.trace.json.gz"), key=lambda f: f.stat().st_mtime)
    if not files:
        raise UserError(f"{folder} holds no *.trace.json.gz: name the folder given to --trace")
    with gzip.open(files[-1]) as file:
        events = json.load(file)["traceEvents"]
    runs = kernel_runs(events)
    if not runs:
        raise UserError(f"{files[-1]} holds no kernels: record it while a step runs")
    seconds, launches = collections.defaultdict(float), collections.Counter()
    for name, start, end in runs:
        seconds[name] += (end - start) / 1e6
        launches[name] += 1
    kernels = [Kernel(name, seconds[name], launches[name]) for name in launches]
    first, last = min(start for _, start, _ in runs), max(end for *_, end in runs)
    return Profile(
        sorted(kernels, key=lambda k: -k.seconds), covered(runs) / 1e6, (last - first) / 1e6
    )


def kernel_runs(events: list[dict]) -> list[tuple[str, float, float]]:
    """(name, start, end) of each kernel in microseconds.

    A device has a process of its own, and its streams are threads of it; other threads repeat the
    same by layers. On a CPU the operations of a program are marked among all that the host does.
    """
    names = {"process_name": {}, "thread_name": {}}
    for event in events:
        if event.get("ph") == "M" and event["name"] in names:
            place = event["pid"], event.get("tid") if event["name"] == "thread_name" else None
            names[event["name"]][place] = event["args"]["name"]
    devices = sorted(
        (name, pid) for (pid, _), name in names["process_name"].items() if "/device:" in name
    )
    streams = {
        place for place, name in names["thread_name"].items()
        if devices and place[0] == devices[0][1] and name.startswith("Stream")
    }

    def is_kernel(event: dict) -> bool:
        if streams:
            return (event["pid"], event["tid"]) in streams
        return "hlo_op" in event.get("args", {})

    return [
        (event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events if event.get("ph") == "X" and is_kernel(event)
    ]


def covered(runs: list[tuple[str, float, float]]) -> float:
    """How long at least one was running."""
    total, until = 0.0, float("-inf")
    for _, start, end in sorted(runs, key=lambda run: run[1]):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def table(profile: Profile, count: int = 10) -> str:
    """The costliest kernels, one a line, and the share of waiting."""
    launches = sum(kernel.launches for kernel in profile.kernels)
    lines = [
        f"{launches} kernels in {profile.span * 1e3:.1f} ms; the device waits for "
        f"{profile.waiting:.0%} of the time",
        f"{'ms':>9}  {'share':>5}  {'launches':>8}  kernel",
    ]
    for kernel in profile.kernels[:count]:
        lines.append(
            f"{kernel.seconds * 1e3:9.2f}  {kernel.seconds / profile.busy:5.1%}  "
            f"{kernel.launches:8d}  {kernel.name[:80]}"
        )
    return "\n".join(lines)
