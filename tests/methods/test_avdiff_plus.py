"""AV-Diff+: what its heads look at, its Gaussian head, and a generator with its own player."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.methods import avdiff_plus, check
from avdiff_jax.methods.linear import NEVER
from avdiff_jax.methods.shared import trunk_methods
from avdiff_jax.methods.shared.gaussian_head import solve_head
from avdiff_jax.train.feature_cache import Fused
from avdiff_jax.train.optimisers import TrainState, fresh_optimisers
from avdiff_jax.train.step import update
from tests.methods import toy

METHOD, DIM = avdiff_plus.METHOD, 16
CLASSES = toy.BASE + toy.NOVEL
GENERATOR = "generator=diffusion"
QUICK = {"diffusion__few_steps": 2, "avdiff_plus__repeats": 2}


def name_of(words):
    return f"avdiff_plus,{words}" if words else "avdiff_plus"


def info_of(words="", space="both", **changes):
    return toy.info(name_of(words), avdiff_plus__space=space, **changes)


@cache
def start():
    """Variables with a fitted raw branch, before substage 2, and clips of all classes."""
    info = info_of(GENERATOR, **QUICK)
    variables = jax.jit(partial(METHOD.init, info, toy.empty(info)))(toy.key(0))
    batches = [toy.draw(toy.key(i), role, 64) for i, role in enumerate(("base", "novel"))]
    return METHOD.refresh(info, variables, lambda: batches[:1]), batches


@cache
def all_features():
    """Features [n, d] and labels [n] of the clips."""
    variables, batches = start()
    info = info_of(GENERATOR)
    run = jax.jit(lambda batch: METHOD.features(info, variables, batch, toy.key(0), False)[0])
    rows = [np.asarray(run(batch)) for batch in batches]
    return np.concatenate(rows), np.concatenate([np.asarray(batch.label) for batch in batches])


def test_features_are_the_token_beside_the_raw_branch():
    variables, batches = start()
    features, _ = all_features()
    info = info_of(GENERATOR)
    fuse = jax.jit(lambda batch: trunk_methods.features(info, variables, batch, toy.key(0), False))
    token, _ = fuse(batches[0])
    np.testing.assert_allclose(features[:64, :DIM], token, atol=1e-5)
    raw = features[:64, DIM:]
    assert raw.shape[1] == 96 and np.abs(raw.mean(0)).max() < 1e-3 and raw.std() > 0.1


def test_the_raw_branch_is_fitted_once():
    variables, batches = start()
    again = METHOD.refresh(info_of(GENERATOR), variables, lambda: batches[1:])
    chex.assert_trees_all_equal(again.buffers, variables.buffers)


def test_before_substage_2_the_token_alone_is_seen():
    variables, _ = start()
    features, _ = all_features()
    other = features.copy()
    other[:, DIM:] += 5
    for head in ("linear", "gaussian"):
        info = info_of(avdiff_plus__head=head)
        scores = METHOD.scores(info, variables, jnp.asarray(features))
        np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(METHOD.scores(info, variables, jnp.asarray(other)), scores)


@pytest.mark.parametrize("space", ["token", "raw", "both"])
def test_gaussian_scores(space):
    """As worked out from z-scored tokens and components one by one: log-likelihoods, whose
    deviation over base clips and classes is 1."""
    variables, _ = start()
    features, labels = all_features()
    info = info_of(space=space)
    z = features.astype(np.float64)
    base = labels < toy.BASE
    z[:, :DIM] -= z[base, :DIM].mean(0)
    spread = z[base, :DIM].std(0)
    z[:, :DIM] /= np.where(spread > 1e-5, spread, 1)
    z = {"token": z[:, :DIM], "raw": z[:, DIM:], "both": z}[space]
    weights, bias = solve_head(z, labels, info.is_base)
    wanted = z @ weights + bias
    wanted /= wanted[base][:, : toy.BASE].std()
    solved = METHOD.solve(info, variables, features, labels)
    found = np.asarray(METHOD.scores(info, solved, jnp.asarray(features)))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    if space != "token":  # whose trunk has learned nothing yet
        assert (found.argmax(1) == labels).mean() > 0.9


def test_a_class_without_clips_is_never_chosen():
    variables, _ = start()
    features, labels = all_features()
    info, kept = info_of(), labels != CLASSES - 1
    solved = METHOD.solve(info, variables, features[kept], labels[kept])
    assert (METHOD.scores(info, solved, jnp.asarray(features))[:, -1] == NEVER).all()


def test_classes_added_in_any_order_equal_all_at_once():
    """Exactly but for rounding: the head follows from the clips alone."""
    variables, _ = start()
    features, labels = all_features()
    info = info_of()
    whole = METHOD.solve(info, variables, features, labels)
    wanted = METHOD.scores(info, whole, jnp.asarray(features))
    for order in ((0, 1, 2, 3, 5, 4), (3, 1, 0, 2, 4, 5)):
        place = np.argsort(order)
        shuffled = info._replace(is_base=info.is_base[list(order)], text=info.text[list(order)])
        rows = np.random.default_rng(1).permutation(len(labels))
        solved = METHOD.solve(shuffled, variables, features[rows], place[labels[rows]])
        found = METHOD.scores(shuffled, solved, jnp.asarray(features))[:, place]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_growing_makes_room_for_new_classes():
    """And the generator is told their text, by the same measure as that of the old ones."""
    variables, _ = start()
    info = info_of(GENERATOR)
    text = np.concatenate([info.text, info.text[:1] + 0.5])
    more = info._replace(
        classes=(*info.classes, "new"), is_base=np.append(info.is_base, False), text=text
    )
    grown = METHOD.grow(more, variables, list, toy.key(2))
    assert grown.params["cls"]["kernel"].shape == (8, CLASSES + 1)
    old, new = variables.buffers["condition"], grown.buffers["condition"]
    np.testing.assert_allclose(new[:-1], old, atol=1e-6)
    fresh = jax.eval_shape(partial(METHOD.init, more, toy.empty(more)), toy.key(0))
    features, labels = all_features()
    solved = METHOD.solve(more, grown, features, labels)
    assert jax.tree.map(jnp.shape, solved.params) == jax.tree.map(jnp.shape, fresh.params)
    assert jax.tree.map(jnp.shape, solved.buffers) == jax.tree.map(jnp.shape, fresh.buffers)
    assert jax.tree.map(jnp.shape, solved.stats) == jax.tree.map(jnp.shape, fresh.stats)


@pytest.mark.parametrize("words, head, names, frozen", [
    ("", "gaussian", [], ["enc", "pos", "fusion", "proj", "cls"]),
    ("", "linear", ["main"], ["enc", "pos", "fusion"]),
    ("generator=gaussian", "linear", ["main"], ["enc", "pos", "fusion"]),
    (GENERATOR, "linear", ["main", "gen"], ["enc", "pos", "fusion"]),
])
def test_players(words, head, names, frozen):
    info = info_of(words, avdiff_plus__head=head)
    assert [player.name for player in METHOD.players(info, 1)] == ["main"]
    assert [player.name for player in METHOD.players(info, 2)] == names
    assert METHOD.frozen(info, 1).groups == () and METHOD.frozen(info, 2).mode == "eval"
    assert [*METHOD.frozen(info, 2).groups] == frozen


def test_both_players_move_in_one_step_and_not_each_other():
    """On cached features: the head, the generator, what is tracked and the average move; the
    generator's own steps leave the head alone, whatever their number."""
    variables, _ = start()
    features, labels = all_features()
    info = info_of(GENERATOR, **QUICK)
    solved = METHOD.solve(info, variables, features, labels)
    opt = fresh_optimisers(METHOD, info, 2, solved)
    state = TrainState(solved, opt, jnp.zeros((), int))
    batch = Fused(jnp.asarray(features[64:96]), jnp.asarray(labels[64:96]))

    def after(info):
        run = jax.jit(lambda state: update(METHOD, info, 2, state, batch, toy.key(1), "novel"))
        return run(state)

    moved, metrics = after(info)
    assert {"main/loss", "main/ce_synthetic", "gen/loss", "gen/noise_loss"} <= set(metrics)
    chex.assert_tree_all_finite(metrics)
    for group, same in (("enc", True), ("proj", False), ("cls", False), ("gen", False)):
        equal = jax.tree.map(lambda a, b: bool((a == b).all()), moved.vars.params[group],
                             solved.params[group])
        assert all(jax.tree.leaves(equal)) == same, group
    assert (moved.vars.stats["tracked"]["mean"][4:] != solved.stats["tracked"]["mean"][4:]).any()
    longer, _ = after(info_of(GENERATOR, **{**QUICK, "avdiff_plus__repeats": 4}))
    chex.assert_trees_all_close(longer.vars.params["cls"], moved.vars.params["cls"], rtol=1e-5)
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), longer.vars.params["gen"],
                         moved.vars.params["gen"])
    assert not all(jax.tree.leaves(equal))


def test_synthetic_features_teach_the_head_alone():
    """Their cross-entropy has no gradient for the predictor."""
    variables, _ = start()
    features, labels = all_features()
    info = info_of(GENERATOR, **QUICK)
    solved = METHOD.solve(info, variables, features, labels)
    batch = Fused(jnp.asarray(features[64:]), jnp.asarray(labels[64:]))

    def loss(params):
        moved = solved.replace(params=params)
        return avdiff_plus.loss(info, moved, batch.features, batch, toy.key(1), "novel")[0]

    grads = jax.jit(jax.grad(loss))(solved.params)
    assert all((g == 0).all() for g in jax.tree.leaves(grads["gen"]))
    assert any((g != 0).any() for g in jax.tree.leaves(grads["cls"]))


@pytest.mark.parametrize("words, head", [
    (GENERATOR, "gaussian"), ("generator=gaussian", "auto"),
])
def test_a_generator_asks_for_a_head_that_learns_from_it(words, head):
    with pytest.raises(UserError, match=f"avdiff_plus.head={head}, which learns from real"):
        check(toy.config(name_of(words), avdiff_plus__head=head))
    check(toy.config(name_of(words)))
    check(toy.config("avdiff_plus", avdiff_plus__head=head))
