"""How clips become inputs of C3D and VGGish, and what of their outputs is kept.

The published features of the benchmark were made by scripts with faults. Features of one's own mix
with them only where the faults are repeated, which the recipes named `tcaf-` do.
"""

from typing import NamedTuple

from avdiff_jax.errors import UserError

# Constants of torchvision for networks trained on Kinetics, in units of pixels.
KINETICS_MEAN = (255 * 0.43216, 255 * 0.394666, 255 * 0.37645)
KINETICS_STD = (255 * 0.22803, 255 * 0.22145, 255 * 0.216989)


class Recipe(NamedTuple):
    """One way from clips to features. Frames are always 25 a second."""

    name: str
    negative: bool  # frames are negatives before they are resized
    mean: tuple[float, float, float]  # of blue, green and red: subtracted from pixels
    std: tuple[float, float, float]  # what they are divided by then
    last_relu: bool  # of VGGish: negative outputs are cut off before the rotation
    rounded: bool  # of VGGish: to the nearest of 0..255; otherwise the fraction is cut off


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # What the networks were trained on: C3D on BGR pixels less their mean over Sports-1M,
        # VGGish as the TensorFlow repository has it today.
        Recipe("plain", negative=False, mean=(90.25, 97.66, 101.41), std=(1.0, 1.0, 1.0),
               last_relu=False, rounded=True),
        # The script for UCF and VGGSound.
        Recipe("tcaf-ucf", negative=True, mean=KINETICS_MEAN, std=KINETICS_STD,
               last_relu=True, rounded=False),
        # The script for ActivityNet, whose frames are the right way round.
        Recipe("tcaf-activitynet", negative=False, mean=KINETICS_MEAN, std=KINETICS_STD,
               last_relu=True, rounded=False),
    )
}


def find(name: str) -> Recipe:
    """A recipe by its name. Raises UserError naming the known ones."""
    if name not in RECIPES:
        raise UserError(f"the recipe {name!r} is none of {', '.join(RECIPES)}: change it")
    return RECIPES[name]
