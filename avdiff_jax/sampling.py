"""The reverse chain of diffusion in the form that suits a GPU: the numbers of `diffusion.sample`
and their gradient, from fewer and larger kernels.

The products of a step are so small that a GPU spends its time on starting them. A step is

    x_{t-1} = u_t x_t - v_t eps(x_t, t) + n_t
    eps(x_t, t) = W f(a_t) + b,  a_t = W_x f(x_t) + t W_t + c

with f = LeakyReLU. Its gradient g_t = dL/dx_t is carried back by

    g_t = u_t g_{t-1} - v_t f'(x_t) W_x^T [f'(a_t) W^T g_{t-1}]

where dropout multiplies f'(a_t). What does not depend on g, and the gradients of the parameters
once all g_t are known, are a few products over all steps together. On a CPU these leave the
caches: there the loop of `diffusion.sample` is faster.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avdiff_jax.diffusion import SLOPE, Draws, Prepared, Schedule
from avdiff_jax.nn.layers import dropout, product

UNROLL = 8  # steps of a loop's body: a GPU waits for the host between two rounds of a loop


class Steps(NamedTuple):
    """Constants and draws of the steps in their order, t = T-1 first: t, u and v [T], noise n_t
    [T, b, d], dropout keys [T]."""

    t: np.ndarray
    u: np.ndarray
    v: np.ndarray
    noise: jax.Array
    key: jax.Array


def steps_of(d: Draws, s: Schedule, final_noise: bool) -> Steps:
    """The terms of `diffusion.reversed_step` that are known before the first step."""
    t = np.arange(s.steps)[::-1]
    u = 1 / np.sqrt(s.alpha[t])
    v = u * s.beta[t] / np.sqrt(1 - s.alpha_bar[t])
    scale = np.sqrt(s.beta[t])
    scale[-1] *= final_noise
    noise = jnp.asarray(scale)[:, None, None] * d.noise
    return Steps(t.astype(np.float32), u, v, noise, d.keys)


def reverse(prepared: Prepared, rate: float, x: Float[Array, "b d"], step: Steps):
    """x_{t-1} [b, d] from x_t; `step` holds the terms of this one step."""
    eps = prepared.eps(x, step.t, step.key, rate)
    return step.u * x - step.v * eps + step.noise


def slope(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """f'(x) of LeakyReLU."""
    return jnp.where(x >= 0, 1.0, SLOPE)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def chain(rate: float, prepared: Prepared, x_T: Float[Array, "b d"], steps: Steps):
    """x_0 [b, d] after all steps; t, u, v and keys are constants to its gradient."""

    def body(x, step):
        return reverse(prepared, rate, x, step), None

    return jax.lax.scan(body, x_T, steps, unroll=UNROLL)[0]


def _forward(rate, prepared, x_T, steps):
    def body(x, step):
        return reverse(prepared, rate, x, step), x

    x_0, x = jax.lax.scan(body, x_T, steps, unroll=UNROLL)
    return x_0, (prepared, steps, x)


def _backward(rate, saved, g):
    prepared, steps, x = saved
    of_hidden = jax.vmap(partial(dropout, rate=rate))(
        steps.key, slope(jax.vmap(prepared.first)(x, steps.t))
    )

    def body(g, inputs):
        u, v, of_hidden, of_x = inputs
        hidden = of_hidden * product("bd,hd->bh", g, prepared.second)
        return u * g - v * of_x * product("bh,dh->bd", hidden, prepared.w_x), g

    inputs = (steps.u, steps.v, of_hidden, slope(x))
    g_start, g = jax.lax.scan(body, g, inputs, reverse=True, unroll=UNROLL)
    _, pull_back = jax.vjp(lambda p: jax.vmap(partial(reverse, p, rate))(x, steps), prepared)
    # None: no gradient of what is constant.
    of_steps = steps._replace(t=None, u=None, v=None, noise=g, key=None)
    return *pull_back(g), g_start, of_steps


chain.defvjp(_forward, _backward)


def sample(
    prepared: Prepared, d: Draws, s: Schedule, final_noise: bool, rate: float
) -> Float[Array, "b d"]:
    """x_0 as of `diffusion.sample`.

    Args:
      prepared: the noise predictor for the conditions of b features.
      d, s, final_noise: as there.
      rate: of dropout in every step.
    """
    return chain(rate, prepared, d.x_T, steps_of(d, s, final_noise))
