"""AV-Diff: hybrid attention fuses audio and video, a text-conditioned DDPM generates
features of novel classes (Section 3 of the paper)."""

import jax
import jax.numpy as jnp

from avdiff_jax import diffusion
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.methods.shared import trunk_methods
from avdiff_jax.methods.shared.heads import classified, embed, logits_of, real_features, scores
from avdiff_jax.methods.shared.prototypes import class_statistics, prototypes
from avdiff_jax.methods.shared.trunk_methods import features

TRUNK = trunk_methods.TRUNK


def _predictor(info: Info, vars: Vars) -> diffusion.NoisePredictor:
    d = info.config.diffusion
    condition = vars.buffers["condition"].shape[1]
    return diffusion.NoisePredictor(d.hidden, info.config.model.width, condition, d.dropout)


def _schedule(info: Info) -> diffusion.Schedule:
    return diffusion.schedule(info.config.diffusion.steps, info.config.diffusion.schedule)


def conditioned(key: jax.Array, info: Info, batch) -> Vars:
    """Fresh trunk and head for batches like `batch`, with the generator's condition [C, dc] as
    a buffer: the class texts, or prototypes (Table 6), which `refresh` fills in."""
    vars = trunk_methods.init(key, info, batch)
    if info.config.diffusion.condition == "text":
        condition = jnp.asarray(info.text)
    else:
        width = len(info.audio_shift) + info.video_dim
        condition = jnp.zeros((len(info.classes), width))
    return vars.replace(buffers={**vars.buffers, "condition": condition})


def init(key: jax.Array, info: Info, batch) -> Vars:
    """Fresh variables for batches like `batch`; the generator's group is `gen`."""
    vars = conditioned(key, info, batch)
    width = info.config.model.width
    if info.config.generator == "diffusion":
        k_gen = jax.random.split(key, 4)[3]  # the first three are the trunk's and the head's
        w = vars.buffers["condition"][:1]
        gen = _predictor(info, vars).init(k_gen, jnp.zeros((1, width)), jnp.zeros(1), w)
        vars = vars.replace(params={**vars.params, "gen": gen["params"]})
    elif info.config.generator == "gaussian":
        gaussian = {
            "gaussian_mean": jnp.zeros((len(info.classes), width)),
            "gaussian_deviation": jnp.zeros(width),
        }
        vars = vars.replace(buffers={**vars.buffers, **gaussian})
    return vars


def generate(
    info: Info, vars: Vars, key: jax.Array, labels, train: bool = False, d=None
) -> jax.Array:
    """Synthetic c_o for each label [n] by the reverse diffusion process; [n, width].

    With `generator=gaussian`, the control, they are draws around the class means instead.

    Args:
      train: dropout runs in all T steps.
      d: the draws, instead of `key`'s; of the sampler with all T steps alone.
    """
    if info.config.generator == "gaussian":
        mean = vars.buffers["gaussian_mean"][labels]
        noise = jax.random.normal(key, mean.shape)
        return mean + vars.buffers["gaussian_deviation"][None] * noise
    s = _schedule(info)
    params = vars.params["gen"]
    model = _predictor(info, vars)
    condition = vars.buffers["condition"][labels]
    few, shape = info.config.diffusion.few_steps, (len(labels), info.config.model.width)
    # The terms of t and w do not change over the chain.
    prepared = model.apply({"params": params}, condition, method="prepared")

    def step(x, t, k):
        return model.apply({"params": params}, x, t, prepared, k if train else None, method="step")

    if few:
        k_start, k_drop = jax.random.split(key)
        start = jax.random.normal(k_start, shape)
        return diffusion.sample_few(step, start, jax.random.split(k_drop, few), s)
    d = d or diffusion.draws(key, s, *shape)
    return diffusion.sample(step, d, s, info.config.diffusion.final_noise)


def loss(info: Info, moving, vars: Vars, token, batch, key: jax.Array, role: str, drawn=None):
    """CE(real) + L_diff, and CE(synthetic) in novel updates (Section 4.3).

    Args:
      moving: parameters of the groups that this player moves.
      drawn: (t [B], noise [B, width], sampler draws), instead of `key`'s.

    Returns:
      mean loss, (statistics, metrics).
    """
    config = info.config
    params = {**vars.params, **moving}
    k_head, k_t, k_noise, k_drop, k_sample = jax.random.split(key, 5)
    (c_o, logits), stats = real_features(info, params, vars.stats, token, k_head)
    total, metrics = classified(logits, batch.label)
    d = None
    if config.generator == "diffusion":
        s = _schedule(info)
        t, noise, d = drawn or (
            jax.random.randint(k_t, batch.label.shape, 0, s.steps),
            jax.random.normal(k_noise, c_o.shape),
            None,
        )
        model = _predictor(info, vars)

        def predict(x, t, w):
            return model.apply({"params": params["gen"]}, x, t, w, k_drop)

        w = vars.buffers["condition"][batch.label]
        metrics["noise_loss"] = diffusion.noise_loss(predict, c_o, w, t, noise, s).mean()
        total = total + metrics["noise_loss"]
    if config.generator != "none" and role == "novel":
        c_hat = generate(info, vars.replace(params=params), k_sample, batch.label, True, d)
        if not config.diffusion.sampler_gradient:
            c_hat = jax.lax.stop_gradient(c_hat)
        metrics["ce_synthetic"] = cross_entropy(logits_of(info, params, c_hat), batch.label).mean()
        total = total + metrics["ce_synthetic"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int):
    """One player: everything in substage 1, all but the fusion in substage 2."""
    generator = ("gen",) if info.config.generator == "diffusion" else ()
    return trunk_methods.players(info, substage, loss, generator)


def refresh(info: Info, vars: Vars, clips) -> Vars:
    """What the generator is told about the classes, from the substage's training clips.

    Prototypes as the condition (Table 6), where asked for. For `generator=gaussian` the mean
    of c_o of each class and the deviation from it that all classes share, in evaluation mode
    with the parameters that the substage starts from: the Gaussians stay where Projnet was
    then, as the fusion that it reads stands still in substage 2.
    """
    buffers = dict(vars.buffers)
    if info.config.diffusion.condition == "prototype":
        buffers["condition"] = prototypes(clips(), vars.buffers, info)
    if info.config.generator == "gaussian":

        def c_o(batch):
            return embed(info, vars, features(info, vars, batch, None, False)[0])

        mean, deviation = class_statistics(info, c_o, clips())
        buffers |= {"gaussian_mean": mean, "gaussian_deviation": deviation}
    return vars.replace(buffers=buffers)


def grow(key: jax.Array, info: Info, vars: Vars, clips) -> Vars:
    """CLnet with outputs for more classes, and what the generator is told about these."""
    vars = trunk_methods.grow(key, info, vars, clips)
    known = len(vars.buffers["condition"])
    told = refresh(info, vars, clips).buffers
    if info.config.diffusion.condition == "text":
        told = {**told, "condition": jnp.asarray(info.text)}
    of_classes = [name for name in ("condition", "gaussian_mean") if name in told]
    grown = {n: jnp.concatenate([vars.buffers[n], told[n][known:]]) for n in of_classes}
    return vars.replace(buffers={**vars.buffers, **grown})


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=trunk_methods.frozen,
    refresh=refresh, generate=generate, embed=embed, grow=grow,
)
