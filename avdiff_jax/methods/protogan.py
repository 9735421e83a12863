"""ProtoGAN (Kumar Dwivedi et al. 2019): a GAN conditioned on class prototypes synthesises
features of novel classes; in the benchmark, of clip averages of the concatenated modalities.

Layer pattern and loss weights follow GANs of the same group for zero-shot action recognition
(Mandal et al. 2019); nothing but the last head is learned between input and features, so there
is nothing to freeze in substage 2.
"""

import jax
import jax.numpy as jnp

from avdiff_jax.data.feed import Batch
from avdiff_jax.losses import cross_entropy, mean_where, negatives, squared_error
from avdiff_jax.methods.method import (
    TRAINED,
    Clips,
    Info,
    Labelled,
    Method,
    Player,
    Vars,
    main_player,
    scaling_buffers,
)
from avdiff_jax.methods.shared import gan as gans
from avdiff_jax.methods.shared.gan import LEAKY, LINEAR, MLP, RELU, Gan, cosine_embedding
from avdiff_jax.methods.shared.heads import (
    HEAD,
    READS,
    apply_head,
    build_head,
    judge_real,
    scores,
)
from avdiff_jax.methods.shared.prototypes import average_classes, average_clips
from avdiff_jax.nn.layers import apply_params

COSINE, PROTOTYPE = 0.1, 0.01  # weights of the generator's two losses besides the critic's


def concat_averages(info: Info, buffers: dict[str, jax.Array], batch: Batch) -> jax.Array:
    """Puts the temporal means of both modalities side by side, each of unit length, together too:
    [b, Da + Dv]."""
    parts = average_clips(batch, buffers, info.config.model.video_norm)
    return jnp.concatenate(parts, axis=-1) * 0.5**0.5


def build_gan(info: Info) -> Gan:
    """Generator and critic; widths 512 and 300 in the benchmark."""
    model, width = info.config.model, len(info.audio_shift) + info.video_dim
    hidden = model.enc_hidden  # ours
    end = RELU if info.config.protogan.nonnegative else LINEAR
    return Gan(
        MLP((hidden, hidden, width), (LEAKY, RELU, end)),
        MLP((hidden, 1), (LEAKY, LINEAR)),
        model.dim,
    )


def build_decoder(info: Info) -> MLP:
    """Group `aux`: features [n, d] back to the prototype of their class."""
    width = len(info.audio_shift) + info.video_dim
    return MLP((info.config.model.enc_hidden, width), (LEAKY, LINEAR))


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws generator, critic, decoder and head; the prototypes are the buffer `condition`."""
    k_head, k_gan, k_decoder = jax.random.split(key, 3)
    buffers = scaling_buffers(info)
    x = concat_averages(info, buffers, batch)
    buffers["condition"] = jnp.zeros((len(info.classes), x.shape[1]))
    head = build_head(info).init(k_head, x, False)
    params = {**head["params"], **gans.init(build_gan(info), buffers["condition"], k_gan)}
    params["aux"] = build_decoder(info).init(k_decoder, x)["params"]
    return Vars(params, dict(head["stats"]), buffers)


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """`concat_averages` and the statistics; nothing in it is learned."""
    return concat_averages(info, variables.buffers, batch), variables.stats


def decoder_loss(
    info: Info, variables: Vars, x: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """The squared distance of what the decoder makes of a real clip from its class's prototype."""
    prototype = apply_params(build_decoder(info), variables.params["aux"], x)
    total = squared_error(prototype, variables.buffers["condition"][batch.label]).mean()
    return total, (variables.stats, {"loss": total})


def generator_loss(
    info: Info, variables: Vars, x: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """-K(fake), the angle to real clips (small to the own class, large to others; only classes
    of the batch), and the distance of what the decoder makes of the fake from the prototype."""
    k_noise, k_others = jax.random.split(key)
    labels, gan = batch.label, build_gan(info)
    fake = gans.synthesize(gan, variables, labels, k_noise)
    other, exists = negatives(k_others, labels)
    matched = jnp.ones(labels.shape, bool)
    cosine = cosine_embedding(fake, x, matched).mean()
    cosine = cosine + mean_where(cosine_embedding(fake, x[other], ~matched), exists)
    prototype = apply_params(build_decoder(info), variables.params["aux"], fake)
    metrics = {
        "adversarial": -gans.bind_critic(gan, variables, labels)(fake).mean(),
        "cosine": cosine,
        "prototype": squared_error(prototype, variables.buffers["condition"][labels]).mean(),
    }
    total = metrics["adversarial"] + COSINE * cosine + PROTOTYPE * metrics["prototype"]
    return total, (variables.stats, {"loss": total, **metrics})


def loss(info: Info, variables: Vars, x: jax.Array, batch: Labelled, key: jax.Array, role: str):
    """CE(real), and CE(synthetic) in novel updates; the generator is another player's.

    Synthetic features pass BatchNorm by themselves, and the running statistics, which serve
    real clips, do not see them.

    Returns:
      mean loss, (statistics, metrics).
    """
    k_real, k_fake, k_noise = jax.random.split(key, 3)
    (_, logits), stats = apply_head(info, variables, x, k_real)
    total, metrics = judge_real(logits, batch.label)
    if role == "novel":
        fake = gans.synthesize(build_gan(info), variables, batch.label, k_noise)
        (_, logits), _ = apply_head(info, variables, fake, k_fake)
        metrics["ce_synthetic"] = cross_entropy(logits, batch.label).mean()
        total = total + metrics["ce_synthetic"]
    return total, (stats, {"loss": total, **metrics})


def take_clips(
    info: Info, variables: Vars, x: jax.Array, batch: Labelled, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the critic is to take for real: the clips [B, Da + Dv] and their labels."""
    return x, batch.label


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """Critic, decoder, generator, classifier."""
    return (
        gans.make_critic_player(info, build_gan(info), take_clips),
        gans.make_player(info, "decoder", ("aux",), decoder_loss),
        gans.make_player(info, "generator", ("gen",), generator_loss),
        main_player(info, HEAD, loss),
    )


def refresh(info: Info, variables: Vars, clips: Clips) -> Vars:
    """Computes the prototypes: class means of `concat_averages` over the training clips."""

    def embed_clips(batch):
        return concat_averages(info, variables.buffers, batch)

    mean, _ = average_classes(info, embed_clips, clips())
    return variables.replace(buffers={**variables.buffers, "condition": mean})


def generate(info: Info, variables: Vars, labels: jax.Array, key: jax.Array) -> jax.Array:
    """Draws synthetic clip vectors [n, Da + Dv] of the classes `labels` [n]."""
    return gans.synthesize(build_gan(info), variables, labels, key)


METHOD = Method(
    init=init, features=features, players=players, scores=scores, refresh=refresh,
    reads=(*TRAINED, *READS, "model.video_norm", "model.enc_hidden", "model.dim"),
    generate=generate, embed=lambda info, variables, x: x,
)
