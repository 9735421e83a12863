"""Clips to features: threads decode, batches of one shape are filled from several clips at once.

A bounded queue lies between, so memory grows neither with the number of clips nor with their
length, but for the features of the clips at work. What a token becomes does not depend on its
place in a batch nor on its mates, so a clip's features are the same in every run.
"""

import itertools
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.extract.collection import ClipFile
from avdiff_jax.extract.decoding import Facts, NotDecodable, Samples, decode
from avdiff_jax.extract.encoders import Encoder
from avdiff_jax.extract.parts import Outcome, Part
from avdiff_jax.extract.tokens import FramePlan, Inputs, WavePlan

QUEUE_TOKENS = 64  # between decoding and encoding; at most 40 MB, those of C3D
MISSING = ("keep", "skip")


class Encoders(NamedTuple):
    """One of each modality, or None."""

    audio: Encoder | None
    video: Encoder | None

    @property
    def active(self) -> dict[str, Encoder]:
        """By modality. Raises UserError where there is none."""
        named = zip(self._fields, self, strict=True)
        active = {modality: encoder for modality, encoder in named if encoder}
        if not active:
            raise UserError("neither audio nor video is to be encoded: choose an encoder")
        return active


@dataclass
class Meter:
    """Where the time goes."""

    seconds: float = 0.0  # of clips that are done
    waited: float = 0.0  # for decoding
    encoded: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def limit(self) -> str:
        """What the other one waits for: "decoding" or "encoding"."""
        return "decoding" if self.waited > self.encoded else "encoding"

    def __str__(self):
        times = self.seconds / max(time.monotonic() - self.started, 1e-9)
        return f"{times:.1f} x real time, {self.limit} is the limit"


class Token(NamedTuple):
    """What a decoder found in clip number `clip`."""

    clip: int
    modality: str
    inputs: Inputs


class End(NamedTuple):
    """Nothing more comes of clip number `clip`."""

    clip: int
    facts: Facts
    tokens: dict[str, int]
    failure: str


