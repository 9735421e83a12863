"""EfficientNet-Lite0: an image to 1280 numbers.

Tan and Le, EfficientNet (2019), in the variant without squeeze-and-excitation and with ReLU6 that
was released for phones. The normalisation layers are folded into the convolutions beforehand.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from avdiff_jax.extract import layers

SIDE = 224  # pixels
DIM = 1280
MEAN, STD = 127.0, 128.0  # of pixels 0..255: what the released weights were trained with
EPSILON = 1e-3  # of the normalisation layers


class Block(NamedTuple):
    """An inverted bottleneck: expand, depthwise, project."""

    kernel: int
    stride: int
    expand: int
    features: int


def _stage(repeats: int, kernel: int, stride: int, expand: int, features: int) -> list[Block]:
    first = Block(kernel, stride, expand, features)
    return [first, *[first._replace(stride=1)] * (repeats - 1)]


STEM, HEAD = 32, DIM  # features
BLOCKS = (
    *_stage(1, 3, 1, 1, 16),
    *_stage(2, 3, 2, 6, 24),
    *_stage(2, 5, 2, 6, 40),
    *_stage(3, 3, 2, 6, 80),
    *_stage(3, 5, 1, 6, 112),
    *_stage(4, 5, 2, 6, 192),
    *_stage(1, 3, 1, 6, 320),
)


def embed(params: layers.Params, frames: jax.Array) -> jax.Array:
    """The mean over the last map.

    Args:
      params: layer -> {"kernel": [height, width, in, out], "bias": [out]}; a depthwise layer
        has one output a channel: [height, width, 1, features].
      frames: [batch, 224, 224, 3] RGB, 0..255.

    Returns:
      [batch, 1280].
    """
    return last_map(params, frames).mean((1, 2))


def last_map(params: layers.Params, frames: jax.Array) -> jax.Array:
    """The same before the mean: [batch, 7, 7, 1280]."""
    x = (frames.astype(jnp.float32) - MEAN) / STD
    x = jax.nn.relu6(layers.convolve(params["stem"], x, 2))
    for i, block in enumerate(BLOCKS):
        inputs = x
        if block.expand > 1:
            x = jax.nn.relu6(layers.convolve(params[f"block{i}_expand"], x))
        x = jax.nn.relu6(_convolve_depthwise(params[f"block{i}_depthwise"], x, block.stride))
        x = layers.convolve(params[f"block{i}_project"], x)
        if x.shape == inputs.shape:
            x = x + inputs
    return jax.nn.relu6(layers.convolve(params["head"], x))


def _convolve_depthwise(layer: layers.Layer, x: jax.Array, stride: int) -> jax.Array:
    """A sum of shifted maps: on a CPU four times as fast as a grouped convolution."""
    width = layer["kernel"].shape[0]
    height = x.shape[1]
    out = -(-height // stride)
    padding = max((out - 1) * stride + width - height, 0)
    edges = (padding // 2, padding - padding // 2)
    x = jnp.pad(x, ((0, 0), edges, edges, (0, 0)))
    reach = (out - 1) * stride + 1
    total = sum(
        x[:, i : i + reach : stride, j : j + reach : stride] * layer["kernel"][i, j][None, None]
        for i in range(width) for j in range(width))
    return total + layers.along_channels(layer["bias"], x)
