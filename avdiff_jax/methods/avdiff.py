"""AV-Diff: hybrid attention fuses audio and video, a text-conditioned DDPM generates
features of novel classes (Section 3 of the paper)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from avdiff_jax import diffusion, sampling
from avdiff_jax.data.feed import Batch
from avdiff_jax.errors import UserError
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import Clips, Info, Labelled, Method, Player, Vars
from avdiff_jax.methods.shared import trunk_methods
from avdiff_jax.methods.shared.heads import apply_head, classify, embed, judge_real, scores
from avdiff_jax.methods.shared.prototypes import average_classes, average_prototypes
from avdiff_jax.methods.shared.trunk_methods import features
from avdiff_jax.nn.layers import apply_params
from avdiff_jax.runtime import devices

TRUNK = trunk_methods.TRUNK


class Drawn(NamedTuple):
    """The random draws of the diffusion part of a loss: t [B], noise [B, width], and those of the
    sampler."""

    t: jax.Array
    noise: jax.Array
    sampler: diffusion.Draws | None


def _predictor(info: Info, variables: Vars) -> diffusion.NoisePredictor:
    d = info.config.diffusion
    condition = variables.buffers["condition"].shape[1]
    return diffusion.NoisePredictor(d.hidden, info.config.model.width, condition, d.dropout)


def _schedule(info: Info) -> diffusion.Schedule:
    return diffusion.schedule(info.config.diffusion.steps, info.config.diffusion.schedule)


def init_conditioned(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws a fresh trunk and head for batches like `batch`, with the generator's condition [C, dc]
    as a buffer: see `describe_classes`, or prototypes (Table 6), which `refresh` fills in."""
    variables = trunk_methods.init(info, batch, key)
    if info.config.diffusion.condition == "prototype":
        width = len(info.audio_shift) + info.video_dim
        condition = jnp.zeros((len(info.classes), width))
    else:
        condition = describe_classes(info)
    return variables.replace(buffers={**variables.buffers, "condition": condition})


def describe_classes(info: Info) -> jax.Array:
    """The class texts [C, Dt]; shuffled, as a control, each class has that of the one before it."""
    return jnp.roll(jnp.asarray(info.text), info.config.diffusion.condition == "shuffled", axis=0)


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws fresh variables for batches like `batch`; the generator's group is `gen`."""
    variables = init_conditioned(info, batch, key)
    width = info.config.model.width
    if info.config.generator == "diffusion":
        k_gen = jax.random.split(key, 4)[3]  # the first three are the trunk's and the head's
        w = variables.buffers["condition"][:1]
        gen = _predictor(info, variables).init(k_gen, jnp.zeros((1, width)), jnp.zeros(1), w)
        variables = variables.replace(params={**variables.params, "gen": gen["params"]})
    elif info.config.generator == "gaussian":
        gaussian = {
            "gaussian_mean": jnp.zeros((len(info.classes), width)),
            "gaussian_deviation": jnp.zeros(width),
        }
        variables = variables.replace(buffers={**variables.buffers, **gaussian})
    return variables


def generate(
    info: Info,
    variables: Vars,
    labels: jax.Array,
    key: jax.Array,
    train: bool = False,
    draws: diffusion.Draws | None = None,
) -> jax.Array:
    """Draws a synthetic c_o for each label [n] by the reverse diffusion process; [n, width].

    With `generator=gaussian`, the control, they are draws around the class means instead.

    Args:
      info: of the stage.
      variables: the noise predictor's, and the condition.
      labels: [n].
      key: of all that is random.
      train: whether dropout runs, in all T steps.
      draws: the draws, instead of `key`'s; of the sampler with all T steps alone.
    """
    if info.config.generator == "gaussian":
        mean = variables.buffers["gaussian_mean"][labels]
        noise = jax.random.normal(key, mean.shape)
        return mean + variables.buffers["gaussian_deviation"][None] * noise
    config, s = info.config.diffusion, _schedule(info)
    shape = len(labels), info.config.model.width
    condition = variables.buffers["condition"][labels]
    prepared = apply_params(
        _predictor(info, variables), variables.params["gen"], condition, method="prepared"
    )
    rate = config.dropout if train else 0.0

    def step(x, t, k):
        return prepared.eps(x, t, k, rate)

    if config.few_steps:
        k_start, k_drop = jax.random.split(key)
        start, keys = jax.random.normal(k_start, shape), jax.random.split(k_drop, config.few_steps)
        unroll = config.few_steps if devices.on_gpu() else 1
        return diffusion.sample_few(step, start, keys, s, unroll)
    draws = draws or diffusion.draws(key, s, *shape)
    if devices.on_gpu():
        return sampling.sample(prepared, draws, s, config.final_noise, rate)
    return diffusion.sample(step, draws, s, config.final_noise)


