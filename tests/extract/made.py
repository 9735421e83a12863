"""The clips of ../shared/extract/clips/made: each frame carries its number in its pixels."""

import av
import numpy as np

BLOCK, BITS = 16, 10  # pixels; the number's lowest bit comes first


def number_of(image: np.ndarray) -> int:
    """The number that a frame [height, width, 3] carries in its upper left."""
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
