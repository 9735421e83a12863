"""BatchNorm and the embedding net against NumPy in float64, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.nn.attention import Block, attention
from avdiff_jax.nn.layers import (
    BatchNorm,
    EmbeddingNet,
    LayerNorm,
    Linear,
    TokenCode,
    product,
    repeat_rows,
)

RNG = np.random.default_rng(0)


def norm_of(x, counted, train=True, stats=None):
    module = BatchNorm()
    vars = module.init(jax.random.key(0), x, counted, True)
    params = {"scale": jnp.asarray([2.0, 1, 0.5]), "bias": jnp.asarray([0.5, 0, -1])}
    vars = {"params": params, "stats": stats or vars["stats"]}
    return module.apply(vars, x, counted, train, mutable=["stats"])


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 5, 3), (2, 4, 5, 3)])
def test_repeated_rows_and_their_gradient(shape):
    """The gradient sums over all rows, draws side by side too."""
    vector, weight = RNG.normal(size=(2, 3)), RNG.normal(size=(2, *shape))

    def loss(vector, weight):
        return (repeat_rows(vector, weight) * weight).sum()

    vector, weight = (jnp.asarray(x, jnp.float32) for x in (vector, weight))
    np.testing.assert_array_equal(
        repeat_rows(vector[0], weight[0]), np.broadcast_to(vector[0], shape))
    gradient = jax.jit(jax.vmap(jax.grad(loss)))(vector, weight)
    wanted = np.asarray(weight, float).reshape(2, -1, 3).sum(1)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_layernorm_numbers():
    x = np.random.default_rng(1).normal(2, 3, size=(4, 5, 8))
    scale, bias = np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8)
    params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    y = LayerNorm().apply({"params": params}, jnp.asarray(x, jnp.float32))
    centred = x - x.mean(-1, keepdims=True)
    wanted = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
    np.testing.assert_allclose(y, wanted, atol=2e-5)


def test_batchnorm_numbers():
    x = RNG.normal(2, 3, size=(4, 5, 3))
    counted = np.arange(5)[None] < np.array([5, 2, 1, 3])[:, None]
    y, updated = norm_of(jnp.asarray(x, jnp.float32), jnp.asarray(counted))
    rows = x[counted]  # [11, 3] in float64
    wanted = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * [2, 1, 0.5] + [0.5, 0, -1]
    np.testing.assert_allclose(np.asarray(y)[counted], wanted[counted], atol=2e-5)
    stats = updated["stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_batchnorm_starts_at_zero_and_one():
    module = BatchNorm()
    x = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    stats = module.init(jax.random.key(0), x, jnp.ones(6, bool), True)["stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(3))
    np.testing.assert_array_equal(stats["var"], np.ones(3))


def test_batchnorm_ignores_padding():
    """More padding, filled with anything, changes neither outputs nor statistics."""
    x = RNG.normal(size=(2, 3, 3)).astype(np.float32)
    counted = np.array([[1, 1, 1], [1, 0, 0]], bool)
    longer = np.concatenate([x, 1e3 + np.zeros((2, 4, 3), np.float32)], axis=1)
    more = np.pad(counted, ((0, 0), (0, 4)))
    y, stats = norm_of(jnp.asarray(x), jnp.asarray(counted))
    z, again = norm_of(jnp.asarray(longer), jnp.asarray(more))
    np.testing.assert_allclose(y[counted], np.asarray(z)[more], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, again)


def test_batchnorm_evaluates_by_running_statistics():
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    stats = {"mean": jnp.asarray([1.0, 2, 3]), "var": jnp.asarray([4.0, 1, 0.25])}
    y, updated = norm_of(jnp.asarray(x), jnp.ones(4, bool), False, stats)
    wanted = (x - [1, 2, 3]) / np.sqrt(np.array([4, 1, 0.25]) + 1e-5) * [2, 1, 0.5] + [0.5, 0, -1]
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updated["stats"], stats)


def test_one_counted_row_and_none():
    """n - 1 = 0 and n = 0 leave finite numbers."""
    x = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    for counted in ([True, False], [False, False]):
        y, updated = norm_of(x, jnp.asarray(counted))
        assert all(np.isfinite(a).all() for a in jax.tree.leaves((y, updated)))


def test_embedding_net_is_not_negative(key):
    net = EmbeddingNet((8, 4), 0.3)
    x = jax.random.normal(key, (5, 6, 3))
    every = jnp.ones((5, 6), bool)
    vars = net.init(key, x, every, False)
    for train in (False, True):
        y, _ = net.apply(vars, x, every, train, rngs={"dropout": key}, mutable=["stats"])
        assert y.shape == (5, 6, 4) and (y >= 0).all() and (y > 0).any()


def test_linear_starts_like_pytorch(key):
    vars = Linear(400).init(key, jnp.zeros((1, 25)))["params"]
    for x in jax.tree.leaves(vars):
        assert np.abs(x).max() <= 0.2 and abs(x.std() - 0.2 / np.sqrt(3)) < 0.01


def test_attention_numbers():
    """softmax(q k / sqrt d) v over visible keys, in float64 loops."""
    q, k, v = (RNG.normal(size=(2, 3, 2, 4)) for _ in range(3))
    seen = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)[None].repeat(2, 0)
    mixed, _ = attention(*(jnp.asarray(a, jnp.float32) for a in (q, k, v)), jnp.asarray(seen))
    for b, i, h in np.ndindex(2, 3, 2):
        score = np.array([q[b, i, h] @ k[b, j, h] / 2 for j in range(3)])
        weight = np.exp(score) * seen[b, i]
        wanted = weight / weight.sum() @ v[b, :, h]
        np.testing.assert_allclose(mixed[b, i, h], wanted, atol=1e-5)


def test_a_block_adds_to_what_it_is_given(key):
    """Nothing, where neither branch says anything; and the first tokens alone where asked to."""
    block, x = Block(6, 2, 3, 5, 0.0), jax.random.normal(key, (2, 4, 6))
    visible = jnp.ones((2, 4, 4), bool)
    silent = jax.tree.map(jnp.zeros_like, block.init(key, x, visible, False))
    np.testing.assert_array_equal(block.apply(silent, x, visible, False), x)
    vars = block.init(key, x, visible, False)
    whole = block.apply(vars, x, visible, False)
    np.testing.assert_allclose(block.apply(vars, x, visible, False, 2), whole[:, :2], atol=1e-6)


def test_padding_code_marks_padded_tokens_only(key):
    module = TokenCode(6, 4, 0.0, ("audio", "video"))
    x = {n: jnp.ones((1, 3, 5)) for n in ("audio", "video")}
    time = {n: jnp.zeros((1, 3)) for n in x}
    valid = {"audio": jnp.asarray([[True, True, False]]), "video": jnp.ones((1, 3), bool)}
    r = jnp.ones((2, 2))
    vars = module.init(key, x, time, valid, r, False)
    tokens = module.apply(vars, x, time, valid, r, False)
    np.testing.assert_array_equal(tokens["audio"][0, 0], tokens["audio"][0, 1])
    assert np.abs(tokens["audio"][0, 2] - tokens["audio"][0, 0]).max() > 1e-2
    assert np.abs(tokens["video"][0, 0] - tokens["audio"][0, 0]).max() > 1e-2


def test_products_in_bfloat16():
    """Factors are rounded, sums are not; gradients have the parameters' precision."""
    x, y = (jax.random.normal(jax.random.key(i), (5, 64)) for i in range(2))

    def rounded(z):
        return np.asarray(z.astype(jnp.bfloat16), np.float64)

    exact = np.asarray(x, np.float64) @ np.asarray(y, np.float64).T
    with jax.default_matmul_precision("bfloat16"):
        found = product("ai,bi->ab", x, y)
        grad = jax.grad(lambda x: product("ai,bi->ab", x, y).sum())(x)
    assert found.dtype == grad.dtype == jnp.float32
    np.testing.assert_allclose(found, rounded(x) @ rounded(y).T, rtol=1e-5, atol=1e-5)
    assert np.abs(found - exact).max() > 1e-3
    np.testing.assert_allclose(product("ai,bi->ab", x, y), exact, rtol=1e-5, atol=1e-5)