def default_threads() -> int:
    """As many decoders as this process may use cores."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def encode_clips(
    clips: Sequence[ClipFile], encoders: Encoders, missing: str = "keep",
    threads: int | None = None, meter: Meter | None = None,
) -> Iterator[tuple[ClipFile, Part]]:
    """Yields every clip with its features, in the order in which they are done.

    Args:
      missing: what becomes of a clip that lacks a modality: "keep" or "skip".
      threads: that decode; default: one a core.
      meter: is told where the time goes.
    """
    meter = meter or Meter()
    active = encoders.active
    batches = {modality: Batches(encoder, meter) for modality, encoder in active.items()}
    rows: dict[int, dict[str, list[np.ndarray]]] = {}
    ends: dict[int, End] = {}

    def land(landed: Iterable[tuple[Token, np.ndarray]]) -> Iterator[tuple[ClipFile, Part]]:
        """Yields the clips that the landed rows [(token, features)] complete."""
        for token, features in landed:
            rows[token.clip][token.modality].append(features)
        for number in {token.clip for token, _ in landed}:
            yield from conclude(number)

    def conclude(number: int) -> Iterator[tuple[ClipFile, Part]]:
        end = ends.get(number)
        there = {modality: len(values) for modality, values in rows[number].items()}
        if end and there == end.tokens:
            meter.seconds += end.facts.seconds
            del ends[number]
            yield clips[number], make_part(end, rows.pop(number), active, missing)

    with Decoders(clips, active, missing, threads or default_threads()) as decoders:
        for event in decoders.events(meter):
            if event.clip not in rows:
                rows[event.clip] = {modality: [] for modality in active}
            if isinstance(event, Token):
                yield from land(batches[event.modality].add(event))
            else:
                ends[event.clip] = event
                yield from conclude(event.clip)
        for batch in batches.values():
            yield from land(batch.flush())


class Batches:
    """Fills batches of one encoder; a batch is fetched when the next one is on its way."""

    def __init__(self, encoder: Encoder, meter: Meter):
        self._encoder, self._meter = encoder, meter
        self._waiting: list[Token] = []
        self._flying: tuple[list[Token], object] | None = None

    def add(self, token: Token) -> list[tuple[Token, np.ndarray]]:
        """Takes a token; returns tokens that are done, in the order they came in."""
        self._waiting.append(token)
        return self._send() if len(self._waiting) == self._encoder.batch else []

    def flush(self) -> list[tuple[Token, np.ndarray]]:
        """Returns all that is left."""
        return (self._send() if self._waiting else []) + self._land()

    def _send(self) -> list[tuple[Token, np.ndarray]]:
        begin = time.monotonic()
        tokens, self._waiting = self._waiting, []
        result = self._encoder.start([token.inputs for token in tokens])
        self._meter.encoded += time.monotonic() - begin
        landed = self._land()
        self._flying = tokens, result
        return landed

    def _land(self) -> list[tuple[Token, np.ndarray]]:
        if self._flying is None:
            return []
        begin = time.monotonic()
        tokens, result = self._flying
        self._flying = None
        features = self._encoder.finish(np.asarray(result))
        self._meter.encoded += time.monotonic() - begin
        return list(zip(tokens, features, strict=False))


class Decoders:
    """Threads that decode clips, each one clip at a time."""

    def __init__(self, clips: Sequence[ClipFile], active: dict[str, Encoder], missing: str,
                 threads: int):
        self._clips, self._active, self._missing = clips, active, missing
        self._queue: queue.Queue[Token | End] = queue.Queue(QUEUE_TOKENS)
        self._next, self._lock = itertools.count(), threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"decoder {i}")
                         for i in range(min(threads, len(clips)))]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def events(self, meter: Meter) -> Iterator[Token | End]:
        """Yields tokens and ends until every clip has ended."""
        ended = 0
        while ended < len(self._clips):
            begin = time.monotonic()
            event = self._queue.get()
            meter.waited += time.monotonic() - begin
            ended += isinstance(event, End)
            yield event

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                number = next(self._next)
            if number >= len(self._clips):
                return
            self._decode(number)

    def _decode(self, number: int) -> None:
        facts, tokens, failure = Facts(), dict.fromkeys(self._active, 0), ""
        try:
            for modality, inputs in self._cut(self._clips[number], facts):
                tokens[modality] += 1
                if not self._put(Token(number, modality, inputs)):
                    return
        except NotDecodable as error:
            failure = str(error)
        except Exception as error:  # a library fails in any way on a file that nobody foresaw
            failure = f"decoding failed ({type(error).__name__}: {error})"
        self._put(End(number, facts, tokens, failure))

    def _cut(self, clip: ClipFile, facts: Facts) -> Iterator[tuple[str, Inputs]]:
        """The tokens of a clip: (modality, inputs)."""
        plans = {modality: encoder.plan for modality, encoder in self._active.items()}
        cutters: dict[str, Any] = {modality: plan.cutter() for modality, plan in plans.items()}
        rate = next((plan.rate for plan in plans.values() if isinstance(plan, WavePlan)), None)
        fps = next((plan.fps for plan in plans.values() if isinstance(plan, FramePlan)), None)
        for part in decode(clip.path, rate, fps, facts, clip.start, clip.end):
            if self._missing == "skip" and lacking_tracks(facts, self._active):
                return
            modality = "audio" if isinstance(part, Samples) else "video"
            for inputs in cutters[modality].take(part):
                yield modality, inputs
        for modality, cutter in cutters.items():
            for inputs in cutter.finish():
                yield modality, inputs

    def _put(self, event: Token | End) -> bool:
        """Whether the event found room before all was stopped."""
        while not self._stopped.is_set():
            try:
                self._queue.put(event, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


# ---------------------------------------------------------------------------- outcomes


def lacking_tracks(facts: Facts, modalities: Iterable[str]) -> list[str]:
    """Which of the modalities the file has no track of."""
    there = {"audio": facts.has_audio, "video": facts.has_video}
    return [modality for modality in modalities if not there[modality]]


def make_part(
    end: End, rows: dict[str, list[np.ndarray]], active: dict[str, Encoder], missing: str
) -> Part:
    """What became of a clip, in words and features."""
    arrays = {modality: np.stack(values) for modality, values in rows.items() if values}
    facts, reasons = end.facts, []
    if end.failure:
        return Part(Outcome("failed", end.failure))
    for modality, values in arrays.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return Part(Outcome("failed", f"its {modality} features are not finite", facts.seconds))
    without = lacking_tracks(facts, active)
    for modality, encoder in active.items():
        if modality in without:
            reasons.append(f"it has no {modality} track")
        elif modality not in arrays and not (without and missing == "skip"):
            without.append(modality)
            reasons.append(f"it is too short for a token of {modality} ({facts.seconds:.2f} s, and "
                           f"{encoder.plan.least:.2f} s are needed)")
    if facts.ends_early:
        reasons.append(f"it ends at {facts.seconds:.2f} s of {facts.stated:.2f} s stated")
    if facts.damaged:
        reasons.append(f"damaged packets were left out: {facts.damaged}")
    if not arrays or (without and missing == "skip"):
        status, arrays = "skipped", {}
    else:
        status = "incomplete" if reasons else "ok"
    outcome = Outcome(status, "; ".join(reasons), facts.seconds, len(arrays.get("audio", ())),
                      len(arrays.get("video", ())), facts.damaged)
    return Part(outcome, arrays.get("audio"), arrays.get("video"))
