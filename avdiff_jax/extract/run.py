"""An extraction from the collection of clips to the store, with a report of every clip."""

import collections
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avdiff_jax.data.class_text import ClassText
from avdiff_jax.data.store_report import Report, size_text
from avdiff_jax.data.store_writer import Clip, write_store
from avdiff_jax.errors import UserError, escape
from avdiff_jax.extract.collection import ClipFile, Collection
from avdiff_jax.extract.decoding import NotDecodable, state_seconds
from avdiff_jax.extract.parts import Outcome, Part, Parts
from avdiff_jax.extract.pipeline import MISSING, Encoders, Meter, encode_clips
from avdiff_jax.io.files import FilePath, write_csv
from avdiff_jax.runtime.progress import Progress

MOST_TROUBLES = 5  # clips that are named on the screen
ON_ERROR = ("skip", "stop")
COLUMNS = ("path", "class", "clip_id", *Outcome._fields)


class Survey(NamedTuple):
    """What there is to be extracted."""

    clips: int
    classes: int
    unreadable: int
    hours: float  # as the containers state them
    file_bytes: int
    notes: tuple[str, ...]

    def __str__(self):
        lines = [f"clips      {self.clips}, {self.unreadable} of them unreadable",
                 f"classes    {self.classes}",
                 f"length     {self.hours:.4g} hours as stated, {size_text(self.file_bytes)}"]
        return "\n".join(lines + [f"note       {note}" for note in self.notes])


class Extraction(NamedTuple):
    """What came of it."""

    store: Report
    outcomes: dict[str, Outcome]  # by clip id
    resumed: int  # clips that an earlier, unfinished run had done
    meter: Meter

    def __str__(self):
        counts = collections.Counter(outcome.status for outcome in self.outcomes.values())
        said = ", ".join(f"{counts[status]} {status}" for status in
                         ("ok", "incomplete", "skipped", "failed") if counts[status])
        earlier = f" ({self.resumed} of them in an earlier run)" if self.resumed else ""
        lines = [str(self.store), f"extracted  {said}{earlier}; {self.meter}"]
        return "\n".join([*lines, *list_troubles(self.outcomes)])


