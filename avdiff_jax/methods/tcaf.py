"""TCaF (Mercea et al. 2022b, Section 3): audio attends to video only and video to audio only; a
clip belongs to the class whose text is nearest in a common space.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from avdiff_jax.data.feed import Batch
from avdiff_jax.losses import squared_error
from avdiff_jax.methods.method import Info, Labelled, Method, Player, Vars, main_player
from avdiff_jax.methods.shared import trunk_methods
from avdiff_jax.methods.shared.heads import apply_groups, judge_real
from avdiff_jax.methods.shared.trunk_methods import TRUNK
from avdiff_jax.nn.attention import HIDDEN
from avdiff_jax.nn.layers import EmbeddingNet, product
from avdiff_jax.nn.trunk import Fusion

OUTPUT = ("proj", "text", "aux")


FUSION = partial(Fusion, attention="cross")


class Decoders(nn.Module):
    """Class text back from the common space: D_o from a clip, D_w from a text."""

    hidden: int
    text: int
    rate: float

    @nn.compact
    def __call__(self, clip: Float[Array, "b w"], text: Float[Array, "b w"], train: bool):
        """theta_o, theta_w [b, width] -> two [b, text]."""
        every = jnp.ones(len(clip), bool)
        clip_net = EmbeddingNet((self.hidden, self.text), self.rate, name="clip")
        text_net = EmbeddingNet((self.text,), self.rate, name="text")
        return clip_net(clip, every, train), text_net(text, every, train)


class Output(nn.Module):
    """The common space: O_proj of clips (`proj`), W_proj of texts (`text`), decoders (`aux`)."""

    config: ConfigDict
    text_size: int

    def setup(self):
        """The groups of substage 2."""
        model, rate_text = self.config.model, self.config.tcaf.dropout_text
        self.proj = EmbeddingNet((model.proj_hidden, model.width), model.dropout_proj)
        self.text = EmbeddingNet((model.width,), rate_text)
        self.aux = Decoders(model.proj_hidden, self.text_size, rate_text)

    def project(
        self,
        token: Float[Array, "b dim"],
        classes: Float[Array, "c dt"],
        counted: Bool[Array, " c"],
        train: bool,
    ):
        """token [b, dim], class texts [C, Dt] -> theta_o [b, width], theta_w of the classes
        [C, width]."""
        theta = self.proj(token, jnp.ones(len(token), bool), train)
        return theta, self.text(classes, counted, train)

    def __call__(
        self,
        token: Float[Array, "b dim"],
        texts: Float[Array, "b dt"],
        classes: Float[Array, "c dt"],
        counted: Bool[Array, " c"],
        train: bool,
    ):
        """As `project`, then theta_w of the clips' own `texts` [b, Dt] and what the decoders make
        of both. W_proj's BatchNorm sees the clips' texts, then those of `counted` classes."""
        theta_w = self.text(texts, jnp.ones(len(texts), bool), train)
        theta, of_classes = self.project(token, classes, counted, train)
        return theta, of_classes, theta_w, *self.aux(theta, theta_w, train)


def build_output(info: Info) -> Output:
    """The layers behind the trunk."""
    return Output(info.config, info.text.shape[1])


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws a fresh trunk and common space; there is no classifier."""
    k_trunk, k_output = jax.random.split(key)
    trunk = trunk_methods.init(info, batch, k_trunk, FUSION)
    text, token = jnp.asarray(info.text), jnp.zeros((1, info.config.model.dim))
    counted = jnp.ones(len(text), bool)
    output = build_output(info).init(k_output, token, text[:1], text, counted, False)
    params = {**{g: trunk.params[g] for g in TRUNK}, **output["params"]}
    return Vars(params, {"enc": trunk.stats["enc"], **output["stats"]}, trunk.buffers)


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """The fused class token [b, dim] and the statistics of the embedding nets."""
    return trunk_methods.features(info, variables, batch, key, train, FUSION)


def loss(
    info: Info,
    variables: Vars,
    token: jax.Array,
    batch: Labelled,
    key: jax.Array,
    role: str,
    substage: int,
):
    """CE over dot products with the class texts (those of base classes in substage 1), distance
    to the own text, and both reconstructions of it.

    Returns:
      mean loss, (statistics, metrics).
    """
    text = jnp.asarray(info.text)
    w = text[batch.label]
    candidates = jnp.asarray(info.is_base) | (substage == 2)
    (theta, of_classes, theta_w, from_clip, from_text), stats = apply_groups(
        build_output(info), OUTPUT, variables, token, w, text, candidates, train=True, key=key
    )
    logits = jnp.where(candidates[None], product("bd,cd->bc", theta, of_classes), HIDDEN)
    total, metrics = judge_real(logits, batch.label)
    metrics["regression"] = squared_error(theta, theta_w).mean()
    metrics["reconstruction"] = (squared_error(w, from_clip) + squared_error(w, from_text)).mean()
    total = total + metrics["regression"] + metrics["reconstruction"]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """One player: it moves everything in substage 1, all but the trunk in substage 2."""
    groups = (TRUNK if substage == 1 else ()) + OUTPUT
    return (main_player(info, groups, partial(loss, substage=substage)),)


def scores(info: Info, variables: Vars, token: jax.Array) -> jax.Array:
    """Minus the distance to each class text in the common space, [B, C]."""
    text = jnp.asarray(info.text)
    (theta, of_classes), _ = apply_groups(
        build_output(info), ("proj", "text"), variables, token, text, jnp.ones(len(text), bool),
        train=False, method="project",
    )
    return -jnp.linalg.norm(theta[:, None] - of_classes[None], axis=-1)


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=trunk_methods.frozen,
    reads=(*trunk_methods.READS, *trunk_methods.BLOCKS, "model.mlp"),
    # Distances are not bounded by 1: the grid of the published code.
    calibration_grid=tuple(i / 5 for i in range(16)),
    needs_text=lambda config: True,
)
