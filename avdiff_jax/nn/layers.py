"""The layers of Sections 3.1 and 3.2: embedding nets, token codes, masked attention, heads.

Initialisation follows PyTorch's defaults, which the published weights were drawn from.
Dropout and BatchNorm are our own: the first draws its bits from a hash that costs next to
nothing, the second counts valid tokens only, so that results do not depend on the padding.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from avdiff_jax.runtime.compiling import product_precision

EPS = 1e-5


def apply_params(module: nn.Module, params: Any, *args, method: str | None = None) -> Any:
    """Applies a linen module that has parameters alone, without dropout and statistics."""
    return module.apply({"params": params}, *args, method=method)


def _uniform(bound):
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def random_words(key: jax.Array, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """A 32-bit word for each position of `shape`: a hash of the position under `key`.

    Four rounds of xor-shift and multiply (mixers of C. Wellons' hash prospector); the two
    words of the key enter before the first and before the second. A word depends on its
    position alone, so any number of devices draws the same; and there is no state, so the
    compiler computes the words where they are used and stores none. The library's generator
    costs 7 to 14 times as much on a CPU. Good enough to choose what to drop, not for
    cryptography.
    """
    first, *_, second = jax.random.key_data(key).astype(jnp.uint32)
    x = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        x = x * jnp.uint32(shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    x = x ^ first
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = x ^ (x >> 15) ^ second
    x = (x ^ (x >> 17)) * jnp.uint32(0xED5AD4BB)
    x = (x ^ (x >> 11)) * jnp.uint32(0xAC4C1B51)
    x = (x ^ (x >> 15)) * jnp.uint32(0x31848BAB)
    return x ^ (x >> 14)


def dropout(key: jax.Array, x: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Sets each element to zero with probability `rate` (to 2^-32), scales up the others."""
    if rate == 0.0:
        return x
    kept = random_words(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x * (1 / (1 - rate)), 0.0)


class Dropout(nn.Module):
    """`dropout` with the key of the module's place in the network."""

    rate: float

    @nn.compact
    def __call__(self, x, train: bool):
        """x: any shape; returns the same shape."""
        if not train or self.rate == 0.0:
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)


def product(equation: str, x: Array, y: Array) -> Array:
    """`einsum` of two float32 arrays in the precision of `compile_function`, outside of it in
    float32; with bfloat16 the factors are rounded to it and the sums stay float32."""
    precision = product_precision()
    if precision == "bfloat16":
        x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.einsum(
        equation, x, y, precision=precision, preferred_element_type=jnp.float32
    )


class Linear(nn.Module):
    """x @ kernel + bias, both uniform in +-1/sqrt(fan_in)."""

    width: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """[..., fan_in] -> [..., width]."""
        bound = 1 / math.sqrt(x.shape[-1])
        kernel = self.param("kernel", _uniform(bound), (x.shape[-1], self.width))
        # As one matrix: the gradient of a product over several axes is slower on a CPU.
        rows = product("ri,io->ro", x.reshape(-1, x.shape[-1]), kernel)
        y = rows.reshape(*x.shape[:-1], self.width)
        if self.use_bias:
            y = y + repeat_rows(self.param("bias", _uniform(bound), (self.width,)), y)
        return y


def repeat_rows(vector: Float[Array, " f"], like: Float[Array, "... f"]) -> Float[Array, "... f"]:
    """[f] -> the shape of `like`; the gradient is what `sum_rows` makes."""
    shape = like.shape

    @jax.custom_vjp
    def repeat(vector):
        return jnp.broadcast_to(vector, shape)

    repeat.defvjp(lambda vector: (repeat(vector), None), lambda _, change: (sum_rows(change),))
    return repeat(vector)


def sum_rows(x: Float[Array, "... f"]) -> Float[Array, " f"]:
    """Sums over all axes but the last, in two steps where there are several.

    In a single step a GPU's compiler lets a few blocks of threads do the sum, and with it all that
    makes its terms: 87 us in the place of 20 for the gradients of a block.
    """
    if x.ndim > 2:
        x = jax.lax.optimization_barrier(x.reshape(len(x), -1, x.shape[-1]).sum(1))
    return x.reshape(-1, x.shape[-1]).sum(0)


class BatchNorm(nn.Module):
    """Batch normalisation over valid tokens: the biased variance normalises the batch, the
    unbiased one enters the running variance; running = 0.9 running + 0.1 batch."""

    @nn.compact
    def __call__(self, x, counted, train: bool):
        """x: [..., f]; counted: [...] booleans, the rows that enter the statistics."""
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        running_mean = self.variable("stats", "mean", jnp.zeros, (width,))
        running_var = self.variable("stats", "var", jnp.ones, (width,))
        if train:
            weight = counted.astype(x.dtype)[..., None]
            count = weight.sum()
            mean = sum_rows(x * weight) / jnp.maximum(count, 1)
            square = jnp.square(x - repeat_rows(mean, x)) * weight
            var = sum_rows(square) / jnp.maximum(count, 1)
            if not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1, 1)
                running_mean.value = 0.9 * running_mean.value + 0.1 * mean
                running_var.value = 0.9 * running_var.value + 0.1 * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + EPS)
        return x * repeat_rows(factor, x) + repeat_rows(bias - mean * factor, x)


