"""What synthesises features besides diffusion: Wasserstein GANs with a gradient penalty
(Gulrajani et al. 2017), the terms of a VAE (Kingma & Welling 2014), a cosine loss.

Losses are per example; a critic is a function [n, d] -> [n] that scores each row by itself.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

PENALTY = 10.0  # weight of the gradient penalty, as published

# Slopes of an activation below zero.
RELU, LEAKY, LINEAR = 0.0, 0.2, 1.0


class MLP(nn.Module):
    """Generator, critic, encoder or decoder: Linear layers on the concatenated inputs.

    slopes: of the activation after each layer, below zero.

    Weights start from N(0, 0.02) and biases from zero, as is usual for GANs.
    """

    widths: tuple[int, ...]
    slopes: tuple[float, ...]

    @nn.compact
    def __call__(self, *inputs):
        """Arrays [n, i], [n, j] ... -> [n, widths[-1]]."""
        x = jnp.concatenate(inputs, axis=-1)
        for i, (width, slope) in enumerate(zip(self.widths, self.slopes, strict=True)):
            x = nn.Dense(width, kernel_init=nn.initializers.normal(0.02), name=f"linear{i}")(x)
            x = nn.leaky_relu(x, slope)
        return x


def gradient_penalty(
    critic: Callable, real: Float[Array, "n d"], fake: Float[Array, "n d"], mix: Float[Array, " n"]
) -> Float[Array, " n"]:
    """(|dK/dx| - 1)^2 at x = mix real + (1 - mix) fake."""
    x = mix[:, None] * real + (1 - mix[:, None]) * fake
    slope = jax.grad(lambda x: critic(x).sum())(x)
    # The norm itself has no derivative where the slope is zero, as behind a dead layer.
    return jnp.square(jnp.sqrt(jnp.square(slope).sum(-1) + 1e-12) - 1)


def critic_loss(
    critic: Callable, real: Float[Array, "n d"], fake: Float[Array, "n d"], mix: Float[Array, " n"]
) -> Float[Array, " n"]:
    """K(fake) - K(real) + 10 times the gradient penalty."""
    return critic(fake) - critic(real) + PENALTY * gradient_penalty(critic, real, fake, mix)


def kl_divergence(
    mean: Float[Array, "n d"], log_variance: Float[Array, "n d"]
) -> Float[Array, " n"]:
    """KL(N(mean, variance) || N(0, I)), summed over dimensions, in nats."""
    return 0.5 * (jnp.exp(log_variance) + jnp.square(mean) - 1 - log_variance).sum(-1)


def cosine_embedding(
    a: Float[Array, "n d"], b: Float[Array, "n d"], matched: Bool[Array, " n"]
) -> Float[Array, " n"]:
    """1 - cos(a, b) for pairs that belong together, max(0, cos(a, b)) for the others."""
    square = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
    cosine = (a * b).sum(-1) * jax.lax.rsqrt(square + 1e-12)  # zero for a zero vector
    return jnp.where(matched, 1 - cosine, jnp.maximum(cosine, 0))
