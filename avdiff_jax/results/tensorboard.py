"""The lines of metrics.jsonl as TensorBoard reads them: one event file in a run's folder."""

import itertools
import os
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
        folder = workdir / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        # Two writers may start in the same second.
        place = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{int(time.time())}.{place}"))
        self._append(wall_time=time.time(), file_version="brain.Event:2")

    def show(self, line: Mapping, scalars: Mapping[str, float]) -> None:
        """Appends what a line of metrics.jsonl says; `scalars` are its numbers by name."""
        step = int(line.get("step", line["at"]))
        for summary in self._summaries(line, scalars):
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
                yield _image(line["image"], path.read_bytes())
        elif "text" in line:
            yield summary.text(line["text"], line["markdown"])
        elif "hparams" in line:
            yield from summary.hparams(line["hparams"], line["metrics"])
            scalars = line["metrics"]
        for name, value in scalars.items():
            yield summary.scalar(name, value)


def _image(tag: str, png: bytes):
    from tensorboardX.proto.summary_pb2 import (
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
    )

    width, height = struct.unpack(">II", png[16:24])  # the first fields of a PNG file
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
