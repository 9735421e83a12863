"""A conditional Wasserstein GAN as a method trains it: generator, critic and their players.

The condition of class c is row c of the buffer `condition`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avdiff_jax.methods.method import Info, Player, Vars
from avdiff_jax.nn.gan import MLP, critic_loss

CRITIC_STEPS = 5  # per update, as published for the gradient penalty
BENCHMARK = ("activitynet", "ucf", "vggsound")
RATE, BETAS = 1e-4, (0.5, 0.999)  # of Adam, as published for GANs on action features


class Gan(NamedTuple):
    """generator: (z [n, noise], condition [n, dc]) -> features [n, d], group `gen`.
    critic: (features, condition) -> [n, 1], group `critic`.
    """

    generator: MLP
    critic: MLP
    noise: int


def init(key: jax.Array, gan: Gan, condition) -> dict:
    """Fresh parameters of the groups `gen` and `critic` for conditions like [C, dc]."""
    k_generator, k_critic = jax.random.split(key)
    z = jnp.zeros((1, gan.noise))
    x, gen = gan.generator.init_with_output(k_generator, z, condition[:1])
    critic = gan.critic.init(k_critic, x, condition[:1])
    return {"gen": gen["params"], "critic": critic["params"]}


def synthetic(gan: Gan, vars: Vars, key: jax.Array, labels):
    """Generated features [n, d] of the classes `labels` [n]."""
    z = jax.random.normal(key, (len(labels), gan.noise))
    return gan.generator.apply({"params": vars.params["gen"]}, z, vars.buffers["condition"][labels])


def critic_of(gan: Gan, vars: Vars, labels) -> Callable:
    """The critic's function of features [n, d] -> [n], given their classes."""
    condition = vars.buffers["condition"][labels]
    return lambda x: gan.critic.apply({"params": vars.params["critic"]}, x, condition)[:, 0]


def player(
    info: Info, name: str, groups: tuple[str, ...], loss: Callable, repeats: int = 1
) -> Player:
    """A player beside the main one: a GAN's Adam, no L2. Off the benchmark, where schedules are
    short, it is as fast as the main player (ours)."""
    config = info.config
    rate = RATE if config.dataset in BENCHMARK else config.train.learning_rate
    return Player(name, groups, loss, repeats, rate, BETAS, 0.0)


def critic_player(info: Info, gan: Gan, real: Callable) -> Player:
    """The critic tells real features from generated ones, five times per update.

    Args:
      real: (vars, shared features, batch, key) -> real features [n, d] and labels [n].
    """

    def loss(moving, vars: Vars, features, batch, key: jax.Array, role: str):
        vars = vars.replace(params={**vars.params, **moving})
        k_real, k_noise, k_mix = jax.random.split(key, 3)
        x, labels = real(vars, features, batch, k_real)
        fake = synthetic(gan, vars, k_noise, labels)
        mix = jax.random.uniform(k_mix, labels.shape)
        total = critic_loss(critic_of(gan, vars, labels), x, fake, mix).mean()
        return total, (vars.stats, {"loss": total})

    return player(info, "critic", ("critic",), loss, CRITIC_STEPS)
