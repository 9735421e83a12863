"""AV-GAN (Table 4 of the paper): AV-Diff whose diffusion model is replaced by a Wasserstein GAN
on the text, "similar to" that of TSL (Xian et al. 2021). Sizes: the published configurations.

The critic's losses stop at c_o; like the sampler of AV-Diff the generator moves with the main
player, so that the cross-entropy of what it makes of novel classes reaches it.
"""

import jax

from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods import avdiff
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.methods.shared import gan as gans
from avdiff_jax.methods.shared import trunk_methods
from avdiff_jax.methods.shared.gan import LEAKY, LINEAR, MLP, RELU, Gan
from avdiff_jax.methods.shared.heads import classified, embed, logits_of, real_features, scores

NOISE = {"activitynet": 32, "ucf": 64, "vggsound": 128}  # others: ours
CRITIC_HIDDEN = {"activitynet": 128, "ucf": 64, "vggsound": 128}  # others: ours
SLOPE = 0.01  # of the generator, as of AV-Diff's noise predictor


def gan(info: Info) -> Gan:
    """Generator and critic; the generator's hidden width is that of the noise predictor, shot
    by shot."""
    name, config = info.config.dataset, info.config
    return Gan(
        MLP((config.diffusion.hidden, config.model.width), (SLOPE, RELU)),
        MLP((CRITIC_HIDDEN.get(name, 64), 1), (LEAKY, LINEAR)),
        NOISE.get(name, 64),
    )


def init(key: jax.Array, info: Info, batch) -> Vars:
    """AV-Diff's trunk and head, a generator and a critic."""
    k_vars, k_gan = jax.random.split(key)
    vars = avdiff.conditioned(k_vars, info, batch)
    added = gans.init(k_gan, gan(info), vars.buffers["condition"])
    return vars.replace(params={**vars.params, **added})


def loss(info: Info, moving, vars: Vars, token, batch, key: jax.Array, role: str):
    """CE(real) - K(synthetic), and CE(synthetic) in novel updates.

    Args:
      moving: parameters of the groups that this player moves.

    Returns:
      mean loss, (statistics, metrics).
    """
    vars = vars.replace(params={**vars.params, **moving})
    k_head, k_noise = jax.random.split(key)
    (_, logits), stats = real_features(info, vars.params, vars.stats, token, k_head)
    total, metrics = classified(logits, batch.label)
    fake = gans.synthetic(gan(info), vars, k_noise, batch.label)
    metrics["adversarial"] = -gans.critic_of(gan(info), vars, batch.label)(fake).mean()
    total = total + metrics["adversarial"]
    if role == "novel":
        logits = logits_of(info, vars.params, fake)
        metrics["ce_synthetic"] = cross_entropy(logits, batch.label).mean()
        total = total + metrics["ce_synthetic"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int):
    """The critic on c_o, then all the rest but, in substage 2, the fusion."""

    def real(vars, token, batch, key):
        (c_o, _), _ = real_features(info, vars.params, vars.stats, token, key)
        return c_o, batch.label

    critic = gans.critic_player(info, gan(info), real)
    return (critic, *trunk_methods.players(info, substage, loss, ("gen",)))


def generate(info: Info, vars: Vars, key: jax.Array, labels):
    """Synthetic c_o [n, width] of the classes `labels` [n]."""
    return gans.synthetic(gan(info), vars, key, labels)


METHOD = Method(
    init=init, features=trunk_methods.features, players=players, scores=scores,
    frozen=trunk_methods.frozen, refresh=avdiff.refresh, generate=generate, embed=embed,
    grow=avdiff.grow,
)
