"""The text-conditioned DDPM on c_o (Section 3.2 of the paper): schedule, forward noising,
noise loss, reverse step, sampler. Random draws are arguments throughout."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from avdiff_jax.losses import squared_error
from avdiff_jax.nn.layers import Linear, dropout, product

SLOPE = 0.01


class Schedule(NamedTuple):
    """Per-step constants, float32 [T] each; step t = 0 is the least noisy."""

    beta: np.ndarray
    alpha: np.ndarray
    alpha_bar: np.ndarray

    @property
    def steps(self) -> int:
        """T."""
        return len(self.beta)


SCHEDULES = ("linear", "scaled", "cosine")


def schedule(steps: int, kind: str = "linear") -> Schedule:
    """Noise schedule: beta_t, alpha_t = 1 - beta_t and alpha_bar_t = prod alpha. Eq. (6).

    Args:
      steps: T.
      kind: "linear", from 1e-4 to 0.02 whatever T is (as published: alpha_bar_T is 0.36,
        0.13 and 0.05 for T = 100, 200 and 300, although sampling starts from pure noise);
        "scaled", the same line times 1000 / T, which reaches pure noise for any T;
        "cosine", alpha_bar ~ cos^2.

    Raises:
      ValueError: unknown kind, or T < 1.
    """
    if steps < 1:
        raise ValueError(f"the number of diffusion steps T={steps} must be at least 1")
    if kind == "linear":
        beta = np.linspace(1e-4, 0.02, steps)
    elif kind == "scaled":
        beta = np.clip(np.linspace(1e-4, 0.02, steps) * 1000 / steps, 0, 0.999)
    elif kind == "cosine":
        f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.clip(1 - f[1:] / f[:-1], 0, 0.999)
    else:
        raise ValueError(f"unknown schedule {kind!r}; one of {', '.join(SCHEDULES)}")
    alpha = 1 - beta
    return Schedule(*(x.astype(np.float32) for x in (beta, alpha, np.cumprod(alpha))))


def zero_terminal(s: Schedule) -> Schedule:
    """`s` with sqrt(alpha_bar) shifted and stretched so that its last value is 0 and its first one
    stays: the last step is pure noise then, as sampling starts from (Lin et al. 2024, Algorithm 1).

    At the last step x_t tells nothing of the noise, so a predictor has to say x_0 or v.
    """
    root = np.sqrt(s.alpha_bar.astype(np.float64))
    root = (root - root[-1]) * root[0] / max(root[0] - root[-1], 1e-12)  # T = 1: noise alone
    alpha_bar = root**2
    alpha = alpha_bar / np.append(1.0, alpha_bar[:-1])
    return Schedule(*(x.astype(np.float32) for x in (1 - alpha, alpha, alpha_bar)))


PREDICTIONS = ("noise", "x0", "v")


def target(predict: str, x0: Float[Array, "b d"], noise: Float[Array, "b d"], alpha_bar):
    """What a predictor is asked for: the noise eps, x_0, or v = sqrt(alpha_bar) eps -
    sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022).

    Args:
      alpha_bar: a scalar, or [b, 1].
    """
    if predict == "noise":
        return noise
    if predict == "x0":
        return x0
    return jnp.sqrt(alpha_bar) * noise - jnp.sqrt(1 - alpha_bar) * x0


def clean_and_noise(predict: str, x, said, alpha_bar):
    """x_0 and eps [b, d] as a predictor tells them; they make up x_t as `noised` says.

    Args:
      predict: what it predicts, one of `PREDICTIONS`.
      x, said: [b, d]: x_t and the prediction.
      alpha_bar: a scalar, or [b, 1], of step t; above 0 for `noise` and below 1 for `x0`.
    """
    signal, noise = jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)
    if predict == "noise":
        return (x - noise * said) / signal, said
    if predict == "x0":
        return said, (x - signal * said) / noise
    return signal * x - noise * said, noise * x + signal * said


def noised(
    x0: Float[Array, "b d"], t: Int[Array, " b"], noise: Float[Array, "b d"], s: Schedule
) -> Float[Array, "b d"]:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Eq. (7)."""
    a = jnp.asarray(s.alpha_bar)[t][:, None]
    return jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * noise


def reversed_step(x, eps, noise, beta, alpha, alpha_bar):
    """One reverse step with sigma_t^2 = beta_t. Eq. (9).

    Args:
      x, eps, noise: [b, d]: x_t, the predicted noise and a draw from N(0, I).
      beta, alpha, alpha_bar: scalars of step t.

    Returns:
      x_{t-1} [b, d].
    """
    mean = (x - beta / jnp.sqrt(1 - alpha_bar) * eps) / jnp.sqrt(alpha)
    return mean + jnp.sqrt(beta) * noise


def jump(x, said, alpha_bar, alpha_bar_to, predict: str = "noise"):
    """Deterministic step from the noise level `alpha_bar` to the lower one `alpha_bar_to`: x_0 as
    the predictor tells it, noised again with the noise that it tells. Eq. (12) of DDIM (Song et
    al. 2021), sigma = 0.

    Args:
      x, said: [b, d]: x_t and the prediction.
      alpha_bar, alpha_bar_to: scalars.
      predict: what is predicted.
    """
    x0, eps = clean_and_noise(predict, x, said, alpha_bar)
    return jnp.sqrt(alpha_bar_to) * x0 + jnp.sqrt(1 - alpha_bar_to) * eps


