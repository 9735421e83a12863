"""The reverse chain as a GPU computes it, against the plain one: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax import diffusion, sampling

CLIPS, WIDTH, HIDDEN, CONDITION, STEPS = 5, 6, 16, 7, 45


@pytest.fixture(scope="module")
def world():
    """Schedule, predictor, parameters, conditions and what the loss is taken with."""
    keys = jax.random.split(jax.random.key(0), 4)
    model = diffusion.NoisePredictor(HIDDEN, WIDTH, CONDITION, 0.3)
    w = jax.random.normal(keys[0], (CLIPS, CONDITION))
    params = model.init(keys[1], jnp.zeros((CLIPS, WIDTH)), jnp.zeros(CLIPS), w)
    return diffusion.schedule(STEPS), model, params, w, jax.random.normal(keys[2], (CLIPS, WIDTH))


def plain(prepared, d, s, final_noise, rate):
    step = lambda x, t, key: prepared.eps(x, t, key, rate)  # noqa: E731
    return diffusion.sample(step, d, s, final_noise)


def value_and_gradients(form, world, rate, final_noise):
    """A function of parameters, conditions and draws -> x_0, and the gradients of a loss of it."""
    s, model, _, _, weight = world

    def loss(params, w, x_T, noise, keys):
        prepared = model.apply(params, w, method="prepared")
        x = form(prepared, diffusion.Draws(x_T, noise, keys), s, final_noise, rate)
        return (weight * x + jnp.square(x)).sum(), x

    return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)


def close(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = np.abs(b).max()
        assert scale > 0
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-5)


@pytest.mark.parametrize("final_noise", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_both_forms_agree(world, rate, final_noise):
    s, _, params, w, _ = world
    d = diffusion.draws(jax.random.key(1), s, CLIPS, WIDTH)
    found, wanted = (
        jax.jit(value_and_gradients(form, world, rate, final_noise))(params, w, *d)
        for form in (sampling.sample, plain)
    )
    if not final_noise:  # the last draw has no say, and so no gradient
        assert not found[0][3][-1].any()
    close(found, wanted)


def test_both_forms_agree_side_by_side(world):
    """Three draws with parameters and randomness of their own, as they are trained."""
    s, _, params, w, _ = world
    several = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x, 0.9 * x]), params)
    d = jax.vmap(lambda key: diffusion.draws(key, s, CLIPS, WIDTH))(
        jax.random.split(jax.random.key(1), 3)
    )
    found, wanted = (
        jax.jit(jax.vmap(value_and_gradients(form, world, 0.3, True), (0, None, 0, 0, 0)))(
            several, w, *d
        )
        for form in (sampling.sample, plain)
    )
    close(found, wanted)
    assert np.abs(wanted[1][0] - wanted[1][1]).max() > 1e-2


def test_the_gradient_is_a_chain_of_products_alone(world):
    """Backward, the loop holds the two products that carry the gradient; the parameters' are
    outside, over all steps together."""
    s, _, params, w, _ = world
    d = diffusion.draws(jax.random.key(1), s, CLIPS, WIDTH)
    jaxpr = jax.make_jaxpr(value_and_gradients(sampling.sample, world, 0.0, True))(params, w, *d)
    loops = [e.params["jaxpr"].jaxpr for e in jaxpr.eqns if e.primitive.name == "scan"]
    products = [str(loop).count("dot_general[") for loop in loops]
    assert products == [2, 2]
    unrolled = [e.params["unroll"] for e in jaxpr.eqns if e.primitive.name == "scan"]
    assert unrolled == [sampling.UNROLL] * 2 and sampling.UNROLL > 1