def loss(
    info: Info,
    variables: Vars,
    token: jax.Array,
    batch: Labelled,
    key: jax.Array,
    role: str,
    drawn: Drawn | None = None,
):
    """CE(real) + L_diff, and CE(synthetic) in novel updates (Section 4.3).

    Args:
      info: of the stage.
      variables: of all groups.
      token: the fused tokens [B, dim].
      batch: for its labels.
      key: of dropout, and of t, noise and sampler unless `drawn` holds these.
      role: "base" or "novel".
      drawn: see `Drawn`.

    Returns:
      mean loss, (statistics, metrics).
    """
    config = info.config
    k_head, k_t, k_noise, k_drop, k_sample = jax.random.split(key, 5)
    (c_o, logits), stats = apply_head(info, variables, token, k_head)
    total, metrics = judge_real(logits, batch.label)
    draws = None
    if config.generator == "diffusion":
        s = _schedule(info)
        t, noise, draws = drawn or (
            jax.random.randint(k_t, batch.label.shape, 0, s.steps),
            jax.random.normal(k_noise, c_o.shape),
            None,
        )
        model = _predictor(info, variables)

        def predict(x, t, w):
            return model.apply({"params": variables.params["gen"]}, x, t, w, k_drop)

        w = variables.buffers["condition"][batch.label]
        metrics["noise_loss"] = diffusion.noise_loss(predict, c_o, w, t, noise, s).mean()
        total = total + metrics["noise_loss"]
    if config.generator != "none" and role == "novel":
        c_hat = generate(info, variables, batch.label, k_sample, True, draws)
        if config.generator == "diffusion" and not config.diffusion.sampler_gradient:
            c_hat = jax.lax.stop_gradient(c_hat)
        logits = classify(info, variables, c_hat)
        metrics["ce_synthetic"] = cross_entropy(logits, batch.label).mean()
        total = total + metrics["ce_synthetic"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """One player: it moves everything in substage 1, all but the fusion in substage 2."""
    generator = ("gen",) if info.config.generator == "diffusion" else ()
    return trunk_methods.players(info, substage, loss, generator)


def refresh(info: Info, variables: Vars, clips: Clips) -> Vars:
    """Tells the generator about the classes, from the substage's training clips.

    The condition becomes prototypes (Table 6), where asked for. `generator=gaussian` is told the
    mean of c_o of each class and the deviation from it that all classes share, in evaluation mode
    with the parameters that the substage starts from: the Gaussians stay where Projnet was
    then, as the fusion that it reads stands still in substage 2.
    """
    buffers = dict(variables.buffers)
    if info.config.diffusion.condition == "prototype":
        buffers["condition"] = average_prototypes(info, variables, clips())
    if info.config.generator == "gaussian":

        def embed_clips(batch):
            # No dropout in evaluation: the key is never read.
            token, _ = features(info, variables, batch, jax.random.key(0), False)
            return embed(info, variables, token)

        mean, deviation = average_classes(info, embed_clips, clips())
        buffers |= {"gaussian_mean": mean, "gaussian_deviation": deviation}
    return variables.replace(buffers=buffers)


def grow(info: Info, variables: Vars, clips: Clips, key: jax.Array) -> Vars:
    """Gives CLnet outputs for more classes, and tells the generator about these."""
    variables = trunk_methods.grow(info, variables, clips, key)
    known = len(variables.buffers["condition"])
    told = refresh(info, variables, clips).buffers
    if info.config.diffusion.condition != "prototype":
        told = {**told, "condition": describe_classes(info)}
    of_classes = [name for name in ("condition", "gaussian_mean") if name in told]
    grown = {n: jnp.concatenate([variables.buffers[n], told[n][known:]]) for n in of_classes}
    return variables.replace(buffers={**variables.buffers, **grown})


def check(config: ConfigDict) -> None:
    """Refuses the generator that AV-Diff+ alone has. Raises UserError."""
    if config.generator == "transfer":
        raise UserError("generator=transfer means nothing to method=avdiff: set another generator, "
                        "or method=avdiff_plus")


# Of the trunk's fusion, for AV-GAN too.
FUSION = (*trunk_methods.BLOCKS, "model.mlp", "model.switch", "model.attention", "model.modality")
DIFFUSION = tuple(f"diffusion.{name}" for name in (
    "steps", "schedule", "hidden", "dropout", "condition", "few_steps", "final_noise",
    "sampler_gradient",
))

METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=trunk_methods.frozen,
    refresh=refresh, generate=generate, embed=embed, grow=grow,
    reads=(*trunk_methods.READS, *FUSION, "generator", *DIFFUSION), check=check,
    needs_text=lambda config: (
        config.generator == "diffusion" and config.diffusion.condition != "prototype"
    ),
)
