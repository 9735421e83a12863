"""What every method must keep: sizes, padding, freezing, and that it learns at all.

A new method joins by its row in `COUNTS`.
"""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.methods import METHODS
from avdiff_jax.train.feature_cache import Fused
from avdiff_jax.train.optimisers import TrainState, fresh_optimisers
from avdiff_jax.train.step import update
from tests.methods import toy

# Trained parameters in stage 2 of UCF, VGGSound and ActivityNet.
COUNTS = {
    "avdiff": (5_714_844, 8_499_451, 6_417_122),
    "avdiff_plus": (5_708_892, 8_493_499, 6_411_170),
    "avgan": (5_738_141, 8_554_364, 6_459_747),
    "attention_fusion": (2_886_040, 3_049_053, 2_995_690),
    "perceiver": (7_133_128, 11_371_623, 8_198_878),
    "mbt": (8_436_752, 13_996_271, 9_832_758),
    "tcaf": (7_269_972, 8_655_028, 7_269_972),
    "protogan": (15_603_185, 15_617_680, 15_612_935),
    "sldg": (3_778_808, 3_807_798, 3_798_308),
    "tsl": (3_718_521, 3_785_644, 3_763_671),
    "hip": (7_277_796, 7_292_291, 7_287_546),
    "zorro": (5_667_240, 8_454_247, 6_370_118),
    "avca": (3_334_628, 3_349_123, 3_344_378),
    "ncm": (0, 0, 0),
    "linear": (0, 0, 0),
}
# Millions, worked out from the descriptions of the methods before they were written.
EXPECTED = {
    "avdiff": (5.71, 8.50, 6.42), "avgan": (5.74, 8.55, 6.46),
    # AV-Diff's without its noise predictor (.06), with 96 inputs of 512 more (.05).
    "avdiff_plus": (5.71, 8.49, 6.41),
    "attention_fusion": (2.89, 3.05, 3.00), "perceiver": (7.13, 11.37, 8.20),
    "mbt": (8.44, 14.00, 9.83), "tcaf": (7.27, 8.66, 7.27), "protogan": (15.60, 15.62, 15.61),
    "sldg": (3.78, 3.81, 3.80), "tsl": (3.72, 3.79, 3.76), "hip": (7.28, 7.29, 7.29),
    "zorro": (5.67, 8.45, 6.37), "avca": (3.33, 3.35, 3.34),
    "ncm": (0, 0, 0), "linear": (0, 0, 0),
}
# Nothing moves in substage 2 of AV-Diff+; tests of its own try its other head.
TRAINED = [name for name in COUNTS if name not in ("ncm", "linear", "avdiff_plus")]
PLUS = pytest.param("avdiff_plus", marks=pytest.mark.slow)


def but_slow(*names, more=()):
    """The trained methods, these in the slow tier, each with `more` arguments of the test."""
    return [
        pytest.param(name, *more, marks=[pytest.mark.slow] if name in names else [])
        for name in TRAINED
    ]


def test_every_method_is_here():
    assert set(COUNTS) == set(EXPECTED) == set(METHODS)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("dataset", [
    "ucf", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vggsound", "activitynet"))
])
def test_parameter_counts(name, dataset):
    i, info = [*toy.DATASETS].index(dataset), toy.benchmark(name, dataset)
    init = partial(METHODS[name].init, info, toy.empty(info))
    variables = jax.eval_shape(init, toy.key(0))
    count = sum(x.size for x in jax.tree.leaves(variables.params))
    assert count == COUNTS[name][i]
    assert abs(count - 1e6 * EXPECTED[name][i]) <= 1e4 * EXPECTED[name][i]


def clips(roles=("base",)):
    """The training clips, as `refresh` asks for them."""
    return lambda: [toy.draw(jax.random.fold_in(toy.key(5), i), role, 128)
                    for i, role in enumerate(roles)]


def start(name, info, substage, variables) -> TrainState:
    method = METHODS[name]
    if method.refresh:
        variables = method.refresh(info, variables, clips(("base", "novel")[:substage]))
    opt = fresh_optimisers(method, info, substage, variables)
    return TrainState(variables, opt, jnp.zeros((), int))


@cache
def fresh(name):
    """Variables before training, with every parameter away from zero and one."""
    info = toy.info(name)
    variables = jax.jit(partial(METHODS[name].init, info, toy.empty(info)))(toy.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), variables.params
    )
    return start(name, info, 1, variables.replace(params=params)).vars


