"""SoundNet-8: a wave to 256 numbers each 0.37 s, from its fifth layer after pooling.

Aytar et al., SoundNet: learning sound representations from unlabeled video (2016), Section 3. The
network is fully convolutional. Here each token is computed from the samples that it sees alone, so
that memory does not grow with the clip; `embed` sets what lies outside the clip to zero in each
layer, as the padding of the whole clip's layers does, and so gives the same numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from avdiff_jax.extract import layers

RATE = 22_050  # Hz
SCALE = 256.0  # the network was trained on waves in -256..256
EPSILON = 1e-5  # of the normalisation layers
DIM = 256


class Layer(NamedTuple):
    """A convolution along time, padded by half its kernel, and the pooling after its ReLU."""

    kernel: int
    features: int
    pool: int
    stride: int = 2


LAYERS = {
    "conv1": Layer(64, 16, 8),
    "conv2": Layer(32, 32, 8),
    "conv3": Layer(16, 64, 1),
    "conv4": Layer(8, 128, 1),
    "conv5": Layer(4, 256, 4),
}


def _geometry() -> tuple[int, int, int]:
    """Samples from a token to the next, samples that one sees, and those before its own place."""
    hop, sees, before = 1, 1, 0
    for layer in LAYERS.values():
        sees += (layer.kernel - 1) * hop
        before += layer.kernel // 2 * hop
        hop *= layer.stride
        sees += (layer.pool - 1) * hop
        hop *= layer.pool
    return hop, sees, before


HOP, WINDOW, BEFORE = _geometry()


def count_tokens(samples: int) -> int:
    """How many tokens a wave has."""
    for layer in LAYERS.values():
        samples = _convolved(samples, layer) // layer.pool
    return samples


def _convolved(samples: Any, layer: Layer) -> Any:
    """The length after a convolution, before pooling; of a number or an array of them."""
    return (samples + 2 * (layer.kernel // 2) - layer.kernel) // layer.stride + 1


def embed(
    params: layers.Params, windows: jax.Array, starts: jax.Array, samples: jax.Array
) -> jax.Array:
    """The pooled fifth layer.

    Args:
      params: layer -> {"kernel": [width, in, out], "bias": [out]}.
      windows: [batch, WINDOW] in -1..1; anything outside the clip.
      starts: [batch] int32, the place in the clip of each window's first sample, below 0 in the
        first windows: token number times HOP, less BEFORE.
      samples: [batch] int32, the length of the clip.

    Returns:
      [batch, 256].
    """
    x = windows[..., None] * SCALE
    start, length = starts, samples
    for name, layer in LAYERS.items():
        x = _inside(x, start, length)
        x = jax.nn.relu(layers.convolve(params[name], x, layer.stride, "VALID"))
        start = (start + layer.kernel // 2) // layer.stride
        length = _convolved(length, layer) // layer.pool
        if layer.pool > 1:
            x = layers.pool(x, (layer.pool,))
            start = start // layer.pool
    return x[:, 0]


def _inside(x: jax.Array, start: jax.Array, length: jax.Array) -> jax.Array:
    """Zeros where a place is outside 0..length."""
    place = start[:, None] + jnp.arange(x.shape[1])[None]
    there = (place >= 0) & (place < length[:, None])
    return jnp.where(there[..., None], x, 0.0)
