"""VGGish: a log-mel patch to 128 numbers, and the quantisation of its release.

Hershey et al., CNN architectures for large-scale audio classification (2017), as released with
AudioSet. The published features of the benchmark were made by a port to PyTorch with one more ReLU
at the end, quantised by truncation.
"""

import jax
import numpy as np

from avdiff_jax.extract import layers

DIM = 128
# Layer -> outputs.
CONVOLUTIONS = {
    "conv1": 64, "conv2": 128, "conv3_1": 256, "conv3_2": 256, "conv4_1": 512, "conv4_2": 512,
}
DENSE = {"fc1_1": 4096, "fc1_2": 4096, "fc2": DIM}
POOLED = {"conv1", "conv2", "conv3_2", "conv4_2"}  # by 2 x 2 after these
FLAT = 6 * 4 * 512  # the last map: height, width, channels
BOUND = 2.0  # of the rotated embedding, before it is quantised


def embed(params: layers.Params, patches: jax.Array, last_relu: bool) -> jax.Array:
    """The embedding of log-mel patches.

    Args:
      params: layer -> {"kernel": [3, 3, in, out] or [in, out], "bias": [out]}.
      patches: [batch, 96, 64].
      last_relu: whether negative numbers are cut off, as the port to PyTorch does.

    Returns:
      [batch, 128].
    """
    x = patches[..., None]
    for name in CONVOLUTIONS:
        x = jax.nn.relu(layers.convolve(params[name], x))
        if name in POOLED:
            x = layers.pool(x, (2, 2))
    x = x.reshape(len(x), -1)
    for name in DENSE:
        x = layers.multiply(params[name], x)
        if name != "fc2" or last_relu:
            x = jax.nn.relu(x)
    return x


def quantise(
    embedding: np.ndarray, eigen_vectors: np.ndarray, means: np.ndarray, rounded: bool
) -> np.ndarray:
    """Rotates embeddings onto their principal axes and keeps 8 bits of each.

    Args:
      embedding: [tokens, 128].
      eigen_vectors: [128, 128], an axis a row.
      means: [128] or [128, 1].
      rounded: to the nearest of 0..255; otherwise the fraction is cut off, as was published.

    Returns:
      [tokens, 128] uint8.
    """
    rotated = (embedding - means.reshape(-1)) @ eigen_vectors.T
    scaled = (np.clip(rotated, -BOUND, BOUND) + BOUND) * (255.0 / (2 * BOUND))
    return (np.rint(scaled) if rounded else scaled).astype(np.uint8)
