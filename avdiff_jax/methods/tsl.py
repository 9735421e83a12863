"""TSL (Xian et al. 2021): a representation of short segments learned on base classes and then
fixed, a linear classifier on it, and a VAE-GAN that makes segments of novel classes from their
text. A clip's score is the mean of its segments' probabilities.

Layers follow f-VAEGAN-D2 (Xian et al. 2019), whose unconditional critic needs unlabelled clips
that the protocol does not have. Widths are 512 and 300 in the benchmark.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from avdiff_jax.data.feed import Batch
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import (
    FREEZING,
    TRAINED,
    Frozen,
    Info,
    Labelled,
    Method,
    Player,
    Vars,
    main_player,
    scaling_buffers,
)
from avdiff_jax.methods.shared import gan as gans
from avdiff_jax.methods.shared.gan import LEAKY, LINEAR, MLP, RELU, Gan, kl_divergence
from avdiff_jax.methods.shared.heads import apply_groups, judge_real
from avdiff_jax.methods.shared.trunk_methods import ENCODERS
from avdiff_jax.nn.layers import EmbeddingNet, apply_params
from avdiff_jax.nn.trunk import scaled

SEGMENTS = 10
ADVERSARIAL = 10.0  # weight of the critic's part in the generator's loss


def cut_segments(
    info: Info, buffers: dict[str, jax.Array], batch: Batch, within: Float[Array, "b s"]
) -> Float[Array, "b s d"]:
    """Puts a video token of each tenth of a clip beside the audio token nearest in time.

    Args:
      info: of the stage.
      buffers: with those of the scaling.
      batch: of clips.
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
        jnp.take_along_axis(x[name], token[..., None], axis=1)
        for name, token in (("audio", heard), ("video", seen))
    ]
    return jnp.concatenate(parts, axis=-1)


class Representation(nn.Module):
    """One embedding net (`enc`) on the concatenated modalities of a segment."""

    config: ConfigDict

    def setup(self):
        """The group that substage 2 freezes."""
        model = self.config.model
        self.enc = EmbeddingNet((model.enc_hidden, model.dim), model.dropout_enc)

    def __call__(self, x: Float[Array, "b s d"], train: bool) -> Float[Array, "b s dim"]:
        """[b, 10, Da + Dv] -> [b, 10, dim]."""
        return self.enc(x, jnp.ones(x.shape[:-1], bool), train)


def build_classifier(info: Info) -> MLP:
    """Group `cls`: segment features -> logits."""
    return MLP((len(info.classes),), (LINEAR,))


def build_gan(info: Info) -> Gan:
    """Generator and critic of segment features; z is as wide as the text."""
    model = info.config.model
    return Gan(
        MLP((model.enc_hidden, model.dim), (LEAKY, RELU)),
        MLP((model.enc_hidden, 1), (LEAKY, LINEAR)),
        info.text.shape[1],
    )


def build_encoder(info: Info) -> MLP:
    """Group `aux`: (features, text) -> mean and log variance of z."""
    return MLP((info.config.model.enc_hidden, 2 * info.text.shape[1]), (LEAKY, LINEAR))


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws representation, classifier, and the VAE-GAN on the class texts."""
    k_enc, k_cls, k_gan, k_encoder = jax.random.split(key, 4)
    buffers = {**scaling_buffers(info), "condition": jnp.asarray(info.text)}
    raw = cut_segments(info, buffers, batch, jnp.full((len(batch.label), SEGMENTS), 0.5))
    x, enc = Representation(info.config).init_with_output(k_enc, raw, False)
    x = x[:, 0]
    cls = build_classifier(info).init(k_cls, x)
    gan = gans.init(build_gan(info), buffers["condition"], k_gan)
    aux = build_encoder(info).init(k_encoder, x, buffers["condition"][batch.label])
    params = {**enc["params"], "cls": cls["params"], **gan, "aux": aux["params"]}
    return Vars(params, dict(enc["stats"]), buffers)


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """Segment features [b, 10, dim]: of random tokens in training, of those in the middle of each
    tenth in evaluation and once the representation is fixed; and the statistics."""
    within = jnp.full((len(batch.label), SEGMENTS), 0.5)
    k_dropout = key
    if train:
        k_within, k_dropout = jax.random.split(key)
        within = jax.random.uniform(k_within, within.shape)
    raw = cut_segments(info, variables.buffers, batch, within)
    return apply_groups(
        Representation(info.config), ("enc",), variables, raw, train=train, key=k_dropout
    )


def flatten(x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Makes an example of each segment: [b, 10, dim] and [b] -> [10 b, dim] and [10 b]."""
    return x.reshape(-1, x.shape[-1]), jnp.repeat(labels, x.shape[1])


