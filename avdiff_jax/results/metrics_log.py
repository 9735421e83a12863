"""What a run tells while it goes: numbers, pictures and texts, for programs and for TensorBoard.

    WORKDIR/metrics.jsonl          one JSON object a line, the record
    WORKDIR/events.out.tfevents.*  the same for TensorBoard, made from it and made anew at a resume
    WORKDIR/plots/                 the pictures

On several hosts only process 0 writes.
"""

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import mismatch, plain
from avdiff_jax.io.files import write_text
from avdiff_jax.io.text_files import open_file
from avdiff_jax.results.plots import save_png
from avdiff_jax.results.tensorboard import EventFile

# Keys of a line that say when and where it was written; a scalar cannot have such a name.
_PLACE = ("at", "step", "stage", "substage", "draw", "epoch")
_RESERVED = {*_PLACE, "time", "image", "file", "text", "markdown", "hparams", "metrics"}


class Line(TypedDict):
    """The fields of a line that are no scalars: when, where, and a picture, text or comparison."""

    at: int
    time: float
    step: NotRequired[int | None]
    stage: NotRequired[int | None]
    substage: NotRequired[int | None]
    draw: NotRequired[int | None]
    epoch: NotRequired[int | None]
    image: NotRequired[str]
    file: NotRequired[str]
    text: NotRequired[str]
    markdown: NotRequired[str]
    hparams: NotRequired[dict[str, bool | int | float | str]]
    metrics: NotRequired[dict[str, float]]


PAIRS = (("image", "file"), ("text", "markdown"), ("hparams", "metrics"))


class Writer:
    """Appends to metrics.jsonl and shows the same in TensorBoard.

    Every line carries `at`, a count of finished epochs over the whole run that never falls. A
    checkpoint that was committed at `at` vouches for the lines up to and including that one, so
    write a line before the checkpoint that covers it; a resumed run cuts off the rest
    (`Writer.open_at`).

    Args:
      workdir: made if missing.
      resume: go on after the lines that are there already, less a last one that was cut short.
      at: with `resume`, the point to go on from; later lines are cut off.

    Raises:
      UserError: there are lines already and `resume` is off, or one in the middle is damaged.
    """

    def __init__(self, workdir: str | Path, resume: bool = False, at: float = math.inf):
        self.workdir = Path(workdir)
        self.active = jax.process_index() == 0
        self._lines: Any = None  # both are open files while the writer is active
        self._events: Any = None
        self._last_at = 0
        if not self.active:
            return
        path = _metrics_path(self.workdir)
        if resume:
            self.truncate(at)
            return
        if path.exists() and path.stat().st_size:
            raise UserError(
                f"{path} already holds the curves of a run: add --resume to go on with it, "
                "or choose another --workdir"
            )
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._reopen([])

    @classmethod
    def open_at(cls, workdir: str | Path, at: int) -> "Writer":
        """The writer of a run that goes on from a checkpoint committed at `at`."""
        return cls(workdir, resume=True, at=at)

    def truncate(self, at: float = math.inf) -> None:
        """Forgets every line beyond `at` and rebuilds the event files from the rest.

        Event files are only ever appended to, so without this a resumed run would show the steps
        between its checkpoint and its end twice.
        """
        if not self.active:
            return
        path = _metrics_path(self.workdir)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for line in _read_lines(path) if line["at"] <= at]
        self.close()
        write_text(path, "".join(map(_dump, lines)))
        self._reopen(lines)

    def scalars(
        self, at: int, values: Mapping[str, float], prefix: str = "", *, step: int | None = None,
        **place: int | None
    ) -> None:
        """Writes one line of numbers.

        Args:
          at: finished epochs over the whole run.
          values: name -> number; an array of no dimensions will do.
          prefix: "stage1/base" makes the name "loss" into "stage1/base/loss".
          step: where the numbers stand on TensorBoard's axis; `at` if not given.
          **place: any of `stage`, `substage`, `draw` and `epoch`.

        Raises:
          ValueError: a number that is not finite, a name that a line needs itself, or an `at`
            smaller than the last one.
        """
        unknown = set(place) - set(_PLACE)
        if unknown:
            raise ValueError(f"a line has no field {sorted(unknown)}: it has {_PLACE}")
        named = {f"{prefix}/{name}".lstrip("/"): float(value) for name, value in values.items()}
        for name, value in named.items():
            if name in _RESERVED:
                raise ValueError(f"a scalar cannot be called {name!r}: it is a field of the line")
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value} at {at} ({place}): not a finite number")
        self._write({"at": at, "step": at if step is None else step, **place, **named})

    def image(
        self, at: int, tag: str, picture: np.ndarray | str | Path, step: int | None = None
    ) -> None:
        """Shows a picture.

        Args:
          tag: its name in TensorBoard; pictures of one name and several steps have a slider.
          picture: a PNG file inside the workdir, or RGB uint8 [height, width, 3], which is then
            kept as plots/TAG.png.
        """
        if not self.active:
            return
        if isinstance(picture, np.ndarray):
            path = self.workdir / "plots" / (re.sub(r"[^\w.-]+", "-", tag) + ".png")
            save_png(path, picture)
        else:
            path = Path(picture)
        file = path.resolve().relative_to(self.workdir.resolve()).as_posix()
        place = {} if step is None else {"step": step}
        self._write({"at": at, **place, "image": tag, "file": file})

    def text(self, at: int, tag: str, markdown: str) -> None:
        """Shows a text."""
        self._write({"at": at, "text": tag, "markdown": markdown})

    def hparams(
        self, at: int, config: Mapping, metrics: Mapping[str, float], step: int | None = None
    ) -> None:
        """Enters the run into TensorBoard's HParams tab; the last call of a run is what counts.

        Args:
          config: what to compare runs by, nested or flat.
          metrics: the numbers to compare, which become scalars of these names too.
          step: where these stand on TensorBoard's axis; `at` if not given.
        """
        metrics = plain(metrics, "metrics")
        again = self.active and self._has_hparams
        place = {} if step is None else {"step": step}
        self._write({"at": at, **place, "hparams": flatten(config), "metrics": metrics})
        if again:  # TensorBoard keeps the first that it reads
            self.truncate()

    def flush(self) -> None:
        """Brings every line onto the disk."""
        if self._events is not None:
            self._lines.flush()
            os.fsync(self._lines.fileno())
            self._events.flush()

    def close(self) -> None:
        """Ends the writing, also where a full disk stops the last of it; a second call does
        nothing."""
        try:
            self.flush()
        finally:
            lines, events, self._lines, self._events = self._lines, self._events, None, None
            try:
                if events is not None:
                    events.close()
            finally:
                if lines is not None:
                    lines.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write(self, line: dict) -> None:
        if not self.active:
            return
        if line["at"] < self._last_at:
            raise ValueError(f"a line at {line['at']} comes after one at {self._last_at}")
        line = {**line, "time": round(time.time(), 3)}
        self._lines.write(_dump(line))
        self._lines.flush()
        self._show(line)
        self._events.flush()

    def _reopen(self, lines: Sequence[dict]) -> None:
        """Starts both files anew behind `lines`, which metrics.jsonl already holds."""
        self._lines = _metrics_path(self.workdir).open("a", encoding="utf-8")
        self._events = EventFile(self.workdir)
        self._has_hparams = False
        self._last_at = 0
        last_hparams = max((i for i, line in enumerate(lines) if "hparams" in line), default=None)
        for i, line in enumerate(lines):
            if "hparams" not in line or i == last_hparams:
                self._show(line)

    def _show(self, line: dict) -> None:
        """Sends one line to TensorBoard."""
        self._last_at = line["at"]
        self._has_hparams = self._has_hparams or "hparams" in line
        assert self._events is not None
        self._events.show(line, {n: v for n, v in line.items() if n not in _RESERVED})


