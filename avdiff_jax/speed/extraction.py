"""How fast clips become features: decoding alone, each encoder behind it, and all together."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from avdiff_jax.extract.collection import ClipFile
from avdiff_jax.extract.pipeline import (
    Decoders,
    Encoders,
    End,
    Meter,
    default_threads,
    encode_clips,
)
from avdiff_jax.results.text_table import TextTable


class Timing(NamedTuple):
    """What a pass over the clips took.

    name: of what was done.
    clips: seconds that the clips last.
    wall, cores: seconds of the clock, and of all cores together.
    limit: what the other part waited for; "" where there is one part.
    """

    name: str
    clips: float
    wall: float
    cores: float
    limit: str = ""


def measure_extraction(clips: Sequence[ClipFile], encoders: Encoders) -> Iterator[Timing]:
    """Yields the timings of decoding, of each encoder with it and, of two, of both with it.

    What compiles does so before, on the first clip.
    """
    active = encoders.active
    list(encode_clips(clips[:1], encoders))
    yield time_decoding(clips, encoders)
    for modality, encoder in active.items():
        yield time_encoding(encoder.name, clips, Encoders(None, None)._replace(
            **{modality: encoder}))
    if len(active) > 1:
        yield time_encoding("both", clips, encoders)


def time_decoding(clips: Sequence[ClipFile], encoders: Encoders) -> Timing:
    """Times what the encoders' tokens take to be decoded and cut."""
    begun, cores = time.monotonic(), time.process_time()
    with Decoders(clips, encoders.active, "keep", default_threads()) as decoders:
        seconds = sum(
            event.facts.seconds for event in decoders.events(Meter()) if isinstance(event, End)
        )
    return Timing(
        "decoding", seconds, time.monotonic() - begun, time.process_time() - cores
    )


def time_encoding(name: str, clips: Sequence[ClipFile], encoders: Encoders) -> Timing:
    """Times decoding and encoding."""
    begun, cores, meter = time.monotonic(), time.process_time(), Meter()
    for _ in encode_clips(clips, encoders, meter=meter):
        pass
    return Timing(
        name, meter.seconds, time.monotonic() - begun, time.process_time() - cores, meter.limit
    )


def tabulate_extraction(timings: Sequence[Timing], device: str) -> TextTable:
    """The timings as a table, in times real time."""
    rows = [
        [t.name, f"{t.clips / t.wall:.1f}", f"{t.clips / t.cores:.1f}", t.limit] for t in timings
    ]
    return TextTable(
        f"Extraction, {timings[0].clips:.0f} s of clips on {device}",
        ["what", "times real time", "for each second of a core", "the limit"], rows,
        notes=["Encoders include decoding, and compiling does not count."],
    )
