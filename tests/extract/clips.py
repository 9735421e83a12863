"""Small clips that are made here, and reading back the numbers in their pixels.

The clips of ../shared/extract/clips/made carry the same numbers.
"""

import math
from fractions import Fraction

import av
import numpy as np

BLOCK, BITS = 16, 10  # pixels; the number's lowest bit comes first
RATE = 16_000  # Hz


def write_clip(path, seconds: float, fps: int = 25, audio: bool = True, video: bool = True,
               hertz: float = 440.0) -> None:
    """An AVI of numbered frames and a sine."""
    with av.open(str(path), "w", format="avi") as container:
        if video:
            frames = container.add_stream("mpeg4", rate=fps)
            frames.width, frames.height, frames.pix_fmt = 192, 128, "yuv420p"
            frames.bit_rate = 2_000_000
        if audio:
            sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        samples = round(seconds * RATE)
        for second in range(math.ceil(seconds)):
            if video:
                last = min(round(seconds * fps), (second + 1) * fps)
                for number in range(second * fps, last):
                    frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
                    container.mux(frames.encode(frame))
            if audio:
                times = np.arange(second * RATE, min(samples, (second + 1) * RATE)) / RATE
                wave = np.sin(2 * np.pi * hertz * times) / 4
                frame = av.AudioFrame.from_ndarray(
                    (wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = second * RATE
                container.mux(sound.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode())


def numbered(number: int) -> np.ndarray:
    """A frame [128, 192, 3] that carries a number in its upper left."""
    image = np.full((128, 192, 3), 90, np.uint8)
    image[40:, :, 1] = np.linspace(0, 255, 192)
    for bit in range(BITS):
        image[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """The number that a frame [height, width, 3] carries."""
    inner = slice(BLOCK // 4, 3 * BLOCK // 4)
    blocks = image[inner, : BLOCK * BITS].reshape(BLOCK // 2, BITS, BLOCK, -1)[:, :, inner]
    return sum(int(bit) << place for place, bit in enumerate(blocks.mean((0, 2, 3)) > 127))


def by_filter(path, fps: int = 25) -> list[int]:
    """The numbers of the frames that FFmpeg's own fps filter gives."""
    numbers = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source, sink = graph.add_buffer(template=stream), graph.add("buffersink")
        fps_filter = graph.add("fps", str(fps))
        source.link_to(fps_filter)
        fps_filter.link_to(sink)
        graph.configure()
        for frame in [*container.decode(stream), None]:
            source.push(frame)
            while True:
                try:
                    numbers.append(number_of(sink.pull().to_ndarray(format="rgb24")))
                except (av.BlockingIOError, av.EOFError):
                    break
    return numbers
