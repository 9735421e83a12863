"""Eq. 6-9: schedules, forward noising, reverse step, sampler, noise predictor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax import diffusion


@pytest.mark.parametrize("steps, end", [(100, 0.36), (200, 0.13), (300, 0.05)])
def test_linear_schedule(steps, end):
    s = diffusion.schedule(steps)
    beta = np.array([1e-4 + (0.02 - 1e-4) * t / (steps - 1) for t in range(steps)])
    np.testing.assert_allclose(s.beta, beta, rtol=1e-6)
    bar = np.exp(np.log1p(-beta).cumsum())
    np.testing.assert_allclose(s.alpha_bar, bar, rtol=1e-5)
    assert abs(s.alpha_bar[-1] - end) < 0.006 and s.steps == steps


@pytest.mark.parametrize("kind", ["scaled", "cosine"])
@pytest.mark.parametrize("steps", [5, 100, 300])
def test_schedules_that_reach_pure_noise(kind, steps):
    s = diffusion.schedule(steps, kind)
    assert s.alpha_bar[-1] < 2e-3
    assert (np.diff(s.alpha_bar) < 0).all() and 0 < s.beta.min() and s.beta.max() < 1


def test_cosine_schedule_by_hand():
    """alpha_bar_t = f(t + 1) / f(0) with f(t) = cos^2((t / T + s) / (1 + s) pi / 2), s = 0.008;
    no beta above 0.999 (Nichol & Dhariwal 2021, Eq. 17)."""
    f = np.cos((np.array([0, 0.25, 0.5, 0.75]) + 0.008) / 1.008 * np.pi / 2) ** 2
    bar = np.append(f[1:] / f[0], 0.001 * f[3] / f[0])
    np.testing.assert_allclose(diffusion.schedule(4, "cosine").alpha_bar, bar, rtol=1e-5)


def test_scaled_schedule_by_hand():
    """1000 steps' worth of noise in T steps: the line of `linear` times 1000 / T, at most 0.999."""
    beta = np.minimum(np.linspace(1e-4, 0.02, 10) * 100, 0.999)
    np.testing.assert_allclose(diffusion.schedule(10, "scaled").beta, beta, rtol=1e-6)


@pytest.mark.parametrize("steps, kind", [(0, "linear"), (5, "quadratic")])
def test_nonsense_is_refused(steps, kind):
    with pytest.raises(ValueError, match=r"must be at least 1|unknown schedule"):
        diffusion.schedule(steps, kind)


@pytest.mark.parametrize("kind", diffusion.SCHEDULES)
def test_zero_terminal(kind):
    """The first step stays, the last is pure noise, and sqrt(alpha_bar) keeps its shape."""
    before = diffusion.schedule(50, kind)
    after = diffusion.zero_terminal(before)
    assert after.alpha_bar[-1] == 0 == after.alpha[-1] and after.beta[-1] == 1
    np.testing.assert_allclose(after.alpha_bar[0], before.alpha_bar[0], rtol=1e-6)
    np.testing.assert_allclose(after.alpha_bar, np.cumprod(after.alpha), atol=1e-6)
    a, b = np.sqrt(before.alpha_bar), np.sqrt(after.alpha_bar)
    np.testing.assert_allclose(np.diff(b) / np.diff(b)[0], np.diff(a) / np.diff(a)[0], rtol=2e-3)


def test_zero_terminal_of_a_single_step():
    s = diffusion.zero_terminal(diffusion.schedule(1))
    assert s.alpha_bar == 0 and s.beta == 1


@pytest.mark.parametrize("predict, wanted", [
    ("noise", -3.0), ("x0", 2.0), ("v", 0.6 * -3 - 0.8 * 2),
])
def test_targets_by_hand(predict, wanted):
    """x_0 = 2, eps = -3 and alpha_bar = .36: the signal counts .6, the noise .8."""
    x0, noise = jnp.asarray([[2.0]]), jnp.asarray([[-3.0]])
    said = diffusion.target(predict, x0, noise, 0.36)
    np.testing.assert_allclose(said, [[wanted]], rtol=1e-6)
    x = 0.6 * x0 + 0.8 * noise
    back = diffusion.clean_and_noise(predict, x, said, 0.36)
    np.testing.assert_allclose(jnp.stack(back), [[[2]], [[-3]]], rtol=1e-5)


