"""AV-Diff: hybrid attention fuses audio and video, a text-conditioned DDPM generates
features of novel classes (Section 3 of the paper)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from avdiff_jax import diffusion
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import Frozen, Info, Method, Vars, main_player, scaling_buffers
from avdiff_jax.methods.prototypes import prototypes
from avdiff_jax.nn.layers import Head
from avdiff_jax.nn.trunk import Trunk

TRUNK = ("enc", "pos", "fusion")


def _head(info: Info) -> Head:
    model = info.config.model
    return Head(model.proj_hidden, model.width, len(info.classes), model.dropout_proj)


def _predictor(info: Info, vars: Vars) -> diffusion.NoisePredictor:
    d = info.config.diffusion
    condition = vars.buffers["condition"].shape[1]
    return diffusion.NoisePredictor(d.hidden, info.config.model.width, condition, d.dropout)


def _schedule(info: Info) -> diffusion.Schedule:
    return diffusion.schedule(info.config.diffusion.steps, info.config.diffusion.schedule)


def init(key: jax.Array, info: Info, batch) -> Vars:
    """Fresh variables for batches like `batch`; the generator's group is `gen`."""
    k_r, k_trunk, k_head, k_gen = jax.random.split(key, 4)
    model = info.config.model
    buffers = scaling_buffers(info)
    buffers["fourier"] = model.fourier_scale * jax.random.normal(k_r, (2, model.code // 2))
    if info.config.diffusion.condition == "text":
        buffers["condition"] = jnp.asarray(info.text)
    else:
        width = len(info.audio_shift) + info.video_dim
        buffers["condition"] = jnp.zeros((len(info.classes), width))
    trunk = Trunk(info.config).init(k_trunk, batch, buffers, False)
    head = _head(info).init(k_head, jnp.zeros((1, model.dim)), False)
    params = {**trunk["params"], **head["params"]}
    stats = {**trunk["stats"], **head["stats"]}
    vars = Vars(params, stats, buffers)
    if info.config.generator == "diffusion":
        w = jnp.zeros((1, buffers["condition"].shape[1]))
        x = jnp.zeros((1, model.width))
        gen = _predictor(info, vars).init(k_gen, x, jnp.zeros(1), w)
        params["gen"] = gen["params"]
    return vars


def features(info: Info, vars: Vars, batch, key: jax.Array, train: bool):
    """The fused class token [B, dim] and the statistics of the embedding nets."""
    trunk = {
        "params": {g: vars.params[g] for g in TRUNK},
        "stats": {"enc": vars.stats["enc"]},
    }
    mutable = ["stats"] if train else []
    token, updated = Trunk(info.config).apply(
        trunk, batch, vars.buffers, train, rngs={"dropout": key}, mutable=mutable
    )
    return token, {**vars.stats, **updated.get("stats", {})}


def _apply_head(info, params, stats, method, *args, key=None):
    variables = {
        "params": {g: params[g] for g in ("proj", "cls")},
        "stats": {"proj": stats["proj"]},
    }
    train = key is not None
    out, updated = _head(info).apply(
        variables, *args, method=method,
        rngs={"dropout": key} if train else {}, mutable=["stats"] if train else [],
    )
    return out, updated.get("stats", {})


def real_features(info: Info, params, stats, token, key: jax.Array | None):
    """Class token -> (c_o, logits) and Projnet's statistics; evaluation mode without a key."""
    return _apply_head(info, params, stats, "__call__", token, key is not None, key=key)


def logits_of(info: Info, params, c_o):
    """CLnet on c_o [b, width]."""
    return _head(info).apply({"params": {"cls": params["cls"]}}, c_o, method="classify")


def generate(
    info: Info, vars: Vars, key: jax.Array, labels, train: bool = False, d=None
) -> jax.Array:
    """Synthetic c_o for each label [n] by the reverse diffusion process; [n, width].

    Args:
      train: dropout runs in all T steps.
      d: the draws, instead of `key`'s.
    """
    s = _schedule(info)
    params = vars.params["gen"]
    model = _predictor(info, vars)
    condition = vars.buffers["condition"][labels]
    if d is None:
        d = diffusion.draws(key, s, len(labels), info.config.model.width)
    # The terms of t and w do not change over the chain.
    prepared = model.apply({"params": params}, condition, method="prepared")

    def step(x, t, k):
        return model.apply({"params": params}, x, t, prepared, k if train else None, method="step")

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
    (c_o, logits), updated = real_features(info, params, vars.stats, token, k_head)
    metrics = {"ce_real": cross_entropy(logits, batch.label).mean()}
    total = metrics["ce_real"]
    metrics["accuracy"] = 100 * (logits.argmax(-1) == batch.label).mean()
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
        if role == "novel":
            gen = params["gen"]
            if not config.diffusion.sampler_gradient:
                gen = jax.lax.stop_gradient(gen)
            sampling = vars.replace(params={**params, "gen": gen})
            c_hat = generate(info, sampling, k_sample, batch.label, True, d)
            fake = logits_of(info, params, c_hat)
            metrics["ce_synthetic"] = cross_entropy(fake, batch.label).mean()
            total = total + metrics["ce_synthetic"]
    return total, ({**vars.stats, **updated}, {"loss": total, **metrics})


def players(info: Info, substage: int):
    """One player: everything in substage 1, all but the fusion in substage 2."""
    groups = ("proj", "cls") + (("gen",) if info.config.generator == "diffusion" else ())
    if substage == 1:
        groups = TRUNK + groups
    return (main_player(info, groups, partial(loss, info)),)


def frozen(info: Info, substage: int) -> Frozen:
    """The fusion with its embedding nets and token codes stands still in substage 2."""
    return Frozen(TRUNK, info.config.train.frozen_mode) if substage == 2 else Frozen()


def scores(info: Info, vars: Vars, token):
    """softmax over the classes of the stage, [B, C]."""
    (_, logits), _ = real_features(info, vars.params, vars.stats, token, None)
    return nn.softmax(logits)


def embed(info: Info, vars: Vars, token):
    """c_o [B, width] in evaluation mode."""
    return real_features(info, vars.params, vars.stats, token, None)[0][0]


def refresh(info: Info, vars: Vars, clips) -> Vars:
    """Class prototypes as the generator's condition (Table 6), where asked for."""
    if info.config.diffusion.condition != "prototype":
        return vars
    table = prototypes(clips(), vars.buffers, info)
    return vars.replace(buffers={**vars.buffers, "condition": table})


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=frozen,
    refresh=refresh, generate=generate, embed=embed,
)
