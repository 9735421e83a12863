"""A media file to frames on an even grid and to samples, in one pass and without holding either.

PyAV brings FFmpeg. Damaged packets are left out one by one, and what is lost stays a gap: the frame
before it is repeated and sound is silent, so that both keep their time.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath

GAP_SECONDS = 0.1  # without sound; less is how streams begin and packets meet
EARLY_SECONDS, EARLY_SHARE = 0.5, 0.02  # missing at the end: less is how containers round
# Still pictures, and lists that FFmpeg would follow to other files.
NO_CLIPS = {"tty", "image2", "concat", "hls", "dash", "lavfi"}


class NotDecodable(UserError):
    """A clip gives nothing; the message says why and does not name the file."""


class Samples(NamedTuple):
    """Some sound."""

    values: np.ndarray  # [n] float32, the mean of the channels


class Picture(NamedTuple):
    """A frame at a place of the grid."""

    tick: int
    frame: av.VideoFrame

    def rgb(self) -> np.ndarray:
        """[height, width, 3] uint8, upright."""
        image = self.frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(image, self.frame.rotation // 90))


@dataclass
class Facts:
    """What is learnt about a clip while it is decoded."""

    has_audio: bool = False
    has_video: bool = False
    seconds: float = 0.0  # to the end of the last frame or sample
    stated: float | None = None  # to the end, as the container has it
    damaged: int = 0  # packets left out

    @property
    def ends_early(self) -> bool:
        """Whether noticeably less came than was stated."""
        lacking = (self.stated or 0.0) - self.seconds
        return lacking > max(EARLY_SECONDS, EARLY_SHARE * (self.stated or 0.0))


def decode(
    path: FilePath, rate: int | None, fps: float | None, facts: Facts, start: float = 0.0,
    end: float = math.inf,
) -> Iterator[Samples | Picture]:
    """Yields the sound and the frames of a file as they come.

    Args:
      path: of any container that FFmpeg reads.
      rate: of the sound, Hz; None leaves the sound unread.
      fps: of the grid: place k shows the frame nearest to k / fps. A file of that rate is left as
        it is. None leaves the frames unread.
      facts: filled in on the way.
      start, end: seconds from the beginning of the file.

    Raises:
      NotDecodable: the file is no clip.
    """
    with _opened(path) as container:
        video = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
        audio = next(iter(container.streams.audio), None)
        facts.has_audio, facts.has_video = audio is not None, video is not None
        streams = [stream for stream, wanted in ((video, fps), (audio, rate)) if stream and wanted]
        if not streams:
            return
        begin = min(in_seconds(stream.start_time, stream) for stream in streams)
        facts.stated = _stated(container, streams, begin, start, end)
        grid = Grid(fps, begin + start, end - start, facts, video) if video and fps else None
        sound = Sound(rate, begin + start, end - start, facts) if audio and rate else None
        for stream in streams:
            stream.codec_context.thread_count = 1  # several clips are decoded side by side
        if start > 0:
            container.seek(round((begin + start) * av.time_base))
        for frame in _frames(container, streams, facts):
            if grid and isinstance(frame, av.VideoFrame):
                yield from grid.place(frame)
            elif sound and isinstance(frame, av.AudioFrame):
                yield from sound.resample(frame)
            if all(part.is_over for part in (grid, sound) if part):
                break
        if grid:
            yield from grid.finish()
        if sound:
            yield from sound.finish()


def state_seconds(path: FilePath, start: float = 0.0, end: float = math.inf) -> float:
    """The length of a span as the container states it; 0 where it states none.

    Raises:
      NotDecodable: the file is no clip.
    """
    with _opened(path) as container:
        length = (container.duration or 0) / av.time_base
        return max(0.0, min(length, end) - start)


@contextlib.contextmanager
def _opened(path: FilePath) -> Iterator[InputContainer]:
    if not os.path.isfile(path):
        raise NotDecodable("there is no such file")
    if not os.path.getsize(path):
        raise NotDecodable("it is empty")
    try:
        container = av.open(os.fspath(path), "r", timeout=60.0)
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotDecodable(f"it is no video or sound, or was cut off while it was copied "
                           f"({reason})") from None
    assert isinstance(container, InputContainer)
    with container:
        names = {*container.format.name.split(",")}
        if names & NO_CLIPS or any(name.endswith("_pipe") for name in names):
            raise NotDecodable(f"it is no video or sound but {container.format.long_name}")
        if not container.streams.video and not container.streams.audio:
            raise NotDecodable("it has neither a video nor an audio track")
        yield container


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _stated(
    container: InputContainer, streams: Sequence[Stream], begin: float, start: float, end: float
) -> float | None:
    """Seconds from `start` to the end of the longest stream; None where nothing is stated."""
    ends = [in_seconds((stream.start_time or 0) + stream.duration, stream) - begin
            for stream in streams if stream.duration]
    if not ends and container.duration:
        ends = [container.duration / av.time_base]
    return max(0.0, min(max(ends), end) - start) if ends else None


def in_seconds(ticks: int | None, timed: Stream | av.VideoFrame) -> float:
    """A time in units of a stream's or frame's time base; 0 where either is unknown."""
    return float((ticks or 0) * (timed.time_base or 0))


def _frames(
    container: InputContainer, streams: Sequence[Stream], facts: Facts
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """All that can be decoded, in the order of the file."""
    packets = container.demux(streams)
    while True:
        try:
            packet = next(packets, None)
        except (FFmpegError, OSError):
            facts.damaged += 1
            return  # the file ends in the middle of a packet
        if packet is None:
            return
        try:
            decoded = packet.decode()
        except (FFmpegError, ValueError):
            facts.damaged += 1
            continue
        for frame in decoded:
            if isinstance(frame, (av.VideoFrame, av.AudioFrame)):
                yield frame


class Grid:
    """Puts frames at even places as FFmpeg's fps filter does.

    A frame belongs to the place nearest to its time and is shown until the next one's; of several
    at one place the last is shown.
    """

    def __init__(self, fps: float, begin: float, length: float, facts: Facts,
                 stream: VideoStream):
        self._fps, self._begin, self._facts = fps, begin, facts
        self._places = math.inf if math.isinf(length) else round(length * fps)
        self._longest = max(facts.stated or 0.0, 60.0) * fps  # a longer gap is a broken timestamp
        # Timestamps of some containers skip a frame. Counting is right unless one was lost.
        self._counts = stream.average_rate == fps
        self._shown: av.VideoFrame | None = None
        self._place = 0.0  # of the frame shown, with its fraction
        self._next = 0  # place to fill
        self.is_over = False

    def place(self, frame: av.VideoFrame) -> Iterator[Picture]:
        """Takes the next frame; yields the one before at all places up to it."""
        place = self._place_of(frame)
        if self._shown is None and _nearest(place) > 0:
            self._shown = frame  # nothing is there to show before it
        yield from self._show(_nearest(place))
        self._shown, self._place = frame, place

    def _place_of(self, frame: av.VideoFrame) -> float:
        if self._shown is not None and self._counts and not self._facts.damaged:
            return self._place + 1
        if frame.time is None:
            return self._place + 1
        place = (frame.time - self._begin) * self._fps
        return self._place + 1 if place - self._place > self._longest else place

    def _show(self, until: int) -> Iterator[Picture]:
        if self._shown is None:
            return
        for place in range(self._next, int(min(until, self._places))):
            yield Picture(place, self._shown)
            self._next = place + 1
        self.is_over = until >= self._places

    def finish(self) -> Iterator[Picture]:
        """Yields the last frame for as long as it is shown."""
        if self._shown is None:
            return
        length = in_seconds(self._shown.duration, self._shown) * self._fps or 1.0
        until = _nearest(self._place + min(length, self._longest))
        yield from self._show(max(until, 1))
        self._facts.seconds = max(self._facts.seconds, self._next / self._fps)


def _nearest(place: float) -> int:
    """The nearest whole number, halves upwards, as FFmpeg rounds."""
    return math.floor(place + 0.5 + 1e-6)


class Sound:
    """Resamples sound, channel by channel: a direct mono conversion is sqrt(2) too loud."""

    def __init__(self, rate: int, begin: float, length: float, facts: Facts):
        self._rate, self._facts = rate, facts
        self._resampler = av.AudioResampler(format="fltp", rate=rate)
        self._expected = begin  # time of the next sample
        self._begin = begin
        self._left = math.inf if math.isinf(length) else round(length * rate)
        self._begun = False
        self._given = 0  # samples
        self._skip = 0  # samples from before the start
        self.is_over = False

    def resample(self, frame: av.AudioFrame) -> Iterator[Samples]:
        """Takes the next samples; yields silence for a gap before them, and what is ready."""
        time = self._expected if frame.time is None else frame.time
        gap = time - self._expected
        if not self._begun and gap < 0:
            self._skip = round(-gap * self._rate)
        elif GAP_SECONDS < gap <= max(self._facts.stated or 0.0, 60.0):
            yield from self._cut(np.zeros(round(gap * self._rate), np.float32))
        self._begun = True
        self._expected = time + frame.samples / frame.sample_rate
        frame.pts = None  # gaps are filled above
        try:
            ready = self._resampler.resample(frame)
        except ValueError:  # another rate or layout in mid-stream
            self._resampler = av.AudioResampler(format="fltp", rate=self._rate)
            ready = self._resampler.resample(frame)
        for part in ready:
            yield from self._cut(part.to_ndarray().mean(0))

    def finish(self) -> Iterator[Samples]:
        """Yields what the resampler still holds."""
        if self._begun and not self.is_over:
            for part in self._resampler.resample(None):
                yield from self._cut(part.to_ndarray().mean(0))
        self._facts.seconds = max(self._facts.seconds, self._given / self._rate)

    def _cut(self, values: np.ndarray) -> Iterator[Samples]:
        """Only what lies between start and end."""
        skipped = min(self._skip, len(values))
        self._skip -= skipped
        values = values[skipped:]
        if len(values) >= self._left:
            values, self.is_over = values[: int(self._left)], True
        self._left -= len(values)
        self._given += len(values)
        if len(values):
            yield Samples(values)