class Prepared(NamedTuple):
    """The noise predictor for conditions w that do not change over a sampling run.

    The input only meets t and w in the first Linear, so W f([x; t; w]) = W_x f(x) + t W_t + c
    with c = W_w f(w) + bias [b, hidden]. second, bias: of the second Linear.
    """

    w_x: jax.Array
    w_t: jax.Array
    constant: jax.Array
    second: jax.Array
    bias: jax.Array

    def first(self, x: Float[Array, "b d"], t) -> Float[Array, "b h"]:
        """The first Linear's output at one t for the whole batch."""
        of_x = product("bi,io->bo", nn.leaky_relu(x, SLOPE), self.w_x)
        return of_x + t * self.w_t + self.constant

    def eps(
        self, x: Float[Array, "b d"], t, key: jax.Array | None = None, rate: float = 0.0
    ) -> Float[Array, "b d"]:
        """The predicted noise; `key` draws dropout of `rate`."""
        hidden = nn.leaky_relu(self.first(x, t), SLOPE)
        if key is not None:
            hidden = dropout(key, hidden, rate)
        return product("bi,io->bo", hidden, self.second) + self.bias[None]


class NoisePredictor(nn.Module):
    """eps_theta(x_t, t, w): LeakyReLU of the concatenation, Linear, LeakyReLU, Dropout, Linear.

    t enters as a plain number 0..T-1.
    """

    hidden: int
    width: int
    condition: int
    rate: float

    def setup(self):
        """Two Linear layers; the first is kept whole, as published weights are."""
        self.first = Linear(self.hidden)
        self.second = Linear(self.width)

    def __call__(self, x, t, w, key=None):
        """x [b, width], t [b], w [b, condition]; key draws dropout. Returns eps [b, width]."""
        joined = jnp.concatenate([x, t[:, None].astype(x.dtype), w], axis=-1)
        hidden = nn.leaky_relu(self.first(nn.leaky_relu(joined, SLOPE)), SLOPE)
        if key is not None:
            hidden = dropout(key, hidden, self.rate)
        return self.second(hidden)

    def prepared(self, w: Float[Array, "b c"]) -> Prepared:
        """What does not change over a sampling run with these conditions."""
        first, second = (layer.variables["params"] for layer in (self.first, self.second))
        split = [self.width, self.width + 1]
        w_x, w_t, w_w = jnp.split(first["kernel"], split, axis=0)
        constant = product("bi,io->bo", nn.leaky_relu(w, SLOPE), w_w) + first["bias"][None]
        return Prepared(w_x, w_t, constant, second["kernel"], second["bias"])


def noise_loss(predict, x0, w, t, noise, s: Schedule) -> Float[Array, " b"]:
    """Mean over dimensions of (eps - eps_theta(x_t, t, w))^2, per example. Eq. (8).

    The paper writes a squared norm, the published code takes the mean. x_0 is not
    detached: the loss also shapes the features that it is computed on.
    """
    return squared_error(noise, predict(noised(x0, t, noise, s), t, w))


class Draws(NamedTuple):
    """The random draws of one sampling run for b features of width d."""

    x_T: jax.Array  # [b, d]
    noise: jax.Array  # [T, b, d], in order of use: t = T-1 first
    keys: jax.Array  # [T] dropout keys


def draws(key: jax.Array, s: Schedule, count: int, width: int) -> Draws:
    """Draws for `sample`."""
    start, noise, drop = jax.random.split(key, 3)
    return Draws(
        jax.random.normal(start, (count, width)),
        jax.random.normal(noise, (s.steps, count, width)),
        jax.random.split(drop, s.steps),
    )


def sample(step, d: Draws, s: Schedule, final_noise: bool) -> Float[Array, "b d"]:
    """Runs the reverse chain from x_T to x_0 as one `lax.scan`.

    Args:
      step: (x [b, d], t scalar float, dropout key) -> predicted noise [b, d].
      d: the draws.
      s: the schedule.
      final_noise: also add noise at t = 0, as Eq. 9 is written and as published.

    Returns:
      x_0 [b, d].
    """
    t = np.arange(s.steps)[::-1]
    constants = (s.beta[t], s.alpha[t], s.alpha_bar[t])
    scale = np.ones(s.steps, np.float32)
    scale[-1] = float(final_noise)

    def body(x, inputs):
        t, noise, key, scale, beta, alpha, alpha_bar = inputs
        eps = step(x, t, key)
        return reversed_step(x, eps, scale * noise, beta, alpha, alpha_bar), None

    inputs = (t.astype(np.float32), d.noise, d.keys, scale, *constants)
    return jax.lax.scan(body, d.x_T, inputs)[0]


def sample_few(
    step, start, keys, s: Schedule, unroll: int = 1, predict: str = "noise"
) -> Float[Array, "b d"]:
    """Runs `jump` over evenly spaced steps t from T - 1 down to the noise-free x_0.

    Args:
      step: as of `sample`, but that it says what `predict` names.
      start: x_T [b, d].
      keys: [n] dropout keys; n is the number of steps.
      s: the schedule.
      unroll: steps of the compiled loop's body.
      predict: what is predicted.
    """
    t = np.linspace(s.steps - 1, 0, len(keys) + 1).round().astype(int)[:-1]
    levels = np.append(s.alpha_bar[t], np.float32(1))

    def body(x, inputs):
        t, key, level, level_to = inputs
        return jump(x, step(x, t, key), level, level_to, predict), None

    inputs = (t.astype(np.float32), keys, levels[:-1], levels[1:])
    return jax.lax.scan(body, start, inputs, unroll=unroll)[0]
