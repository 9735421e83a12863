"""Frames and samples, as they are decoded, to tokens: inputs of one size for an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from avdiff_jax.extract.frames import Prepare

if TYPE_CHECKING:  # what times a training step knows encoders by name and needs no PyAV
    from avdiff_jax.extract.decoding import Picture, Samples

Inputs = tuple[np.ndarray | np.generic, ...]  # of one token, the same shapes for every one


class FramePlan(NamedTuple):
    """Which frames make a token of video. Its inputs: frames [n, side, side, 3] uint8, and how many
    of them are there, which is less than n only at the end of a clip."""

    fps: float  # of the grid
    every: int  # places of the grid from a token to the next
    which: tuple[int, ...]  # n of these places, rising
    side: int  # pixels
    see: Prepare

    @property
    def seconds(self) -> float:
        """From a token to the next."""
        return self.every / self.fps

    @property
    def least(self) -> float:
        """Seconds of the shortest clip that has a token."""
        return (self.which[0] + 1) / self.fps

    def cutter(self) -> FrameCutter:
        """For one clip."""
        return FrameCutter(self)


class WavePlan(NamedTuple):
    """Which samples make a token of sound. Its inputs: what `see` makes of the window, the place of
    its first sample in the clip, and the samples of the clip (or to the end of the window)."""

    rate: int  # Hz
    window: int  # samples
    hop: int  # samples from a token to the next
    before: int  # samples that the first window has before the clip begins
    count: Callable[[int], int]  # samples of a clip -> its tokens
    see: Callable[[np.ndarray], np.ndarray]  # [window] float32 -> what the encoder sees

    @property
    def seconds(self) -> float:
        """From a token to the next."""
        return self.hop / self.rate

    @property
    def least(self) -> float:
        """Seconds of the shortest clip that has a token."""
        samples = 1
        while not self.count(samples):
            samples += max(1, samples // 100)
        return samples / self.rate

    def cutter(self) -> WaveCutter:
        """For one clip."""
        return WaveCutter(self)


Plan = FramePlan | WavePlan


def spread(every: int, frames: int) -> tuple[int, ...]:
    """The middles of `frames` equal parts of `every` places."""
    return tuple(int((i + 0.5) * every / frames) for i in range(frames))


def count_whole(window: int, hop: int) -> Callable[[int], int]:
    """Samples of a clip -> its windows; a rest is dropped."""
    return lambda samples: max(0, (samples - window) // hop + 1)


class FrameCutter:
    """Collects the frames of a clip into tokens."""

    def __init__(self, plan: FramePlan):
        self._plan = plan
        self._order = {place: i for i, place in enumerate(plan.which)}
        self._seen: tuple[object, np.ndarray] | None = None  # a frame that fills several places
        self._start()

    def _start(self) -> None:
        plan = self._plan
        self._frames = np.zeros((len(plan.which), plan.side, plan.side, 3), np.uint8)
        self._valid = 0

    def take(self, picture: Picture) -> Iterator[Inputs]:
        """The next place of the grid; yields the token that it completes."""
        place = picture.tick % self._plan.every
        if place in self._order:
            if self._seen is None or self._seen[0] is not picture.frame:
                self._seen = picture.frame, self._plan.see(picture.rgb())
            self._frames[self._order[place]] = self._seen[1]
            self._valid += 1
        if place == self._plan.every - 1:
            yield from self.finish()

    def finish(self) -> Iterator[Inputs]:
        """Yields the frames that are left as one token."""
        if self._valid:
            yield self._frames, np.int32(self._valid)
            self._start()


class WaveCutter:
    """Collects the samples of a clip into windows."""

    def __init__(self, plan: WavePlan):
        self._plan = plan
        self._held = [np.zeros(plan.before, np.float32)]  # not yet in all of their windows
        self._length = plan.before  # of what is held
        self._samples = 0  # of the clip so far
        self._tokens = 0

    def take(self, samples: Samples) -> Iterator[Inputs]:
        """The next samples; yields the tokens that they complete."""
        self._held.append(samples.values)
        self._length += len(samples.values)
        self._samples += len(samples.values)
        while self._length >= self._plan.window:
            yield self._token(self._start() + self._plan.window)

    def finish(self) -> Iterator[Inputs]:
        """Yields the tokens whose windows reach beyond the clip."""
        plan = self._plan
        while self._tokens < plan.count(self._samples):
            self._held.append(np.zeros(max(0, plan.window - self._length), np.float32))
            self._length += len(self._held[-1])
            yield self._token(self._samples)

    def _start(self) -> int:
        return self._tokens * self._plan.hop - self._plan.before

    def _token(self, samples: int) -> Inputs:
        plan, start = self._plan, self._start()
        held = np.concatenate(self._held)
        self._held = [held[plan.hop :]]
        self._length = len(self._held[0])
        self._tokens += 1
        return plan.see(held[: plan.window]), np.int32(start), np.int32(samples)
