"""The predictor that is told time and condition in every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.nn.film import FilmPredictor, time_code


def test_time_code_by_hand():
    """Frequencies from pi to 100 pi, each the same multiple of the one before."""
    code = np.asarray(time_code(jnp.asarray([0.0, 0.5, 1.0])))
    assert code.shape == (3, 64)
    np.testing.assert_allclose(code[0], [0] * 32 + [1] * 32)
    np.testing.assert_allclose(code[1, [0, 32]], [1, 0], atol=1e-5)  # pi / 2
    np.testing.assert_allclose(code[1, [31, 63]], [0, 1], atol=1e-3)  # 50 pi
    phase = np.pi * 100 ** (np.arange(32) / 31)
    np.testing.assert_allclose(code[2, :32], np.sin(phase), atol=1e-4)


@pytest.fixture(scope="module")
def predictor():
    """Every parameter is away from zero and one."""
    model, rng = FilmPredictor(6, 3), np.random.default_rng(0)
    x, t, w = (jnp.asarray(rng.random(shape), jnp.float32) for shape in ((5, 3), (5,), (5, 4)))
    fresh = model.init(jax.random.key(0), x, t, w)
    moved = jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape).astype(np.float32), fresh)
    return model, fresh, moved, (x, t, w)


def test_by_hand(predictor):
    model, _, vars, (x, t, w) = predictor
    p = jax.tree.map(lambda a: np.asarray(a, float), vars["params"])

    def linear(name, y):
        return y @ p[name]["kernel"] + p[name]["bias"]

    def silu(y):
        return y / (1 + np.exp(-y))

    e = silu(linear("time", np.asarray(time_code(t))) + linear("condition", np.asarray(w)))
    h = linear("first", np.asarray(x))
    for i in range(2):
        film, norm = linear(f"film{i}", e), p[f"norm{i}"]
        z = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
        z = z * norm["scale"] + norm["bias"]
        h = h + linear(f"layer{i}", silu(z * (1 + film[:, :6]) + film[:, 6:]))
    np.testing.assert_allclose(model.apply(vars, x, t, w), linear("last", h), atol=1e-5)


def test_it_starts_at_zero(predictor):
    model, fresh, _, inputs = predictor
    assert (model.apply(fresh, *inputs) == 0).all()
