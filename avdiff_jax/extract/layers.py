"""What the encoders are made of: convolutions, dense layers and maxima, with channels last.

Products are computed in full float32 on every device, whatever the process has as its default.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Layer = Mapping[str, jax.Array]  # "kernel" [..., in, out] and "bias" [out]
Params = Mapping[str, Layer]


def convolve(layer: Layer, x: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """A convolution over one or two axes.

    Args:
      layer: with a kernel [width ..., in, out].
      x: [batch, length ..., in].
      stride: the same along each axis.
      padding: "SAME", or "VALID" for none.

    Returns:
      [batch, length ..., out].
    """
    axes = "HW"[-(x.ndim - 2):]
    x = lax.conv_general_dilated(
        x, layer["kernel"], (stride,) * len(axes), padding, precision="highest",
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"))
    return x + along_channels(layer["bias"], x)


def multiply(layer: Layer, x: jax.Array) -> jax.Array:
    """A dense layer: [batch, in] -> [batch, out]."""
    x = jnp.dot(x, layer["kernel"], precision="highest")
    return x + along_channels(layer["bias"], x)


def pool(x: jax.Array, window: Sequence[int], edges: Sequence[int] | None = None) -> jax.Array:
    """The maximum over windows that do not overlap.

    Args:
      x: [batch, length ..., channels].
      window: along each axis; a rest is dropped.
      edges: places added at both ends of each axis, which never are the maximum; default: none.
    """
    sizes = (1, *window, 1)
    padding = [(edge, edge) for edge in (0, *(edges or [0] * len(window)), 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, sizes, padding)


def along_channels(values: jax.Array | np.ndarray, x: jax.Array) -> jax.Array:
    """[channels] in the rank of `x`."""
    return jnp.reshape(values, (1,) * (x.ndim - 1) + (-1,))
