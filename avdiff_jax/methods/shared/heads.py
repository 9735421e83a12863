"""Projnet and CLnet on a fused token, and the little that all classifying methods share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import Info, Labelled, Vars
from avdiff_jax.nn.layers import Head, Linear, apply_params
from avdiff_jax.nn.trunk import Encoders, modalities

HEAD = ("proj", "cls")
READS = ("model.proj_hidden", "model.width", "model.dropout_proj")  # of the configuration


def apply_groups(
    module: nn.Module,
    groups: tuple[str, ...],
    variables: Vars,
    *args,
    train: bool,
    key: jax.Array | None = None,
    method: str = "__call__",
):
    """Applies `module`, whose submodules are the parameter groups `groups`, to `args` and `train`.

    Args:
      module: a linen module.
      groups: names of its submodules.
      variables: of all groups; a group without BatchNorm has no statistics.
      *args: of the module's method.
      train: whether dropout and statistics run.
      key: of the dropout, where `train`.
      method: which of the module's.

    Returns:
      output, all statistics with those of `groups` brought up to date where `train`.
    """
    params, stats = variables.params, variables.stats
    collections = {
        "params": {g: params[g] for g in groups},
        "stats": {g: stats[g] for g in groups if g in stats},
    }
    applied: Any = module.apply(
        collections, *args, train, method=method,
        rngs={"dropout": key} if train and key is not None else {},
        mutable=["stats"] if train else [],
    )
    out, updated = applied
    return out, {**stats, **updated.get("stats", {})}


def build_head(info: Info) -> Head:
    """Projnet and CLnet as the configuration sizes them; their groups are `HEAD`."""
    model = info.config.model
    return Head(model.proj_hidden, model.width, len(info.classes), model.dropout_proj)


def apply_head(info: Info, variables: Vars, token: jax.Array, key: jax.Array | None):
    """Applies Projnet and CLnet to fused tokens [..., dim], in evaluation mode without a key.

    Returns:
      (c_o [..., width], logits [..., C]), statistics.
    """
    return apply_groups(
        build_head(info), HEAD, variables, token, train=key is not None, key=key
    )


def classify(info: Info, variables: Vars, c_o: jax.Array) -> jax.Array:
    """Applies CLnet to c_o [..., width]; returns logits [..., C]."""
    params = {"cls": variables.params["cls"]}
    return apply_params(build_head(info), params, c_o, method="classify")


class Classifiers(nn.Module):
    """A Linear layer per modality."""

    classes: int

    @nn.compact
    def __call__(self, c: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Dict by modality of [b, width] -> logits [b, C]."""
        return {name: Linear(self.classes, name=name)(x) for name, x in c.items()}


class UnimodalHeads(nn.Module):
    """A Projnet (`proj`) and a CLnet (`cls`) for each modality."""

    config: ConfigDict
    classes: int

    def setup(self):
        """The groups are `HEAD`, as those of the head on a fused token."""
        model = self.config.model
        widths = (model.proj_hidden, model.width)
        self.proj = Encoders(widths, model.dropout_proj, modalities(self.config))
        self.cls = Classifiers(self.classes)

    def __call__(self, x: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """Dict by modality of [b, d] -> logits [b, C]."""
        every = {name: jnp.ones(len(rows), bool) for name, rows in x.items()}
        return self.cls(self.proj(x, every, train))


def compute_accuracy(logits: Float[Array, "b c"], label: Int[Array, " b"]) -> jax.Array:
    """The percentage of rows whose largest logit is at the label."""
    return 100 * (logits.argmax(-1) == label).mean()


def judge_real(logits: Float[Array, "b c"], label: Int[Array, " b"]) -> tuple[jax.Array, dict]:
    """Compares the logits of real clips with their labels.

    Returns:
      mean cross-entropy, the metrics `ce_real` (the same) and `accuracy` (percent).
    """
    ce = cross_entropy(logits, label).mean()
    return ce, {"ce_real": ce, "accuracy": compute_accuracy(logits, label)}


def classification_loss(
    info: Info, variables: Vars, token: jax.Array, batch: Labelled, key: jax.Array, role: str
):
    """CE(real): the loss of a method that only classifies its fused token [b, dim].

    Returns:
      mean loss, (statistics, metrics).
    """
    (_, logits), stats = apply_head(info, variables, token, key)
    total, metrics = judge_real(logits, batch.label)
    return total, (stats, {"loss": total, **metrics})


def scores(info: Info, variables: Vars, token: jax.Array) -> jax.Array:
    """softmax over the classes of the stage, [b, C]."""
    (_, logits), _ = apply_head(info, variables, token, None)
    return nn.softmax(logits)


def embed(info: Info, variables: Vars, token: jax.Array) -> jax.Array:
    """c_o [b, width] in evaluation mode."""
    return apply_head(info, variables, token, None)[0][0]
