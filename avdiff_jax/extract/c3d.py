"""C3D: sixteen frames to 4096 numbers.

Tran et al., Learning spatiotemporal features with 3D convolutional networks (2015), trained on
Sports-1M. The features of the benchmark are the second dense layer after its ReLU.
"""

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.extract import layers

FRAMES = 16  # of a token
SIDE = 112  # pixels
DIM = 4096
# Layer -> outputs.
CONVOLUTIONS = {
    "conv1": 64, "conv2": 128, "conv3a": 256, "conv3b": 256, "conv4a": 512, "conv4b": 512,
    "conv5a": 512, "conv5b": 512,
}
DENSE = {"fc6": 4096, "fc7": DIM}
FLAT = 512 * 4 * 4  # the last map: channels, height, width
# After these: the window in time, height and width, and what is added at both ends of each.
POOLED = {
    "conv1": ((1, 2, 2),),
    "conv2": ((2, 2, 2),),
    "conv3b": ((2, 2, 2),),
    "conv4b": ((2, 2, 2),),
    "conv5b": ((2, 2, 2), (0, 1, 1)),
}


def embed(params: layers.Params, clips: jax.Array) -> jax.Array:
    """The activation of fc7 after its ReLU.

    Args:
      params: layer -> {"kernel": [3, 3, 3, in, out] or [in, out], "bias": [out]}; the rows of
        fc6 are in the order channel, height, width.
      clips: [batch, 16, 112, 112, 3], normalised.

    Returns:
      [batch, 4096].
    """
    x = clips
    for name in CONVOLUTIONS:
        x = jax.nn.relu(convolve_frames(params[name], x))
        if name in POOLED:
            x = layers.pool(x, *POOLED[name])
    x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
    for name in DENSE:
        x = jax.nn.relu(layers.multiply(params[name], x))
    return x


def convolve_frames(layer: layers.Layer, x: jax.Array) -> jax.Array:
    """A convolution over time, height and width, as one over images.

    An image has the channels of a frame and of its two neighbours. XLA multiplies these on a CPU in
    three quarters of the time of a convolution over three axes.

    Args:
      layer: with a kernel [3, 3, 3, in, out].
      x: [batch, frames, height, width, in].

    Returns:
      [batch, frames, height, width, out].
    """
    batch, frames, *size, _ = x.shape
    ends = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    images = jnp.concatenate([ends[:, i : i + frames] for i in range(3)], -1)
    kernel = jnp.moveaxis(layer["kernel"], 0, 2)  # [height, width, time, in, out]
    flat = {"kernel": kernel.reshape(3, 3, -1, kernel.shape[-1]), "bias": layer["bias"]}
    x = layers.convolve(flat, images.reshape(batch * frames, *size, -1))
    return x.reshape(batch, frames, *size, -1)


def normalise(
    frames: jax.Array, valid: jax.Array, mean: np.ndarray, std: np.ndarray
) -> jax.Array:
    """Pixels to what the network sees.

    Args:
      frames: [batch, 16, 112, 112, 3], 0..255.
      valid: [batch], how many of the frames are real; the others become zeros afterwards.
      mean, std: [3], in units of pixels.

    Returns:
      the same shape, float32.
    """
    there = jnp.arange(frames.shape[1])[None] < valid[:, None]
    scaled = frames - layers.along_channels(mean, frames)
    scaled = scaled / layers.along_channels(std, frames)
    return jnp.where(there[..., None, None, None], scaled, 0.0).astype(jnp.float32)