class LayerNorm(nn.Module):
    """Flax's, with the parameters of PyTorch's and the gradients of `repeat_rows`."""

    @nn.compact
    def __call__(self, x: Float[Array, "... f"]) -> Float[Array, "... f"]:
        """[..., f] -> the same shape, normalised over f."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        normed = nn.LayerNorm(epsilon=EPS, use_scale=False, use_bias=False)(x)
        return normed * repeat_rows(scale, x) + repeat_rows(bias, x)


class EmbeddingNet(nn.Module):
    """One or more of Linear, BatchNorm, ReLU, Dropout. Outputs are >= 0."""

    widths: tuple[int, ...]
    rate: float

    @nn.compact
    def __call__(self, x, counted, train: bool):
        """x: [..., i] -> [..., widths[-1]]; counted: [...] rows that enter BatchNorm."""
        for i, width in enumerate(self.widths):
            x = Linear(width, name=f"linear{i}")(x)
            x = nn.relu(BatchNorm(name=f"norm{i}")(x, counted, train))
            x = Dropout(self.rate)(x, train)
        return x


def fourier(seconds: Float[Array, "b t"], r: Float[Array, "2 f"]) -> Float[Array, "b t d"]:
    """Time code [sin p, cos p] with p = 2 pi (t r1 + t r2).

    Args:
      seconds: token times.
      r: the two fixed rows r1, r2 ~ 10 N(0, 1).

    Returns:
      [b, t, 2 f].
    """
    t = seconds[..., None]
    p = 2 * jnp.pi * (t * r[0][None, None] + t * r[1][None, None])
    return jnp.concatenate([jnp.sin(p), jnp.cos(p)], axis=-1)


class TokenCode(nn.Module):
    """Embedded features plus modality, time and padding codes -> tokens of one width."""

    dim: int
    code: int
    rate: float
    modalities: tuple[str, ...]

    @nn.compact
    def __call__(self, embedded, seconds, valid, r, train: bool):
        """Dicts by modality: embedded [b, t, d], seconds [b, t], valid [b, t] -> [b, t, dim]."""
        normal = nn.initializers.normal(1.0)
        modality = self.param("modality", normal, (2, self.code))
        padding = self.param("padding", normal, (1, self.code))
        time = Linear(self.code, name="time")
        tokens = {}
        for name in self.modalities:
            row = modality[("audio", "video").index(name)]
            code = time(fourier(seconds[name], r)) + row[None, None]
            code = code + jnp.where(valid[name][..., None], 0.0, padding[None])
            joined = jnp.concatenate([embedded[name], code], axis=-1)
            tokens[name] = Dropout(self.rate)(Linear(self.dim, name=name)(joined), train)
        return tokens


class Head(nn.Module):
    """Projnet (`proj`) and CLnet (`cls`): fused token -> c_o -> class logits."""

    hidden: int
    width: int
    classes: int
    rate: float

    def setup(self):
        """Projnet is an embedding net, CLnet one Linear."""
        self.proj = EmbeddingNet((self.hidden, self.width), self.rate)
        self.cls = Linear(self.classes)

    def project(self, token, train: bool):
        """[..., dim] -> c_o [..., width], >= 0; BatchNorm counts every row."""
        return self.proj(token, jnp.ones(token.shape[:-1], bool), train)

    def classify(self, c_o):
        """[..., width] -> logits [..., classes]."""
        return self.cls(c_o)

    def __call__(self, token, train: bool):
        """[..., dim] -> c_o, logits."""
        c_o = self.project(token, train)
        return c_o, self.classify(c_o)



def mean_over_time(x: Float[Array, "b t d"], valid: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Mean over valid tokens; zero for a clip without any."""
    total = (x * valid[..., None]).sum(1)
    return total / jnp.maximum(valid.sum(1), 1)[:, None]


def unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """x over its L2 norm; zero stays zero."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def segment_means(
    x: Float[Array, "b t d"], valid: Bool[Array, "b t"], segments: int
) -> Float[Array, "b {segments}*d"]:
    """Means over `segments` equal parts of the valid tokens, concatenated.

    Part s of n tokens covers floor(s n / S) to ceil((s + 1) n / S), at least one token, so
    that clips shorter than the number of segments repeat tokens instead of leaving gaps.
    """
    n = valid.sum(1)[:, None]
    s = jnp.arange(segments)[None]
    first = s * n // segments
    last = jnp.maximum(-(-(s + 1) * n // segments), first + 1)
    t = jnp.arange(x.shape[1])[None, None]
    inside = (t >= first[..., None]) & (t < last[..., None]) & valid[:, None]
    weight = inside / jnp.maximum(inside.sum(-1, keepdims=True), 1)
    return product("bst,btd->bsd", weight.astype(x.dtype), x).reshape(x.shape[0], -1)
