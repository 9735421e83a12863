"""AV-Diff+: AV-Diff with what a study on real data found to help, each part a field of its own.

A clip is its fused token beside the principal components of its raw features; `space` says
which of the two the heads look at. After the trunk has learned on base classes, `head` is
either a Gaussian head in closed form, or Projnet and CLnet, trained as AV-Diff's are; these may
learn from the features of a generator that is trained beside them, and from inputs moved as base
clips depart from their class.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avdiff_jax.data.feed import Batch
from avdiff_jax.errors import UserError
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.avdiff import FUSION
from avdiff_jax.methods.linear import NEVER
from avdiff_jax.methods.method import (
    Clips,
    Frozen,
    Info,
    Labelled,
    Method,
    Player,
    Vars,
    main_player,
)
from avdiff_jax.methods.ncm import measure_spread
from avdiff_jax.methods.shared import heads, text_diffusion, trunk_methods
from avdiff_jax.methods.shared.gaussian_head import solve_head
from avdiff_jax.methods.shared.heads import HEAD
from avdiff_jax.methods.shared.raw_branch import COMPONENTS, fit_raw, init_raw, raw_features
from avdiff_jax.methods.shared.residuals import (
    RESIDUALS,
    collect_residuals,
    draw_residuals,
    init_residuals,
    transfer,
)
from avdiff_jax.methods.shared.trunk_methods import TRUNK

# Of the features, which a head looks at; an open field is filled before substage 2.
BLOCKS = {"token": (1, 0), "raw": (0, 1), "both": (1, 1), "auto": (1, 0)}
# Residuals that inputs are moved by.
JITTER = {"0": 0.0, "1": 1.0, "2": 2.0, "auto": 0.0}


def select_blocks(info: Info, space: str) -> np.ndarray:
    """1 for each dimension of the features [dim + 96] that belongs to `space`, else 0."""
    return np.repeat(np.array(BLOCKS[space], np.float32), (info.config.model.dim, COMPONENTS))


def see(info: Info, variables: Vars, features: jax.Array) -> jax.Array:
    """Sets to zero what the heads do not look at of the features [b, dim + 96]: all but the token
    in substage 1, all outside of `space` from then on."""
    token, space = (select_blocks(info, s) for s in ("token", info.config.avdiff_plus.space))
    return features * jnp.where(variables.buffers["known"].any(), space, token)[None]


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws a fresh trunk and heads for batches like `batch`; the raw branch and the Gaussian head
    know nothing yet, and the heads look at the token alone."""
    k_trunk, k_generator = jax.random.split(key)
    width, classes = info.config.model.dim + COMPONENTS, len(info.classes)
    variables = trunk_methods.init(info, batch, k_trunk, beside=COMPONENTS)
    buffers = {
        **variables.buffers, **init_raw(info, variables.buffers, batch),
        "known": jnp.zeros(classes),
        "weights": jnp.zeros((width, classes)), "bias": jnp.zeros(classes),
    }
    if needs_residuals(info):
        buffers |= init_residuals(classes, width)
    variables = variables.replace(buffers=buffers)
    if info.config.generator in text_diffusion.TRACKING:
        variables = text_diffusion.init_generator(info, variables, k_generator)
    return variables


def needs_residuals(info: Info) -> bool:
    """Whether anything is moved by what base clips have beyond their class."""
    plus = info.config.avdiff_plus
    learns = plus.head != "gaussian"
    return learns and (plus.jitter != "0" or info.config.generator == "transfer")


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """The fused token and the raw branch, [b, dim + 96], and the statistics of the trunk."""
    token, stats = trunk_methods.features(info, variables, batch, key, train)
    raw = raw_features(info, variables.buffers, batch)
    return jnp.concatenate([token, raw], axis=-1), stats


def refresh(info: Info, variables: Vars, clips: Clips) -> Vars:
    """Fits the raw branch to the base clips, once: substage 2 has the same ones."""
    if variables.buffers["raw_matrix"].any():
        return variables
    raw = fit_raw(info, variables.buffers, clips)
    return variables.replace(buffers={**variables.buffers, **raw})


def solve(info: Info, variables: Vars, features: np.ndarray, labels: np.ndarray) -> Vars:
    """Fits the Gaussian head, or tells the generator where Projnet puts the classes and how base
    clips depart from them."""
    known = np.isin(np.arange(len(info.classes)), labels)
    told = {"known": jnp.asarray(known, jnp.float32)}
    if info.config.avdiff_plus.head == "gaussian":
        seen = features * select_blocks(info, info.config.avdiff_plus.space)
        told |= fit_gaussian(info, seen, labels)
    kept = variables.buffers
    if needs_residuals(info):
        told |= collect_residuals(info, features, labels)
    else:  # there is room for them where `jitter` was open
        kept = {name: x for name, x in kept.items() if name not in RESIDUALS}
    variables = variables.replace(buffers={**kept, **told})
    if info.config.generator in text_diffusion.TRACKING:
        c_o = embed(info, variables, jnp.asarray(features))
        variables = text_diffusion.start_tracking(info, variables, np.asarray(c_o), labels)
    return variables


def fit_gaussian(info: Info, rows: np.ndarray, labels: np.ndarray) -> dict[str, jax.Array]:
    """Fits the head to z-scored tokens and raw components, and folds the z-scores into it.

    Logits are divided by their deviation over base clips and classes, so that a step of 0.1 in
    gamma means the same for any features.

    Returns:
      the buffers `weights` [dim + 96, C] and `bias` [C].
    """
    base, dim = info.is_base[labels], info.config.model.dim
    center, spread = measure_spread(rows[base])
    center[dim:], spread[dim:] = 0, 1  # components are scaled already, and by purpose unevenly
    z = (rows - center) / spread
    weights, bias = solve_head(z, labels, info.is_base)
    deviation = (z[base] @ weights + bias)[:, info.is_base].std() or 1.0
    weights = weights / spread[:, None]
    solution = {"weights": weights / deviation, "bias": (bias - center @ weights) / deviation}
    return {name: jnp.asarray(x, jnp.float32) for name, x in solution.items()}