@cache
def trained(name):
    """Variables after 200 updates of substage 1."""
    info, method = toy.info(name), METHODS[name]
    state = start(name, info, 1, fresh(name))
    if not method.players(info, 1):
        return state.vars

    @jax.jit
    def run(state):
        def body(state, key):
            return update(method, info, 1, state, toy.draw(key), key, "base")

        return jax.lax.scan(body, state, jax.random.split(toy.key(1), 200))

    state, metrics = run(state)
    chex.assert_tree_all_finite(metrics)
    return state.vars


@cache
def scorer(name):
    info, method = toy.info(name), METHODS[name]

    @jax.jit
    def score(variables, batch):
        features, stats = method.features(info, variables, batch, toy.key(0), False)
        return method.scores(info, variables, features), stats

    return score


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_learns_separable_classes(name):
    batch = toy.draw(toy.key(2), clips=256)
    scores, _ = scorer(name)(trained(name), batch)
    assert scores.shape == (256, toy.BASE + toy.NOVEL)
    accuracy = np.mean([
        (scores.argmax(-1) == batch.label)[batch.label == c].mean() for c in range(toy.BASE)
    ])
    assert accuracy > 0.9


# The next test has the same masks, in training.
@pytest.mark.parametrize("name", ["ncm", "linear", *but_slow(*TRAINED), PLUS])
def test_padding_changes_no_score(name):
    variables, batch = fresh(name), toy.draw(toy.key(3))
    scores, stats = scorer(name)(variables, batch)
    again, _ = scorer(name)(variables, toy.longer(batch, 7))
    np.testing.assert_allclose(again, scores, atol=1e-5, rtol=1e-4)
    chex.assert_trees_all_equal(stats, variables.stats)


# Most have AV-Diff's masks, and tests/methods/test_tokens.py tries what the others hide.
@pytest.mark.parametrize("name", but_slow(*{*TRAINED} - {"avdiff", "tsl"}))
def test_padding_changes_no_loss(name):
    """In training, without dropout: losses of all players, and the statistics."""
    info, method, variables = toy.info(name), METHODS[name], fresh(name)

    @jax.jit
    def losses(batch):
        key = toy.key(4)
        features, stats = method.features(info, variables, batch, key, True)
        after = variables.replace(stats=stats)
        return [
            player.loss(info, after, features, batch, key, "novel")
            for player in method.players(info, 2)
        ]

    batch = toy.draw(toy.key(3), "novel")
    chex.assert_trees_all_close(
        losses(batch), losses(toy.longer(batch, 7)), atol=2e-5, rtol=2e-4
    )


@pytest.mark.parametrize(
    # tests/methods/test_losses_and_players.py tries the players of AV-GAN; the others that are slow
    # freeze as those with a trunk do, and their own blocks are tried in test_tokens.py.
    "name, mode", [
        *but_slow("avgan", "hip", "mbt", "perceiver", more=("train",)), ("tsl", "eval"),
        *(pytest.param(name, "eval", marks=pytest.mark.slow) for name in ("mbt", "sldg")),
    ]
)
def test_frozen_groups_stand_still(name, mode):
    info, method = toy.info(name, train__frozen_mode=mode), METHODS[name]
    state = start(name, info, 2, fresh(name))
    before = state.vars
    frozen = method.frozen(info, 2)
    moving = [g for player in method.players(info, 2) for g in player.groups]
    assert sorted([*frozen.groups, *moving]) == sorted(before.params)  # each in one place
    assert frozen.mode == mode or not frozen.groups

    @jax.jit
    def run(state, key):
        for role in ("base", "novel"):
            batch = toy.draw(key, role)
            if frozen.groups and frozen.mode == "eval":
                features, _ = method.features(info, state.vars, batch, key, False)
                batch = Fused(features, batch.label)
            state, metrics = update(method, info, 2, state, batch, key, role)
        return state, metrics

    for i in range(2):
        state, metrics = run(state, toy.key(i))
    chex.assert_tree_all_finite(metrics)
    after = state.vars
    for group in frozen.groups:
        chex.assert_trees_all_equal(after.params[group], before.params[group])
    for group in moving:
        assert differs(after.params[group], before.params[group]), group
    for group in before.stats:
        runs_on = group not in frozen.groups or frozen.mode == "train"
        assert differs(after.stats[group], before.stats[group]) == runs_on, group
    chex.assert_trees_all_equal(after.buffers, before.buffers)


def differs(a, b) -> bool:
    return any(bool((x != y).any()) for x, y in
               zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
