"""The lines of metrics.jsonl as TensorBoard shows them: one event file in a run's folder.

TensorBoard sorts tags by their groups and opens the first two: `loss`, by stages over the steps of
the whole run, then `test`. Behind them come `training` (accuracy, parts of the loss, rate, speed),
`val` and the pictures, `views`, with a slider over the draws. Of several draws and of what is tried
for open fields curves show the first, of players beside the main one the loss: metrics.jsonl has
all.
"""

import contextlib
import itertools
import os
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_numbers = itertools.count()


class EventFile:
    """Replaces the event files of a workdir by a new one, and appends to it.

    tensorboardX is imported here, because that takes a while. Its FileWriter is not used: its
    thread dies of a full disk, and the run then waits for it without end.
    """

    def __init__(self, workdir: Path):
        from tensorboardX.record_writer import RecordWriter

        self.workdir = workdir
        earlier = workdir / "tensorboard"  # where version 0.1 kept them
        for folder in (workdir, earlier):
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        with contextlib.suppress(OSError):  # it is not there, or holds something else
            earlier.rmdir()
        # Two writers may start in the same second.
        place = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = RecordWriter(str(workdir / f"events.out.tfevents.{int(time.time())}.{place}"))
        self._append(wall_time=time.time(), file_version="brain.Event:2")

    def show(self, line: Mapping, scalars: Mapping[str, float]) -> None:
        """Appends what a line of metrics.jsonl says; `scalars` are its numbers by name."""
        step = int(line.get("step", line["at"]))
        tags = {tag: value for name, value in scalars.items() if (tag := tag_of(name))}
        for summary in self._summaries(line, tags):
            self._append(summary=summary, step=step, wall_time=line["time"])

    def flush(self) -> None:
        """Brings every event into the file."""
        self._file.flush()

    def close(self) -> None:
        """Ends the writing."""
        self._file.close()

    def _append(self, **fields: object) -> None:
        from tensorboardX.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
        )

        self._file.write(Event(**fields).SerializeToString())

    def _summaries(self, line: Mapping, scalars: Mapping[str, float]) -> Iterator:
        from tensorboardX import summary

        if "image" in line:
            path = self.workdir / line["file"]
            if path.is_file():  # it may have been tidied away since
                yield _image(f"views/{line['image']}", path.read_bytes())
        elif "text" in line:
            yield summary.text(line["text"], line["markdown"])
        elif "hparams" in line:
            yield from summary.hparams(line["hparams"], line["metrics"])
            scalars = line["metrics"]
        for name, value in scalars.items():
            yield summary.scalar(name, value)


OF_PHASE = re.compile(r"(stage\d)-substage\d([^/]*)/(.*)")  # what training says
OF_DRAW = re.compile(r"draw\d+/")
FIRST = ("", "-draw0", "-draws", "-trial1")  # of the draws, and of what is tried


def tag_of(name: str) -> str | None:
    """What TensorBoard calls a number of metrics.jsonl; None for one that it does not show."""
    of_phase = OF_PHASE.fullmatch(name)
    if not of_phase:
        return None if OF_DRAW.match(name) else name
    stage, which, number = of_phase.groups()
    number = number.removeprefix("draw0/")
    if which not in FIRST or OF_DRAW.match(number):
        return None
    if number == "score":  # it is val/B or val/HM
        return None
    if number.startswith("val/"):
        return number
    *of, metric = number.split("/")  # role and player, if any
    if of[1:] not in ([], ["main"]):
        return f"training/loss_{'_'.join(of)}" if metric == "loss" else None
    if metric == "loss":
        return f"loss/{stage}_{of[0]}"
    return f"training/{'_'.join([metric, *of[:1]])}"


def _image(tag: str, png: bytes):
    from tensorboardX.proto.summary_pb2 import (
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
    )

    width, height = struct.unpack(">II", png[16:24])  # the first fields of a PNG file
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
