"""What a store holds, in words and as a picture."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from avdiff_jax.data.class_text import find_twins
from avdiff_jax.data.store import Sequences, Store
from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath, draft


class Report(NamedTuple):
    """What a store holds, for people."""

    path: str
    name: str
    clips: int
    clips_per_class: dict[str, int]
    groups: int | None
    text_dim: int
    audio: dict  # dim, dtype, seconds, tokens, min, median, max, missing
    video: dict
    file_bytes: int
    notes: tuple[str, ...]

    def __str__(self):
        counts = list(self.clips_per_class.values())
        each = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
        lines = [
            f"store      {self.path} ({self.name}), {size_text(self.file_bytes)}",
            f"clips      {self.clips}",
            f"classes    {len(counts)}, with {each} clips each and "
            + (f"text vectors of {self.text_dim}" if self.text_dim else "no text vectors"),
            f"groups     {self.groups or 'none'}",
        ]
        for modality, part in (("audio", self.audio), ("video", self.video)):
            lines.append(
                f"{modality}      {part['dim']} features a token ({part['dtype']}), a token every "
                f"{part['seconds']:g} s; {part['min']} to {part['max']} tokens a clip, median "
                f"{part['median']:g}, {part['tokens']} in all; "
                f"{part['missing'] or 'no'} clips without {modality}"
            )
        return "\n".join(lines + [f"note       {note}" for note in self.notes])


def size_text(count: float):
    """Bytes -> "3.2 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def report(store: Store, notes: Sequence[str] = ()) -> Report:
    """Counts and lengths of an open store."""
    per_class = np.bincount(store.labels, minlength=len(store.class_names))
    return Report(
        path=store.path,
        name=store.name,
        clips=len(store),
        clips_per_class=dict(zip(store.class_names, per_class.tolist(), strict=True)),
        groups=_count_groups(store.groups),
        text_dim=store.class_text.shape[1],
        audio=_describe(store.audio),
        video=_describe(store.video),
        file_bytes=os.path.getsize(store.path),
        notes=tuple(notes) + _doubts(store, per_class),
    )


def _count_groups(groups: np.ndarray | None):
    if groups is None:
        return None
    return len(np.unique(groups[groups != ""])) + int((groups == "").sum())


def _describe(part: Sequences):
    present = part.lengths[part.lengths > 0]
    if present.size == 0:
        present = np.zeros(1, np.int64)
    return {
        "dim": part.dim, "dtype": part.values.dtype.name, "seconds": part.seconds,
        "tokens": len(part.values), "min": int(present.min()),
        "median": float(np.median(present)), "max": int(present.max()),
        "missing": int((part.lengths == 0).sum()),
    }


def _doubts(store: Store, per_class: np.ndarray):
    """Things that are allowed but that a user should know of."""
    idle = [name for name, count in zip(store.class_names, per_class, strict=True) if not count]
    notes = []
    if idle:
        notes.append(f"{len(idle)} classes have no clip, the first is {idle[0]!r}")
    if alike := find_twins(store.class_names, store.class_text):
        notes.append(alike)
    return tuple(notes)


def draw(
    path: FilePath, title: str, lengths: Mapping[str, Any], counts: Mapping[str, int]
):
    """Draws token counts a clip (one histogram a modality) and clips a class into an image.

    Args:
      path: image file; its ending gives the format.
      lengths: modality -> [n] tokens of each clip; may be empty.
      counts: class name -> clips.
    """
    import matplotlib

    matplotlib.use("Agg")  # files only, no display
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(lengths) + 1, figsize=(4.5 * (len(lengths) + 1), 3.6))
    axes = np.atleast_1d(axes)
    for axis, (modality, values) in zip(axes, lengths.items(), strict=False):
        values = np.asarray(values)
        # edges between whole numbers, so that no bar holds more lengths than its neighbour
        first, last = int(values.min()), int(values.max())
        width = max(1, math.ceil((last - first + 1) / 40))
        axis.hist(values, bins=np.arange(first, last + width + 1, width) - 0.5)
        axis.set(xlabel=f"{modality} tokens per clip", ylabel="clips")
    ordered = sorted(counts.values(), reverse=True)
    axes[-1].bar(range(len(ordered)), ordered, width=1.0)
    axes[-1].set(xlabel=f"{len(ordered)} classes, largest first", ylabel="clips")
    figure.suptitle(title)
    figure.tight_layout()
    try:
        with draft(path) as scratch:
            figure.savefig(scratch, dpi=120)
    except ValueError as error:  # an ending that is no image format
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot draw {path} ({error}): name a .png file") from None
    finally:
        pyplot.close(figure)
