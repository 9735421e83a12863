"""TSL (Xian et al. 2021): a representation of short segments learned on base classes and then
fixed, a linear classifier on it, and a VAE-GAN that makes segments of novel classes from their
text. A clip's score is the mean of its segments' probabilities.

Layers follow f-VAEGAN-D2 (Xian et al. 2019), whose unconditional critic needs unlabelled clips
that the protocol does not have. Widths are 512 and 300 in the benchmark.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import Frozen, Info, Method, Vars, main_player, scaling_buffers
from avdiff_jax.methods.shared import gan as gans
from avdiff_jax.methods.shared.gan import LEAKY, LINEAR, MLP, RELU, Gan, kl_divergence
from avdiff_jax.methods.shared.heads import apply_groups, classified
from avdiff_jax.nn.layers import EmbeddingNet
from avdiff_jax.nn.trunk import scaled

SEGMENTS = 10
ADVERSARIAL = 10.0  # weight of the critic's part in the generator's loss


def segments(info: Info, buffers, batch, within):
    """A video token of each tenth of a clip beside the audio token nearest in time.

    Args:
      within: [b, 10] in [0, 1): which token of its tenth.

    Returns:
      [b, 10, Da + Dv].
    """
    x = scaled(batch, buffers, info.config.model.video_norm)
    count = batch.video_mask.sum(1)[:, None]
    place = (jnp.arange(SEGMENTS)[None] + within) / SEGMENTS
    seen = jnp.clip((place * count).astype(jnp.int32), 0, count - 1)
    time = jnp.take_along_axis(batch.video_time, seen, axis=1)
    gap = jnp.abs(time[..., None] - batch.audio_time[:, None])
    heard = jnp.where(batch.audio_mask[:, None], gap, jnp.inf).argmin(-1)
    parts = [
        jnp.take_along_axis(x[name], at[..., None], axis=1)
        for name, at in (("audio", heard), ("video", seen))
    ]
    return jnp.concatenate(parts, axis=-1)


class Representation(nn.Module):
    """One embedding net (`enc`) on the concatenated modalities of a segment."""

    config: object

    def setup(self):
        """The group that substage 2 freezes."""
        model = self.config.model
        self.enc = EmbeddingNet((model.enc_hidden, model.dim), model.dropout_enc)

    def __call__(self, x, train: bool):
        """[b, 10, Da + Dv] -> [b, 10, dim]."""
        return self.enc(x, jnp.ones(x.shape[:-1], bool), train)


def classifier(info: Info) -> MLP:
    """Group `cls`: segment features -> logits."""
    return MLP((len(info.classes),), (LINEAR,))


def gan(info: Info) -> Gan:
    """Generator and critic of segment features; z is as wide as the text."""
    model = info.config.model
    return Gan(
        MLP((model.enc_hidden, model.dim), (LEAKY, RELU)),
        MLP((model.enc_hidden, 1), (LEAKY, LINEAR)),
        info.text.shape[1],
    )


def encoder(info: Info) -> MLP:
    """Group `aux`: (features, text) -> mean and log variance of z."""
    return MLP((info.config.model.enc_hidden, 2 * info.text.shape[1]), (LEAKY, LINEAR))


def init(key: jax.Array, info: Info, batch) -> Vars:
    """Representation, classifier, and the VAE-GAN on the class texts."""
    k_enc, k_cls, k_gan, k_encoder = jax.random.split(key, 4)
    buffers = {**scaling_buffers(info), "condition": jnp.asarray(info.text)}
    raw = segments(info, buffers, batch, jnp.full((len(batch.label), SEGMENTS), 0.5))
    x, made = Representation(info.config).init_with_output(k_enc, raw, False)
    x = x[:, 0]
    params = {**made["params"], "cls": classifier(info).init(k_cls, x)["params"]}
    params |= gans.init(k_gan, gan(info), buffers["condition"])
    params["aux"] = encoder(info).init(k_encoder, x, buffers["condition"][batch.label])["params"]
    return Vars(params, dict(made["stats"]), buffers)


def features(info: Info, vars: Vars, batch, key: jax.Array, train: bool):
    """Segment features [b, 10, dim]: random tokens in training, those in the middle of each
    tenth in evaluation and once the representation is fixed."""
    within = jnp.full((len(batch.label), SEGMENTS), 0.5)
    k_dropout = key
    if train:
        k_within, k_dropout = jax.random.split(key)
        within = jax.random.uniform(k_within, within.shape)
    raw = segments(info, vars.buffers, batch, within)
    return apply_groups(
        Representation(info.config), ("enc",), vars.params, vars.stats, raw,
        train=train, key=k_dropout,
    )


def flat(x, labels):
    """Segments as examples: [b, 10, dim] and [b] -> [10 b, dim] and [10 b]."""
    return x.reshape(-1, x.shape[-1]), jnp.repeat(labels, x.shape[1])


def generator_loss(info: Info, moving, vars: Vars, x, batch, key: jax.Array, role: str):
    """VAE: KL and squared error, summed over dimensions; GAN: -K of samples from N(0, I) and of
    reconstructions."""
    vars = vars.replace(params={**vars.params, **moving})
    k_z, k_noise = jax.random.split(key)
    x, labels = flat(x, batch.label)
    text = vars.buffers["condition"][labels]
    code = encoder(info).apply({"params": vars.params["aux"]}, x, text)
    mean, log_variance = jnp.split(code, 2, axis=-1)
    z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(k_noise, mean.shape)
    rebuilt = gan(info).generator.apply({"params": vars.params["gen"]}, z, text)
    critic = gans.critic_of(gan(info), vars, labels)
    fake = gans.synthetic(gan(info), vars, k_z, labels)
    metrics = {
        "kl": kl_divergence(mean, log_variance).mean(),
        "reconstruction": jnp.square(rebuilt - x).sum(-1).mean(),
        "adversarial": -(critic(fake) + critic(rebuilt)).mean(),
    }
    total = metrics["kl"] + metrics["reconstruction"] + ADVERSARIAL * metrics["adversarial"]
    return total, (vars.stats, {"loss": total, **metrics})


def logits_of(info: Info, params, x):
    """Logits [..., C] of segment features [..., dim]."""
    return classifier(info).apply({"params": params["cls"]}, x)


def loss(info: Info, moving, vars: Vars, x, batch, key: jax.Array, role: str):
    """CE of each real segment, and of as many synthetic ones in novel updates.

    Args:
      moving: parameters of the groups that this player moves.

    Returns:
      mean loss, (statistics, metrics).
    """
    params = {**vars.params, **moving}
    x, labels = flat(x, batch.label)
    total, metrics = classified(logits_of(info, params, x), labels)
    if role == "novel":
        fake = gans.synthetic(gan(info), vars, key, labels)
        metrics["ce_synthetic"] = cross_entropy(logits_of(info, params, fake), labels).mean()
        total = total + metrics["ce_synthetic"]
    return total, (vars.stats, {"loss": total, **metrics})


def players(info: Info, substage: int):
    """Critic, generator with its encoder, classifier; the last with the representation in
    substage 1."""
    groups = ("enc", "cls") if substage == 1 else ("cls",)

    def real(vars, x, batch, key):
        return flat(x, batch.label)

    return (
        gans.critic_player(info, gan(info), real),
        gans.player(info, "generator", ("gen", "aux"), partial(generator_loss, info)),
        main_player(info, groups, partial(loss, info)),
    )


def frozen(info: Info, substage: int) -> Frozen:
    """The representation is fixed in substage 2, statistics and dropout too."""
    return Frozen(("enc",), "eval") if substage == 2 else Frozen()


def scores(info: Info, vars: Vars, x):
    """Mean over segments of the softmax, [B, C]."""
    return nn.softmax(logits_of(info, vars.params, x)).mean(1)


def generate(info: Info, vars: Vars, key: jax.Array, labels):
    """Synthetic segment features [n, dim] of the classes `labels` [n]."""
    return gans.synthetic(gan(info), vars, key, labels)


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=frozen,
    generate=generate, embed=lambda info, vars, x: x.mean(1),
)
