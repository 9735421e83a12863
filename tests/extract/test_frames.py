"""Resizing and the published colours, against torchvision's numbers (tests/golden/extract)."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from avdiff_jax.extract import frames

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "extract" / "frames.npz"


def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("negative, seen", [(False, "right"), (True, "ucf_vggsound")])
@pytest.mark.parametrize("images, prefix", [("bgr", ""), ("odd", "odd_")])
def test_published_frames(negative, seen, images, prefix):
    numbers = golden()
    ours = [frames.see_c3d(image[..., ::-1], negative) for image in numbers[images]]
    np.testing.assert_array_equal(ours, numbers[f"{prefix}{seen}_uint8_hwc"])


def test_every_value_becomes_negative_but_0():
    numbers = golden()
    ramp = np.broadcast_to(numbers["ramp_in"][:, None, None, None], (256, 128, 171, 3))
    ours = [frames.see_c3d(image, True)[0, 0, 0] for image in ramp]
    np.testing.assert_array_equal(ours, numbers["ramp_seen"])


@pytest.mark.parametrize("height, width", [(120, 160), (480, 200), (224, 224), (8, 6)])
def test_the_middle_square(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1] = 255
    square = frames.see_square(image, 256, 224)
    assert square.shape == (224, 224, 3)
    assert square[112, 112].min() > 200
    bright = np.argwhere(square[..., 0] > 127).mean(0)
    assert np.abs(bright - 111.5).max() < 0.1 * 256 / min(height, width) + 0.6
