"""Wasserstein GANs with a gradient penalty (Gulrajani et al. 2017), the terms of a VAE (Kingma &
Welling 2014) and a cosine loss; generator, critic and their players as a method trains them.

Losses are per example; a critic is a function [n, d] -> [n] that scores each row by itself. The
condition of class c is row c of the buffer `condition`.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avdiff_jax.methods.method import Features, Info, Labelled, Player, Vars
from avdiff_jax.nn.layers import apply_params

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
    def __call__(self, *inputs: jax.Array) -> jax.Array:
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


CRITIC_STEPS = 5  # per update, as published for the gradient penalty
BETAS = (0.5, 0.999)  # of Adam, as published for GANs on action features


class Gan(NamedTuple):
    """generator: (z [n, noise], condition [n, dc]) -> features [n, d], group `gen`.
    critic: (features, condition) -> [n, 1], group `critic`.
    """

    generator: MLP
    critic: MLP
    noise: int


def init(gan: Gan, condition: Float[Array, "c dc"], key: jax.Array) -> dict:
    """Draws fresh parameters of the groups `gen` and `critic` for conditions like [C, dc]."""
    k_generator, k_critic = jax.random.split(key)
    z = jnp.zeros((1, gan.noise))
    x, gen = gan.generator.init_with_output(k_generator, z, condition[:1])
    critic = gan.critic.init(k_critic, x, condition[:1])
    return {"gen": gen["params"], "critic": critic["params"]}


def synthesize(gan: Gan, variables: Vars, labels: jax.Array, key: jax.Array) -> jax.Array:
    """Generates features [n, d] of the classes `labels` [n]."""
    z = jax.random.normal(key, (len(labels), gan.noise))
    condition = variables.buffers["condition"][labels]
    return apply_params(gan.generator, variables.params["gen"], z, condition)


def bind_critic(gan: Gan, variables: Vars, labels: jax.Array) -> Callable:
    """The critic's function of features [n, d] -> [n], given their classes."""
    condition = variables.buffers["condition"][labels]
    params = variables.params["critic"]
    return lambda x: apply_params(gan.critic, params, x, condition)[:, 0]


def make_player(
    info: Info, name: str, groups: tuple[str, ...], loss: Callable, repeats: int = 1
) -> Player:
    """A player beside the main one: a GAN's Adam at the rate of the method's own, no L2."""
    rate = info.config[info.config.method].learning_rate
    return Player(name, groups, loss, repeats, rate, BETAS, 0.0)


def make_critic_player(info: Info, gan: Gan, real: Callable) -> Player:
    """The player of the critic: it tells real features from generated ones, five times per update.

    Args:
      info: of the stage.
      gan: generator and critic.
      real: (info, variables, shared features, batch, key) -> real features [n, d] and labels [n].
    """

    def loss(
        info: Info,
        variables: Vars,
        features: Features,
        batch: Labelled,
        key: jax.Array,
        role: str,
    ):
        k_real, k_noise, k_mix = jax.random.split(key, 3)
        x, labels = real(info, variables, features, batch, k_real)
        fake = synthesize(gan, variables, labels, k_noise)
        mix = jax.random.uniform(k_mix, labels.shape)
        total = critic_loss(bind_critic(gan, variables, labels), x, fake, mix).mean()
        return total, (variables.stats, {"loss": total})

    return make_player(info, "critic", ("critic",), loss, CRITIC_STEPS)
