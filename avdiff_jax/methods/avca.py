"""AVCA (Mercea et al. 2022a, Section 3): temporal averages of audio and video attend to each
other once; triplet, reconstruction and regression losses tie both to the class text. In the
benchmark a classifier on the video output predicts.

The published running statistics of the encoders' second BatchNorm are nearly those of the last
batch; here they are averaged as everywhere else.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from avdiff_jax.data.feed import Batch
from avdiff_jax.losses import mean_where, negatives, squared_error, triplet
from avdiff_jax.methods.method import (
    FREEZING,
    TRAINED,
    ByModality,
    Frozen,
    Info,
    Labelled,
    Method,
    Player,
    Vars,
    main_player,
    scaling_buffers,
)
from avdiff_jax.methods.shared.heads import READS, apply_groups, judge_real
from avdiff_jax.methods.shared.trunk_methods import ENCODERS
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.layers import EmbeddingNet, Linear
from avdiff_jax.nn.trunk import Encoders, Trunk

BOTH = ("audio", "video")
FIRST, OUTPUT = ("enc", "fusion"), ("proj", "cls", "text", "aux")
HEADS, MLP = 3, 64
AUXILIARY = 1.0  # ours: weight of the losses other than the classifier's

# (anchor, positive, negative): the negative is what stands there for a clip of another class.
TEXT_TRIPLETS = (("text", "video", "video"), ("text", "audio", "audio"))
SHARED_TRIPLETS = (
    *TEXT_TRIPLETS, ("audio", "text", "text"), ("video", "text", "text"),
    ("audio", "text", "audio"), ("video", "text", "video"),
    ("text", "audio", "text"), ("text", "video", "text"),
)


class CrossAttention(nn.Module):
    """One transformer block on the two tokens, each with a learned code of its modality."""

    config: ConfigDict

    @nn.compact
    def __call__(self, phi: ByModality, train: bool) -> ByModality:
        """phi [b, dim] by modality -> phi + attended."""
        dim, rate = self.config.model.dim, self.config.model.dropout_enc
        codes = self.param("codes", nn.initializers.normal(1.0), (1, 2, dim))
        x = jnp.stack([phi[n] for n in BOTH], axis=1) + codes
        block = Block(dim, HEADS, dim // HEADS, MLP, rate, norms=2, name="block")
        x = block(x, jnp.ones((len(x), 1, 2), bool), train)
        return {n: phi[n] + x[:, i] for i, n in enumerate(BOTH)}


class First(Trunk):
    """Temporal averages -> encoders (`enc`) -> cross-attention (`fusion`)."""

    def __call__(
        self, batch: Batch, buffers: dict[str, jax.Array], train: bool
    ) -> tuple[ByModality, ByModality]:
        """Batch -> encoded averages phi and attended ones, [b, dim] by modality."""
        phi = self.averaged(batch, buffers, train)
        return phi, self.fusion(phi, train)


def build_first(info: Info) -> First:
    """The layers that substage 2 freezes."""
    return First(info.config, CrossAttention)


class Decoders(nn.Module):
    """From the shared space: D to the text, A_rec and V_rec to the encoded averages."""

    text: int
    dim: int
    rate: float

    @nn.compact
    def __call__(self, theta: dict[str, jax.Array], train: bool):
        """theta [b, width] by name -> rho [b, text] by name, rebuilt [b, dim] by modality."""
        every = jnp.ones(len(theta["text"]), bool)
        to_text = EmbeddingNet((self.text,), self.rate, name="text")
        rho = {n: to_text(x, every, train) for n, x in theta.items()}
        rebuilt = Encoders((self.dim,), self.rate, BOTH, name="rebuilt")
        return rho, rebuilt({n: theta[n] for n in BOTH}, dict.fromkeys(BOTH, every), train)


class Output(nn.Module):
    """The shared space: A_proj and V_proj (`proj`), W_proj (`text`), classifier, decoders."""

    config: ConfigDict
    classes: int
    text_size: int

    def setup(self):
        """The groups of substage 2."""
        model, rate_text = self.config.model, self.config.avca.dropout_text
        self.proj = Encoders((model.proj_hidden, model.width), model.dropout_proj, BOTH)
        self.cls = Linear(self.classes)
        self.text = EmbeddingNet((model.width,), rate_text)
        self.aux = Decoders(self.text_size, model.dim, rate_text)

    def classify(self, attended: ByModality, train: bool):
        """Attended averages [b, dim] -> theta by modality, logits [b, C] of the video's."""
        every = jnp.ones(len(attended["video"]), bool)
        theta = self.proj(attended, dict.fromkeys(BOTH, every), train)
        return theta, self.cls(theta["video"])

    def __call__(self, attended: ByModality, text: Float[Array, "b dt"], train: bool):
        """Also theta of the clips' texts [b, Dt], and what the decoders make of all three."""
        theta, logits = self.classify(attended, train)
        theta["text"] = self.text(text, jnp.ones(len(text), bool), train)
        return logits, theta, *self.aux(theta, train)


