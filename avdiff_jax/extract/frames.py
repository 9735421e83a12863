"""Decoded frames to what the networks see, and how the published scripts see them.

Pillow resizes, because its results equal those of the published preprocessing exactly.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

RESIZED = (171, 128)  # width and height, whatever those of the frame
CROP = (30, 8, 142, 120)  # the middle 112 x 112 of it: left, top, right, bottom

Prepare = Callable[[np.ndarray], np.ndarray]  # RGB [height, width, 3] uint8 -> what is seen


def see_c3d(image: np.ndarray, negative: bool) -> np.ndarray:
    """What C3D sees of a frame: blue first, squeezed to 171 x 128, the middle of that.

    Args:
      image: RGB [height, width, 3] uint8.
      negative: the published script for UCF and VGGSound scales bytes by 255 once more, which
        leaves (256 - value) mod 256, before it resizes.

    Returns:
      BGR [112, 112, 3] uint8.
    """
    image = image[..., ::-1]
    if negative:
        image = np.negative(image)  # of uint8: modulo 256
    resized = Image.fromarray(np.ascontiguousarray(image))
    resized = resized.resize(RESIZED, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop(CROP))


def see_square(image: np.ndarray, shorter: int, side: int) -> np.ndarray:
    """The middle square of a frame.

    Args:
      image: RGB [height, width, 3] uint8.
      shorter: the shorter side is resized to so many pixels, and the other in proportion.
      side: of the square that is cut out, at most `shorter`.

    Returns:
      RGB [side, side, 3] uint8.
    """
    height, width = image.shape[:2]
    scale = shorter / min(height, width)
    size = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)))