def embed(info: Info, variables: Vars, features: jax.Array) -> jax.Array:
    """c_o [b, width] in evaluation mode."""
    return heads.embed(info, variables, see(info, variables, features))


def generate(info: Info, variables: Vars, labels: jax.Array, key: jax.Array) -> jax.Array:
    """Draws a synthetic c_o for each label [n]; [n, width]. No gradient passes."""
    if info.config.generator != "transfer":
        return text_diffusion.generate(info, variables, labels, key)
    made = transfer(variables.buffers, labels, key)
    return jax.lax.stop_gradient(embed(info, variables, made))


def loss(
    info: Info, variables: Vars, features: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """CE(real), of inputs that `jitter` moves, and CE(synthetic) in novel updates where there is a
    generator.

    Returns:
      mean loss, (statistics, metrics).
    """
    k_head, k_sample = jax.random.split(key)
    moved, jitter = features, JITTER[info.config.avdiff_plus.jitter]
    if jitter and needs_residuals(info):
        k_jitter = jax.random.fold_in(key, 2)
        moved += jitter * draw_residuals(variables.buffers, len(features), k_jitter)
    seen = see(info, variables, moved)
    (_, logits), stats = heads.apply_head(info, variables, seen, k_head)
    total, metrics = heads.judge_real(logits, batch.label)
    if info.config.generator in text_diffusion.TRACKING:
        c_o = jax.lax.stop_gradient(embed(info, variables, features))
        stats |= text_diffusion.track(info, variables, c_o, batch.label)
    if info.config.generator != "none" and role == "novel":
        c_hat = generate(info, variables, batch.label, k_sample)
        logits = heads.classify(info, variables, c_hat)
        metrics["ce_synthetic"] = cross_entropy(logits, batch.label).mean()
        total = total + metrics["ce_synthetic"]
    return total, (stats, {"loss": total, **metrics})


def generator_loss(
    info: Info, variables: Vars, features: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """The generator's own loss on real c_o, which it does not shape.

    Returns:
      mean loss, (statistics, metrics).
    """
    c_o = jax.lax.stop_gradient(embed(info, variables, features))
    total, metrics = text_diffusion.generator_loss(info, variables, c_o, batch.label, key)
    return total, (variables.stats, {"loss": total, **metrics})


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """Substage 1 trains as AV-Diff without a generator does. In substage 2 nobody moves under the
    Gaussian head; else Projnet and CLnet do, and the generator beside them."""
    if substage == 1:
        return (main_player(info, TRUNK + HEAD, loss),)
    if info.config.avdiff_plus.head == "gaussian":
        return ()
    main = main_player(info, HEAD, loss)
    if info.config.generator != "diffusion":
        return (main,)
    return main, text_diffusion.make_player(info, generator_loss)


def frozen(info: Info, substage: int) -> Frozen:
    """In substage 2 the trunk stands still, and all that a Gaussian head makes idle."""
    if substage == 1:
        return Frozen()
    idle = HEAD if info.config.avdiff_plus.head == "gaussian" else ()
    return Frozen(TRUNK + idle, info.config.train.frozen_mode)


def scores(info: Info, variables: Vars, features: jax.Array) -> jax.Array:
    """Softmax over the classes of the stage, or the Gaussian head's log-likelihoods in units of
    their deviation, [B, C]. Before that head is fitted, in substage 1, it is the softmax too."""
    b = variables.buffers
    softmax = heads.scores(info, variables, see(info, variables, features))
    if info.config.avdiff_plus.head == "linear":
        return softmax
    known = b["known"][None] > 0
    likelihood = jnp.where(known, features @ b["weights"] + b["bias"][None], NEVER)
    return jnp.where(known.any(), likelihood, softmax)


def grow(info: Info, variables: Vars, clips: Clips, key: jax.Array) -> Vars:
    """Gives both heads outputs for more classes, and tells the generator of their text."""
    variables = trunk_methods.grow(info, variables, clips, key)
    new = len(info.classes) - len(variables.buffers["bias"])
    room = {
        name: jnp.pad(variables.buffers[name], [(0, 0)] * (axes - 1) + [(0, new)])
        for name, axes in (("weights", 2), ("bias", 1), ("known", 1))
    }
    if needs_residuals(info):
        room["class_means"] = jnp.pad(variables.buffers["class_means"], [(0, new), (0, 0)])
    variables = variables.replace(buffers={**variables.buffers, **room})
    if info.config.generator in text_diffusion.TRACKING:
        variables = text_diffusion.describe_new_classes(info, variables)
    return variables


def check(config: ConfigDict) -> None:
    """Refuses a generator that no head would learn from.

    Raises:
      UserError: names the two fields.
    """
    head = config.avdiff_plus.head
    if config.generator != "none" and head != "linear":
        raise UserError(
            f"generator={config.generator} means nothing to avdiff_plus.head={head}, which learns "
            "from real features alone: set generator=none or avdiff_plus.head=linear"
        )


READS = (
    *trunk_methods.READS, *FUSION, "generator", "diffusion.steps", "diffusion.schedule",
    "diffusion.hidden", "diffusion.few_steps",
)

METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=frozen, refresh=refresh,
    solve=solve, check=check, generate=generate, embed=embed, grow=grow, reads=READS,
    needs_text=lambda config: config.generator == "diffusion",
)
