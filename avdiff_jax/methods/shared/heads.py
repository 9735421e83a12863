"""Projnet and CLnet on a fused token, and the little that all classifying methods share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods.method import Info, Vars
from avdiff_jax.nn.layers import Head, Linear
from avdiff_jax.nn.trunk import Encoders, modalities

HEAD = ("proj", "cls")


def apply_groups(
    module: nn.Module, groups, params, stats, *args, train: bool, key=None, method="__call__"
):
    """`module`, whose submodules are the parameter groups `groups`, on `args` and `train`.

    Args:
      params, stats: of all groups; a group without BatchNorm has no statistics.
      key: of the dropout, where `train`.

    Returns:
      output, all statistics with those of `groups` brought up to date where `train`.
    """
    variables = {
        "params": {g: params[g] for g in groups},
        "stats": {g: stats[g] for g in groups if g in stats},
    }
    out, updated = module.apply(
        variables, *args, train, method=method,
        rngs={"dropout": key} if train else {}, mutable=["stats"] if train else [],
    )
    return out, {**stats, **updated.get("stats", {})}


def head(info: Info) -> Head:
    """Projnet and CLnet as the configuration sizes them; its groups are `HEAD`."""
    model = info.config.model
    return Head(model.proj_hidden, model.width, len(info.classes), model.dropout_proj)


def real_features(info: Info, params, stats, token, key: jax.Array | None):
    """Fused token [..., dim] -> (c_o [..., width], logits [..., C]) and the statistics;
    evaluation mode without a key."""
    return apply_groups(
        head(info), HEAD, params, stats, token, train=key is not None, key=key
    )


def logits_of(info: Info, params, c_o):
    """CLnet on c_o [..., width]."""
    return head(info).apply({"params": {"cls": params["cls"]}}, c_o, method="classify")


class Classifiers(nn.Module):
    """A Linear layer per modality."""

    classes: int

    @nn.compact
    def __call__(self, c):
        """Dict by modality of [b, width] -> logits [b, C]."""
        return {name: Linear(self.classes, name=name)(x) for name, x in c.items()}


class UnimodalHeads(nn.Module):
    """A Projnet (`proj`) and a CLnet (`cls`) for each modality."""

    config: object
    classes: int

    def setup(self):
        """The groups are `HEAD`, as those of the head on a fused token."""
        model = self.config.model
        widths = (model.proj_hidden, model.width)
        self.proj = Encoders(widths, model.dropout_proj, modalities(self.config))
        self.cls = Classifiers(self.classes)

    def __call__(self, x, train: bool):
        """Dict by modality of [b, d] -> logits [b, C]."""
        every = {name: jnp.ones(len(rows), bool) for name, rows in x.items()}
        return self.cls(self.proj(x, every, train))


def accuracy(logits, label):
    """Percentage of rows of logits [b, C] whose largest entry is at the label."""
    return 100 * (logits.argmax(-1) == label).mean()


def classified(logits, label):
    """Mean cross-entropy of logits [b, C], and the metrics `ce_real` and `accuracy`."""
    ce = cross_entropy(logits, label).mean()
    return ce, {"ce_real": ce, "accuracy": accuracy(logits, label)}


def classification(info: Info, moving, vars: Vars, token, batch, key: jax.Array, role: str):
    """The loss of a method that only classifies its fused token [b, dim]: CE(real).

    Args:
      moving: parameters of the groups that this player moves.

    Returns:
      mean loss, (statistics, metrics).
    """
    params = {**vars.params, **moving}
    (_, logits), stats = real_features(info, params, vars.stats, token, key)
    total, metrics = classified(logits, batch.label)
    return total, (stats, {"loss": total, **metrics})


def scores(info: Info, vars: Vars, token):
    """softmax over the classes of the stage, [b, C]."""
    (_, logits), _ = real_features(info, vars.params, vars.stats, token, None)
    return nn.softmax(logits)


def embed(info: Info, vars: Vars, token):
    """c_o [b, width] in evaluation mode."""
    return real_features(info, vars.params, vars.stats, token, None)[0][0]