def read_metrics(workdir: str | Path) -> list[dict]:
    """The lines of numbers of a run, in order; empty where there are none yet.

    Each holds `at`, `step`, `time`, what of `stage`, `substage`, `draw` and `epoch` was given, and
    the numbers by name. A last line that was cut short is left out.
    """
    others = {"image", "text", "hparams"}
    return [line for line in _read_lines(_metrics_path(Path(workdir))) if not others & set(line)]


def flatten(config: Mapping, prefix: str = "") -> dict[str, bool | int | float | str]:
    """{"model": {"depth": 3, "sizes": (1, 2)}} -> {"model.depth": 3, "model.sizes": "[1, 2]"}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) or hasattr(value, "items"):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            value = plain(value, f"{prefix}{name}")
            keep = isinstance(value, bool | int | float | str)
            flat[f"{prefix}{name}"] = value if keep else json.dumps(value)
    return flat


def _metrics_path(workdir: Path) -> Path:
    return workdir / "metrics.jsonl"


def _dump(line: dict) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _read_lines(path: Path) -> list[dict]:
    """Every whole line; only the last may be damaged, by a process that died while writing it."""
    if not path.exists():
        return []
    with open_file(path) as file:
        texts = file.read().decode("utf-8", "replace").splitlines(keepends=True)
    lines = []
    for number, text in enumerate(texts, 1):
        line = _parse(text)
        if line is not None:
            lines.append(line)
        elif number < len(texts):
            raise UserError(
                f"line {number} of {path} is not one that a run writes: delete it, "
                "or start in another --workdir"
            )
    return lines


def _parse(text: str) -> dict | None:
    """A line that `Writer` wrote; None for anything else."""
    try:
        line: Any = json.loads(text) if text.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    if mismatch(line, Line) or line["at"] < 0 or any((a in line) != (b in line) for a, b in PAIRS):
        return None
    places = [line[name] for name in _PLACE if line.get(name) is not None]
    scalars = {name: value for name, value in line.items() if name not in _RESERVED}
    if mismatch(scalars, dict[str, float]) or max(map(abs, places)) >= 2**53:
        return None
    return line
