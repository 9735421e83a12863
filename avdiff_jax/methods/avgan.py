"""AV-GAN (Table 4 of the paper): AV-Diff whose diffusion model is replaced by a Wasserstein GAN
on the text, "similar to" that of TSL (Xian et al. 2021).

The critic's losses stop at c_o; like the sampler of AV-Diff the generator moves with the main
player, so that the cross-entropy of what it makes of novel classes reaches it.
"""

import jax

from avdiff_jax.data.feed import Batch
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods import avdiff
from avdiff_jax.methods.method import Info, Labelled, Method, Player, Vars
from avdiff_jax.methods.shared import gan as gans
from avdiff_jax.methods.shared import trunk_methods
from avdiff_jax.methods.shared.gan import LEAKY, LINEAR, MLP, RELU, Gan
from avdiff_jax.methods.shared.heads import apply_head, classify, embed, judge_real, scores

SLOPE = 0.01  # of the generator, as of AV-Diff's noise predictor


def build_gan(info: Info) -> Gan:
    """Generator and critic; the generator's hidden width is that of the noise predictor, shot
    by shot."""
    config = info.config
    return Gan(
        MLP((config.diffusion.hidden, config.model.width), (SLOPE, RELU)),
        MLP((config.avgan.critic_hidden, 1), (LEAKY, LINEAR)),
        config.avgan.noise,
    )


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws AV-Diff's trunk and head, a generator and a critic."""
    k_variables, k_gan = jax.random.split(key)
    variables = avdiff.init_conditioned(info, batch, k_variables)
    added = gans.init(build_gan(info), variables.buffers["condition"], k_gan)
    return variables.replace(params={**variables.params, **added})


def loss(
    info: Info, variables: Vars, token: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """CE(real) - K(synthetic), and CE(synthetic) in novel updates.

    Returns:
      mean loss, (statistics, metrics).
    """
    k_head, k_noise = jax.random.split(key)
    (_, logits), stats = apply_head(info, variables, token, k_head)
    total, metrics = judge_real(logits, batch.label)
    gan = build_gan(info)
    fake = gans.synthesize(gan, variables, batch.label, k_noise)
    metrics["adversarial"] = -gans.bind_critic(gan, variables, batch.label)(fake).mean()
    total = total + metrics["adversarial"]
    if role == "novel":
        logits = classify(info, variables, fake)
        metrics["ce_synthetic"] = cross_entropy(logits, batch.label).mean()
        total = total + metrics["ce_synthetic"]
    return total, (stats, {"loss": total, **metrics})


def embed_real(
    info: Info, variables: Vars, token: jax.Array, batch: Labelled, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the critic is to take for real: c_o [B, width] in training mode, and the labels."""
    (c_o, _), _ = apply_head(info, variables, token, key)
    return c_o, batch.label


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """The critic on c_o, then all the rest but, in substage 2, the fusion."""
    critic = gans.make_critic_player(info, build_gan(info), embed_real)
    return (critic, *trunk_methods.players(info, substage, loss, ("gen",)))


def generate(info: Info, variables: Vars, labels: jax.Array, key: jax.Array) -> jax.Array:
    """Draws synthetic c_o [n, width] of the classes `labels` [n]."""
    return gans.synthesize(build_gan(info), variables, labels, key)


METHOD = Method(
    init=init, features=trunk_methods.features, players=players, scores=scores,
    frozen=trunk_methods.frozen, refresh=avdiff.refresh, generate=generate, embed=embed,
    grow=avdiff.grow,
    reads=(*trunk_methods.READS, *avdiff.FUSION, "diffusion.hidden", "diffusion.condition"),
    needs_text=lambda config: config.diffusion.condition != "prototype",
)