def generator_loss(
    info: Info, variables: Vars, x: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """VAE: KL and squared error, summed over dimensions; GAN: -K of samples from N(0, I) and of
    reconstructions."""
    k_z, k_noise = jax.random.split(key)
    x, labels = flatten(x, batch.label)
    text = variables.buffers["condition"][labels]
    code = apply_params(build_encoder(info), variables.params["aux"], x, text)
    mean, log_variance = jnp.split(code, 2, axis=-1)
    z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(k_noise, mean.shape)
    gan = build_gan(info)
    rebuilt = apply_params(gan.generator, variables.params["gen"], z, text)
    critic = gans.bind_critic(gan, variables, labels)
    fake = gans.synthesize(gan, variables, labels, k_z)
    metrics = {
        "kl": kl_divergence(mean, log_variance).mean(),
        "reconstruction": jnp.square(rebuilt - x).sum(-1).mean(),
        "adversarial": -(critic(fake) + critic(rebuilt)).mean(),
    }
    total = metrics["kl"] + metrics["reconstruction"] + ADVERSARIAL * metrics["adversarial"]
    return total, (variables.stats, {"loss": total, **metrics})


def classify(info: Info, variables: Vars, x: jax.Array) -> jax.Array:
    """Applies the classifier to segment features [..., dim]; returns logits [..., C]."""
    return apply_params(build_classifier(info), variables.params["cls"], x)


def loss(info: Info, variables: Vars, x: jax.Array, batch: Labelled, key: jax.Array, role: str):
    """CE of each real segment, and of as many synthetic ones in novel updates.

    Returns:
      mean loss, (statistics, metrics).
    """
    x, labels = flatten(x, batch.label)
    total, metrics = judge_real(classify(info, variables, x), labels)
    if role == "novel":
        fake = gans.synthesize(build_gan(info), variables, labels, key)
        metrics["ce_synthetic"] = cross_entropy(classify(info, variables, fake), labels).mean()
        total = total + metrics["ce_synthetic"]
    return total, (variables.stats, {"loss": total, **metrics})


def take_segments(
    info: Info, variables: Vars, x: jax.Array, batch: Labelled, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the critic is to take for real: the segments [10 b, dim] and their labels."""
    return flatten(x, batch.label)


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """Critic, generator with its encoder, classifier; the last moves the representation too in
    substage 1."""
    groups = ("enc", "cls") if substage == 1 else ("cls",)
    return (
        gans.make_critic_player(info, build_gan(info), take_segments),
        gans.make_player(info, "generator", ("gen", "aux"), generator_loss),
        main_player(info, groups, loss),
    )


def frozen(info: Info, substage: int) -> Frozen:
    """The representation is fixed in substage 2."""
    return Frozen(("enc",), info.config.train.frozen_mode) if substage == 2 else Frozen()


def scores(info: Info, variables: Vars, x: jax.Array) -> jax.Array:
    """The mean over segments of the softmax, [B, C]."""
    return nn.softmax(classify(info, variables, x)).mean(1)


def generate(info: Info, variables: Vars, labels: jax.Array, key: jax.Array) -> jax.Array:
    """Draws synthetic segment features [n, dim] of the classes `labels` [n]."""
    return gans.synthesize(build_gan(info), variables, labels, key)


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=frozen,
    reads=(*TRAINED, *FREEZING, *ENCODERS), generate=generate,
    embed=lambda info, variables, x: x.mean(1), needs_text=lambda config: True,
)