def build_output(info: Info) -> Output:
    """The layers behind the cross-attention."""
    return Output(info.config, len(info.classes), info.text.shape[1])


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Draws fresh variables for batches like `batch`."""
    k_first, k_output = jax.random.split(key)
    buffers = scaling_buffers(info)
    (_, attended), first = build_first(info).init_with_output(k_first, batch, buffers, False)
    text = jnp.asarray(info.text)[batch.label]
    output = build_output(info).init(k_output, attended, text, False)
    params = {**first["params"], **output["params"]}
    return Vars(params, {**first["stats"], **output["stats"]}, buffers)


def features(info: Info, variables: Vars, batch: Batch, key: jax.Array, train: bool):
    """(phi, attended): encoded averages before and after the cross-attention."""
    return apply_groups(
        build_first(info), FIRST, variables, batch, variables.buffers, train=train, key=key
    )


def compute_auxiliary(
    w: Float[Array, "b dt"],
    phi: ByModality,
    theta: dict[str, jax.Array],
    rho: dict[str, jax.Array],
    rebuilt: ByModality,
    other: Int[Array, " b"],
    exists: Bool[Array, " b"],
) -> dict[str, Any]:
    """Computes AVCA's own losses, each a mean over the batch.

    Args:
      w: class texts [b, Dt].
      phi, theta, rho, rebuilt: see `Output` and `Decoders`.
      other, exists: the row of a clip of another class for each, where there is one.
    """

    def average_triplets(space, names):
        return sum(
            mean_where(triplet(space[a], space[p], space[n][other]), exists) for a, p, n in names
        )

    return {
        "reconstruction": sum(squared_error(w, x).mean() for x in rho.values()),
        "triplets": average_triplets(rho, TEXT_TRIPLETS) + average_triplets(theta, SHARED_TRIPLETS),
        "regression": sum(
            (squared_error(rebuilt[n], phi[n]) + squared_error(theta[n], theta["text"])).mean()
            for n in BOTH
        ),
    }


def loss(
    info: Info,
    variables: Vars,
    shared: tuple[ByModality, ByModality],
    batch: Labelled,
    key: jax.Array,
    role: str,
):
    """CE(real) and `compute_auxiliary`, with negatives from the batch.

    Returns:
      mean loss, (statistics, metrics).
    """
    phi, attended = shared
    k_output, k_other = jax.random.split(key)
    w = jnp.asarray(info.text)[batch.label]
    (logits, theta, rho, rebuilt), stats = apply_groups(
        build_output(info), OUTPUT, variables, attended, w, train=True, key=k_output
    )
    total, metrics = judge_real(logits, batch.label)
    other, exists = negatives(k_other, batch.label)
    metrics |= compute_auxiliary(w, phi, theta, rho, rebuilt, other, exists)
    for name in ("reconstruction", "triplets", "regression"):
        total = total + AUXILIARY * metrics[name]
    return total, (stats, {"loss": total, **metrics})


def players(info: Info, substage: int) -> tuple[Player, ...]:
    """One player: it moves everything in substage 1, the shared space and the classifier in
    substage 2."""
    groups = (FIRST if substage == 1 else ()) + OUTPUT
    return (main_player(info, groups, loss),)


def frozen(info: Info, substage: int) -> Frozen:
    """Encoders and cross-attention stand still in substage 2."""
    return Frozen(FIRST, info.config.train.frozen_mode) if substage == 2 else Frozen()


def scores(
    info: Info, variables: Vars, shared: tuple[ByModality, ByModality]
) -> jax.Array:
    """softmax over the classes of the stage, [B, C]."""
    (_, logits), _ = apply_groups(
        build_output(info), ("proj", "cls"), variables, shared[1], train=False, method="classify"
    )
    return nn.softmax(logits)


METHOD = Method(
    init=init, features=features, players=players, scores=scores, frozen=frozen,
    reads=(*TRAINED, *FREEZING, *ENCODERS, *READS), needs_text=lambda config: True,
)