@pytest.mark.parametrize("predict", ["x0", "v"])
def test_a_jump_from_pure_noise(predict, key):
    """At alpha_bar = 0 x_t is the noise itself and only the prediction knows x_0."""
    noise, x0 = jax.random.normal(key, (2, 5, 3))
    said = diffusion.target(predict, x0, noise, 0.0)
    found = diffusion.jump(noise, said, jnp.float32(0), jnp.float32(0.25), predict)
    np.testing.assert_allclose(found, 0.5 * x0 + np.sqrt(0.75) * noise, atol=1e-6)


@pytest.mark.parametrize("predict", ["x0", "v"])
@pytest.mark.parametrize("count", [1, 7])
def test_few_steps_from_pure_noise_recover_a_point(predict, count, key):
    """Exactly, as the chain begins with what it was trained on."""
    s = diffusion.zero_terminal(diffusion.schedule(50, "cosine"))
    point = jnp.array([[1.5, -0.5]])

    def step(x, t, k):
        a = jnp.asarray(s.alpha_bar)[t.astype(int)]
        eps = (x - jnp.sqrt(a) * point) / jnp.sqrt(1 - a)
        return diffusion.target(predict, point, eps, a)

    start = jax.random.normal(key, (1, 2))
    found = diffusion.sample_few(step, start, jax.random.split(key, count), s, predict=predict)
    np.testing.assert_allclose(found, point, atol=1e-5)


def test_noised(key):
    """By hand for one clip; variance alpha_bar Var(x0) + 1 - alpha_bar over many."""
    s = diffusion.schedule(10)
    t = jnp.asarray([7])
    a = float(np.prod(1 - np.linspace(1e-4, 0.02, 10)[:8]))
    x = diffusion.noised(jnp.asarray([[2.0]]), t, jnp.asarray([[-3.0]]), s)
    np.testing.assert_allclose(x, [[np.sqrt(a) * 2 - np.sqrt(1 - a) * 3]], rtol=1e-5)
    s = diffusion.schedule(200)
    x0, noise = (2 * jax.random.normal(key, (50000, 1)), jax.random.normal(jax.random.key(1),
                                                                          (50000, 1)))
    x = diffusion.noised(x0, jnp.full(50000, 150), noise, s)
    a = s.alpha_bar[150]
    assert abs(x.var() - (4 * a + 1 - a)) < 0.04


def test_reversed_step_by_hand():
    beta, alpha, bar = 0.2, 0.8, 0.5
    x = diffusion.reversed_step(
        jnp.asarray([[1.0]]), jnp.asarray([[0.5]]), jnp.asarray([[2.0]]),
        jnp.float32(beta), jnp.float32(alpha), jnp.float32(bar),
    )
    wanted = (1 - 0.2 / np.sqrt(0.5) * 0.5) / np.sqrt(0.8) + np.sqrt(0.2) * 2
    np.testing.assert_allclose(x, [[wanted]], rtol=1e-6)


@pytest.mark.parametrize("final_noise", [True, False])
def test_sampler_equals_a_loop(final_noise, key):
    s = diffusion.schedule(6)
    d = diffusion.draws(key, s, 3, 2)

    def step(x, t, k):
        return jnp.tanh(x) * (t + 1) / 6 + jax.random.normal(k, x.shape)

    x = d.x_T
    for i, t in enumerate([5, 4, 3, 2, 1, 0]):
        eps = step(x, jnp.float32(t), d.keys[i])
        noise = d.noise[i] * (1.0 if t or final_noise else 0.0)
        x = diffusion.reversed_step(x, eps, noise, s.beta[t], s.alpha[t], s.alpha_bar[t])
    found = diffusion.sample(step, d, s, final_noise)
    np.testing.assert_allclose(found, x, atol=1e-6)


def test_final_noise_is_the_only_difference(key):
    s = diffusion.schedule(6)
    d = diffusion.draws(key, s, 4, 2)
    on, off = (diffusion.sample(lambda x, t, k: 0 * x, d, s, b) for b in (True, False))
    np.testing.assert_allclose(on - off, np.sqrt(s.beta[0]) * d.noise[-1], atol=1e-6)


