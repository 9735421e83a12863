"""What AV-Diff's mathematics needs: the matrix-product FLOPs of a step, for `launch/speed.py`.

A multiply-add counts 2. Valid tokens and visible pairs count, padding and hidden pairs do not;
a product's backward pass costs twice its forward pass, once where its input is data. All layers
and all diffusion steps count whole, as the published code computes them: a program that skips
the tokens of the last layer that nobody reads, or adds the text's term of the noise predictor
once instead of T times, is more efficient by that much.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from avdiff_jax.nn import masks

GIGA = 1e9


class Sizes(NamedTuple):
    """Feature dimensions and number of classes."""

    audio: int = 128
    video: int = 4096
    text: int = 300
    classes: int = 48


BENCHMARK = Sizes()


class Count(NamedTuple):
    """FLOPs of a part: forward, and those of its backward pass."""

    forward: float
    backward: float

    def __add__(self, other):
        return Count(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def both(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def linear(rows, inner, width, of_data: bool = False) -> Count:
    """A Linear on `rows` rows; `of_data`: no gradient with respect to its input is needed."""
    product = 2.0 * rows * inner * width
    return Count(product, product * (1 if of_data else 2))


def total(*counts: Count) -> Count:
    """The sum of counts."""
    return sum(counts, Count(0.0, 0.0))


def trunk(config, audio: np.ndarray, video: np.ndarray, sizes: Sizes) -> Count:
    """From features to the fused token; `audio` and `video` are the tokens of each clip."""
    model = config.model
    use = [model.modality in ("both", name) for name in ("audio", "video")]
    audio, video = (np.asarray(n) * u for n, u in zip((audio, video), use, strict=True))
    embedded = total(*(
        linear(n.sum(), dim, model.enc_hidden, of_data=True)
        + linear(n.sum(), model.enc_hidden, model.dim)
        for n, dim in ((audio, sizes.audio), (video, sizes.video))
    ))
    rows = (audio + video).sum()
    coded = linear(rows, model.code, model.code, of_data=True) + linear(
        rows, model.dim + model.code, model.dim
    )
    inner = model.heads * model.head_dim
    rows = (1 + audio + video).sum()
    block = total(
        *[linear(rows, model.dim, inner)] * 4,  # query, key, value, out
        *[linear(rows, model.dim, model.mlp)] * 2,
    )
    number = np.stack([np.ones_like(audio), audio, video], axis=-1)  # tokens of each type
    pattern = model.attention if all(use) else "full"
    tables = np.stack(masks.pattern(pattern, model.depth, model.switch))[:, :3, :3]
    pairs = np.einsum("bq,lqk,bk->", number, tables.astype(int), number)
    attention = 2 * linear(pairs, inner, 1).forward  # scores and values
    return total(embedded, coded, *[block] * model.depth, Count(attention, 2 * attention))


def head(config, rows: int, sizes: Sizes) -> Count:
    """Projnet and CLnet."""
    model = config.model
    return total(
        linear(rows, model.dim, model.proj_hidden),
        linear(rows, model.proj_hidden, model.width),
        linear(rows, model.width, sizes.classes),
    )


def noise_predictor(config, rows: int, sizes: Sizes) -> Count:
    """One evaluation of eps_theta."""
    width, hidden = config.model.width, config.diffusion.hidden
    return linear(rows, width + 1 + sizes.text, hidden) + linear(rows, hidden, width)


def needed(config, phase: str, audio, video, sizes: Sizes = BENCHMARK) -> float:
    """GFLOP of one step of a phase of AV-Diff, on clips of so many audio and video tokens.

    Args:
      phase: "substage1"; "substage2", an update on a base batch and one on a novel batch of
        such clips; "substage2_cached", the same on fused tokens; "evaluation"; "sampler",
        forward only.
    """
    rows = len(audio)
    fused = trunk(config, audio, video, sizes)
    top = head(config, rows, sizes)
    predictor = noise_predictor(config, rows, sizes)
    steps = config.diffusion.few_steps or config.diffusion.steps
    # The gradient stops at the fused token, so Projnet's first layer reads data.
    behind = (
        2 * (top.both + predictor.both)
        - 2 * linear(rows, config.model.dim, config.model.proj_hidden).forward
        + steps * predictor.both + linear(rows, config.model.width, sizes.classes).both
    )
    return {
        "substage1": fused.both + top.both + predictor.both,
        "substage2": 2 * fused.forward + behind,
        "substage2_cached": behind,
        "evaluation": fused.forward + top.forward,
        "sampler": steps * predictor.forward,
    }[phase] / GIGA


def executed(compiled, *args) -> float:
    """GFLOP of the matrix products that a compiled function computes on `args`, loops unrolled;
    of alternatives all are counted."""
    return _products(compiled.trace(*args).jaxpr.jaxpr) / GIGA


def _products(jaxpr) -> float:
    count = 0.0
    for equation in jaxpr.eqns:
        parts = [p for p in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr) if _is_jaxpr(p)]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        count += times * sum(_products(getattr(part, "jaxpr", part)) for part in parts)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            count += 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
    return count


def _is_jaxpr(value) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)
