"""A noise predictor that is told time and condition in every layer (FiLM, Perez et al. 2018)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avdiff_jax.nn.layers import LayerNorm, Linear

FREQUENCIES = 32
LAYERS = 2


def time_code(t: Float[Array, " b"]) -> Float[Array, "b f"]:
    """32 sines and 32 cosines of relative times t in 0..1; their frequencies go from pi to
    100 pi in equal ratios."""
    phase = t[:, None] * (np.pi * np.geomspace(1, 100, FREQUENCIES)).astype(np.float32)[None]
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class FilmPredictor(nn.Module):
    """h = Linear(x); twice h += Linear(silu(LayerNorm(h) (1 + scale) + shift)); Linear(h).

    Scale and shift are Linear in e = silu(Linear(time code) + Linear(w)). The last Linear starts
    at zero, so that an untrained predictor says the mean of any standardised target.
    """

    hidden: int
    width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], t: Float[Array, " b"], w: Float[Array, "b c"]
    ) -> Float[Array, "b d"]:
        """x_t, times t in 0..1 and conditions w -> a prediction of the shape of x_t."""
        e = nn.silu(Linear(self.hidden, name="time")(time_code(t))
                    + Linear(self.hidden, name="condition")(w))
        h = Linear(self.hidden, name="first")(x)
        for i in range(LAYERS):
            film = Linear(2 * self.hidden, name=f"film{i}")(e)
            scale, shift = jnp.split(film, 2, axis=-1)
            normed = LayerNorm(name=f"norm{i}")(h)
            h = h + Linear(self.hidden, name=f"layer{i}")(nn.silu(normed * (1 + scale) + shift))
        zeros = jax.nn.initializers.zeros
        return nn.Dense(self.width, kernel_init=zeros, bias_init=zeros, name="last")(h)