def test_few_steps_equal_a_loop(key):
    s = diffusion.schedule(9, "cosine")
    start, keys = jax.random.normal(key, (3, 2)), jax.random.split(key, 4)

    def step(x, t, k):
        return jnp.tanh(x) * (t + 1) / 9 + jax.random.normal(k, x.shape)

    x = np.asarray(start, np.float64)
    for i, (t, to) in enumerate([(8, 6), (6, 4), (4, 2), (2, None)]):
        eps = np.asarray(step(jnp.float32(x), jnp.float32(t), keys[i]))
        a, b = s.alpha_bar[t], 1.0 if to is None else s.alpha_bar[to]
        x = np.sqrt(b) * (x - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - b) * eps
    np.testing.assert_allclose(diffusion.sample_few(step, start, keys, s), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["scaled", "cosine"])
@pytest.mark.parametrize("count", [1, 4, 50])
def test_few_steps_of_a_perfect_oracle_recover_a_point(kind, count, key):
    """With the true noise of a point mass x_0 is exact after any number of steps."""
    s = diffusion.schedule(50, kind)
    point = jnp.array([[1.5, -0.5]])

    def step(x, t, k):
        a = jnp.asarray(s.alpha_bar)[t.astype(int)]
        return (x - jnp.sqrt(a) * point) / jnp.sqrt(1 - a)

    start = jax.random.normal(key, (1, 2))
    found = diffusion.sample_few(step, start, jax.random.split(key, count), s)
    np.testing.assert_allclose(found, point, atol=2e-2)


@pytest.mark.parametrize("kind", ["scaled", "cosine"])
def test_a_perfect_oracle_recovers_a_point(kind, key):
    """With the true noise of a point mass the chain ends at that point."""
    s = diffusion.schedule(50, kind)
    point = jnp.asarray([[1.5, -2.0, 0.25]])
    bar = jnp.asarray(s.alpha_bar)

    def step(x, t, k):
        a = bar[t.astype(int)]
        return (x - jnp.sqrt(a) * point) / jnp.sqrt(1 - a)

    d = diffusion.draws(key, s, 4, 3)
    found = diffusion.sample(step, d, s, False)
    np.testing.assert_allclose(found, np.tile(point, (4, 1)), atol=1e-4)


def test_draws_differ_by_key_and_step(key):
    s = diffusion.schedule(4)
    a, b = diffusion.draws(key, s, 3, 2), diffusion.draws(jax.random.key(1), s, 3, 2)
    assert (a.x_T != b.x_T).any() and (a.noise[0] != a.noise[1]).any()
    assert a.noise.shape == (4, 3, 2) and len(np.unique(jax.random.key_data(a.keys), axis=0)) == 4


@pytest.fixture(scope="module")
def predictor():
    model = diffusion.NoisePredictor(8, 3, 4, 0.5)
    key = jax.random.key(0)
    x, w = jax.random.normal(key, (5, 3)), jax.random.normal(jax.random.key(1), (5, 4))
    return model, model.init(key, x, jnp.zeros(5), w), x, w


def test_predictor_by_hand(predictor):
    model, vars, x, w = predictor
    p = jax.tree.map(lambda a: np.asarray(a, float), vars["params"])
    t = np.arange(5.0)

    def leaky(a):
        return np.where(a > 0, a, 0.01 * a)

    joined = leaky(np.concatenate([x, t[:, None], w], axis=1))
    hidden = leaky(joined @ p["first"]["kernel"] + p["first"]["bias"])
    wanted = hidden @ p["second"]["kernel"] + p["second"]["bias"]
    np.testing.assert_allclose(model.apply(vars, x, jnp.asarray(t), w), wanted, atol=1e-5)


def test_split_first_layer_equals_concatenation(predictor):
    model, vars, x, w = predictor
    prepared = model.apply(vars, w, method="prepared")
    for k in (None, jax.random.key(3)):
        whole = model.apply(vars, x, jnp.full(5, 4.0), w, k)
        split = prepared.eps(x, jnp.float32(4), k, model.rate)
        np.testing.assert_allclose(split, whole, atol=1e-5)
    assert np.abs(whole - model.apply(vars, x, jnp.full(5, 4.0), w)).max() > 1e-3  # dropout


def test_noise_loss(key):
    """Zero for an oracle, about 1 for predicting zero."""
    s = diffusion.schedule(20)
    x0 = jax.random.normal(key, (4000, 3))
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    t = jnp.arange(4000) % 20
    w = jnp.zeros((4000, 2))
    assert (diffusion.noise_loss(lambda x, t, w: noise, x0, w, t, noise, s) == 0).all()
    nothing = diffusion.noise_loss(lambda x, t, w: jnp.zeros_like(x), x0, w, t, noise, s)
    assert nothing.shape == (4000,) and abs(nothing.mean() - 1) < 0.05
