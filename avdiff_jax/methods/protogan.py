"""ProtoGAN (Kumar Dwivedi et al. 2019): a GAN conditioned on class prototypes synthesises
features of novel classes; in the benchmark, of clip averages of the concatenated modalities.

Layer pattern and loss weights follow GANs of the same group for zero-shot action recognition
(Mandal et al. 2019); nothing but the last head is learned between input and features, so there
is nothing to freeze in substage 2.
"""

from functools import partial

import jax
import jax.numpy as jnp

from avdiff_jax.losses import cross_entropy, mean_where, negatives, squared_error
from avdiff_jax.methods.method import Info, Method, Vars, main_player, scaling_buffers
from avdiff_jax.methods.shared import gan as gans
from avdiff_jax.methods.shared.gan import BENCHMARK, LEAKY, LINEAR, MLP, RELU, Gan, cosine_embedding
from avdiff_jax.methods.shared.heads import HEAD, classified, head, real_features, scores
from avdiff_jax.methods.shared.prototypes import class_statistics, clip_vector

COSINE, PROTOTYPE = 0.1, 0.01  # weights of the generator's two losses besides the critic's


def vector(info: Info, buffers, batch):
    """Temporal means of both modalities, each of unit length, together too: [b, Da + Dv]."""
    parts = clip_vector(batch, buffers, info.config.model.video_norm)
    return jnp.concatenate(parts, axis=-1) * 0.5**0.5


def gan(info: Info) -> Gan:
    """Generator and critic; widths 512 and 300 in the benchmark."""
    model, width = info.config.model, len(info.audio_shift) + info.video_dim
    hidden = model.enc_hidden  # ours
    # The benchmark's features are not negative; others may be.
    end = RELU if info.config.dataset in BENCHMARK else LINEAR
    return Gan(
        MLP((hidden, hidden, width), (LEAKY, RELU, end)),
        MLP((hidden, 1), (LEAKY, LINEAR)),
        model.dim,
    )


def decoder(info: Info) -> MLP:
    """Group `aux`: features [n, d] back to the prototype of their class."""
    width = len(info.audio_shift) + info.video_dim
    return MLP((info.config.model.enc_hidden, width), (LEAKY, LINEAR))


def init(key: jax.Array, info: Info, batch) -> Vars:
    """Generator, critic, decoder and head; the prototypes are the buffer `condition`."""
    k_head, k_gan, k_decoder = jax.random.split(key, 3)
    buffers = scaling_buffers(info)
    x = vector(info, buffers, batch)
    buffers["condition"] = jnp.zeros((len(info.classes), x.shape[1]))
    made = head(info).init(k_head, x, False)
    params = {**made["params"], **gans.init(k_gan, gan(info), buffers["condition"])}
    params["aux"] = decoder(info).init(k_decoder, x)["params"]
    return Vars(params, dict(made["stats"]), buffers)


def features(info: Info, vars: Vars, batch, key, train: bool):
    """`vector`; nothing in it is learned."""
    return vector(info, vars.buffers, batch), vars.stats


def decoder_loss(info: Info, moving, vars: Vars, x, batch, key: jax.Array, role: str):
    """The decoder finds the prototype of a real clip's class."""
    found = decoder(info).apply({"params": moving["aux"]}, x)
    total = squared_error(found, vars.buffers["condition"][batch.label]).mean()
    return total, (vars.stats, {"loss": total})


def generator_loss(info: Info, moving, vars: Vars, x, batch, key: jax.Array, role: str):
    """-K(fake), the angle to real clips (small to the own class, large to others; only classes
    of the batch), and the prototype that the decoder finds in the fake."""
    vars = vars.replace(params={**vars.params, **moving})
    k_noise, k_others = jax.random.split(key)
    labels = batch.label
    fake = gans.synthetic(gan(info), vars, k_noise, labels)
    other, found = negatives(k_others, labels)
    matched = jnp.ones(labels.shape, bool)
    cosine = cosine_embedding(fake, x, matched).mean()
    cosine = cosine + mean_where(cosine_embedding(fake, x[other], ~matched), found)
    prototype = decoder(info).apply({"params": vars.params["aux"]}, fake)
    metrics = {
        "adversarial": -gans.critic_of(gan(info), vars, labels)(fake).mean(),
        "cosine": cosine,
        "prototype": squared_error(prototype, vars.buffers["condition"][labels]).mean(),
    }
    total = metrics["adversarial"] + COSINE * cosine + PROTOTYPE * metrics["prototype"]
    return total, (vars.stats, {"loss": total, **metrics})


def loss(info: Info, moving, vars: Vars, x, batch, key: jax.Array, role: str):
    """CE(real), and CE(synthetic) in novel updates; the generator is another player's.

    Synthetic features pass BatchNorm by themselves, and the running statistics, which serve
    real clips, do not see them.
    """
    params = {**vars.params, **moving}
    k_real, k_fake, k_noise = jax.random.split(key, 3)
    (_, logits), stats = real_features(info, params, vars.stats, x, k_real)
    total, metrics = classified(logits, batch.label)
    if role == "novel":
        fake = gans.synthetic(gan(info), vars, k_noise, batch.label)
        (_, logits), _ = real_features(info, params, vars.stats, fake, k_fake)
        metrics["ce_synthetic"] = cross_entropy(logits, batch.label).mean()
        total = total + metrics["ce_synthetic"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int):
    """Critic, decoder, generator, classifier."""
    return (
        gans.critic_player(info, gan(info), lambda vars, x, batch, key: (x, batch.label)),
        gans.player(info, "decoder", ("aux",), partial(decoder_loss, info)),
        gans.player(info, "generator", ("gen",), partial(generator_loss, info)),
        main_player(info, HEAD, partial(loss, info)),
    )


def refresh(info: Info, vars: Vars, clips) -> Vars:
    """Prototypes: the class means of `vector` over the substage's training clips."""
    mean, _ = class_statistics(info, partial(vector, info, vars.buffers), clips())
    return vars.replace(buffers={**vars.buffers, "condition": mean})


def generate(info: Info, vars: Vars, key: jax.Array, labels):
    """Synthetic clip vectors [n, Da + Dv] of the classes `labels` [n]."""
    return gans.synthetic(gan(info), vars, key, labels)


METHOD = Method(
    init=init, features=features, players=players, scores=scores, refresh=refresh,
    generate=generate, embed=lambda info, vars, x: x,
)