def list_troubles(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Lines that name clips of which not all is in the store, the worst first, and say why."""
    troubled = [(clip, outcome) for status in ("failed", "skipped", "incomplete")
                for clip, outcome in outcomes.items() if outcome.status == status]
    lines = [f"{outcome.status:10} {escape(clip)}: {escape(outcome.reason)}"
             for clip, outcome in troubled[:MOST_TROUBLES]]
    left = len(troubled) - len(lines)
    return [*lines, *([f"           and {left} more, which the report lists"] if left else [])]


def report_path(out: FilePath) -> Path:
    """Where the report of the clips goes."""
    return Path(f"{os.path.splitext(os.fspath(out))[0]}.report.csv")


def survey(collection: Collection) -> Survey:
    """Counts clips, hours and bytes; the files are opened but not decoded."""
    seconds, sizes, unreadable = 0.0, {}, 0
    with Progress(len(collection.clips), "survey") as progress:
        for clip in collection.clips:
            try:
                seconds += state_seconds(clip.path, clip.start, clip.end)
                sizes[clip.path] = os.path.getsize(clip.path)
            except NotDecodable:
                unreadable += 1
            progress.step(1)
    classes = {clip.class_name for clip in collection.clips} if collection.is_labelled else ()
    return Survey(len(collection.clips), len(classes), unreadable, seconds / 3600,
                  sum(sizes.values()), collection.notes)


def extract(
    collection: Collection, out: FilePath, encoders: Encoders, recipe: str,
    text: ClassText, *, shard: tuple[int, int] = (1, 1), missing: str = "keep",
    on_error: str = "skip", threads: int | None = None, name: str | None = None,
) -> Extraction:
    """Makes the store `out` of a collection; a run that was killed is gone on with.

    Args:
      recipe: its name, for the store's provenance.
      text: of the classes of the collection.
      shard: number, from 1, and count: only so much of the collection.
      missing: what becomes of a clip that lacks a modality: "keep" or "skip".
      on_error: whether a clip that cannot be decoded is left out ("skip") or ends all ("stop").
      threads: that decode; default: one a core.
      name: of the data set; default: that of the collection.

    Raises:
      UserError: nothing can be decoded, parts of another recipe lie there, the disk is full, or
        with on_error="stop" the first clip that fails.
    """
    for word, allowed in ((missing, MISSING), (on_error, ON_ERROR)):
        if word not in allowed:
            raise UserError(f"{word!r} is none of {', '.join(allowed)}: change it")
    settings = describe(encoders, recipe) | {"missing": missing, "shard": "{}/{}".format(*shard)}
    clips, parts, meter = collection.shard(*shard).clips, Parts(out, settings), Meter()
    done = {clip.clip_id: outcome for clip in clips if (outcome := parts.outcome(clip))}
    todo = [clip for clip in clips if clip.clip_id not in done]
    with Progress(len(clips), "extract") as progress:
        progress.step(len(done))
        finished = encode_clips(todo, encoders, missing, threads, meter)
        outcomes = done | keep_parts(finished, parts, on_error, meter, progress)
    write_report(report_path(out), clips, outcomes)
    kept = [clip for clip in clips if outcomes[clip.clip_id].is_kept]
    if not kept:
        first = outcomes[clips[0].clip_id]
        raise UserError(f"none of the {len(clips)} clips of {collection.name} gives features; the "
                        f"first, {clips[0].path}, was {first.status}: {first.reason}")
    active = encoders.active
    seconds = {modality: encoder.plan.seconds for modality, encoder in active.items()}
    dims = {modality: encoder.dim for modality, encoder in active.items()}
    with Progress(len(kept), "store") as progress:
        store = write_store(
            out, name=name or collection.name, clips=read_parts(kept, parts),
            class_names=collection.class_names, class_text=text.vectors,
            audio_seconds=seconds.get("audio", 1.0), video_seconds=seconds.get("video", 1.0),
            audio_dim=dims.get("audio"), video_dim=dims.get("video"),
            provenance={"extraction": settings, "text": text.source},
            may_lack_modality=missing == "keep" or len(active) < 2,
            notes=[*collection.notes, *text.notes], progress=progress)
    parts.remove()
    return Extraction(store, outcomes, len(done), meter)


def keep_parts(
    finished: Iterable[tuple[ClipFile, Part]], parts: Parts, on_error: str, meter: Meter,
    progress: Progress,
) -> dict[str, Outcome]:
    """Writes the parts of clips as they are done; returns what became of each, by clip id.

    Raises:
      UserError: a clip failed and on_error is "stop", or the disk is full.
    """
    outcomes: dict[str, Outcome] = {}
    failed = 0
    for clip, part in finished:
        outcome = outcomes[clip.clip_id] = part.outcome
        failed += outcome.status == "failed"
        if outcome.is_kept:
            parts.write(clip, part)
        elif outcome.status == "failed" and on_error == "stop":
            raise UserError(f"{clip.path} cannot be decoded: {outcome.reason}; mend or remove it, "
                            f"or leave out such clips")
        progress.step(1, note=f"{failed} failed, {meter}")
    return outcomes


def describe(encoders: Encoders, recipe: str) -> dict[str, str]:
    """What the features of a clip depend on besides its file."""
    return {"recipe": recipe} | {
        modality: encoder.identity if encoder else "none"
        for modality, encoder in zip(encoders._fields, encoders, strict=True)
    }


def read_parts(clips: Sequence[ClipFile], parts: Parts) -> Iterator[Clip]:
    """Yields the clips of finished parts as a store takes them."""
    for clip in clips:
        part = parts.read(clip)
        yield Clip(clip.clip_id, clip.class_name, clip.group, part.audio, part.video)


def write_report(path: Path, clips: Sequence[ClipFile], outcomes: dict[str, Outcome]) -> None:
    """A CSV with a row a clip."""
    write_csv(path, COLUMNS, (
        (clip.path, clip.class_name, clip.clip_id, *outcomes[clip.clip_id]) for clip in clips))
