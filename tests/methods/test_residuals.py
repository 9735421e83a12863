"""What base clips have beyond their class, lent to inputs and to novel classes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.methods import avdiff_plus, check
from avdiff_jax.methods.shared import residuals
from avdiff_jax.methods.shared.residuals import KEPT, RESIDUALS, SCALE
from avdiff_jax.train.feature_cache import Fused
from tests import tiny
from tests.methods import toy

METHOD, WIDTH = avdiff_plus.METHOD, 16 + 96


def info_of(words="", head="linear", jitter="0"):
    more = {"avdiff_plus__head": head, "avdiff_plus__jitter": jitter}
    return toy.info(f"avdiff_plus{words}", avdiff_plus__space="both", **more)


def clips(count=60):
    """Features [n, WIDTH] of clips of all classes, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % (toy.BASE + toy.NOVEL)
    return rng.normal(size=(count, WIDTH)).astype(np.float32) + 3 * labels[:, None], labels


def solved(info):
    variables = jax.jit(partial(METHOD.init, info, toy.empty(info)))(toy.key(0))
    return METHOD.solve(info, variables, *clips())


def test_residuals_by_hand():
    """Of base clips alone, each as often as any other, but for one more or less."""
    features, labels = clips()
    found = residuals.collect_residuals(info_of(), features, labels)
    kept, means = (np.asarray(found[name]) for name in RESIDUALS)
    assert kept.shape == (KEPT, WIDTH) and means.shape == (toy.BASE + toy.NOVEL, WIDTH)
    for label in range(toy.BASE + toy.NOVEL):
        np.testing.assert_allclose(means[label], features[labels == label].mean(0), atol=1e-5)
    base = labels < toy.BASE
    wanted = (features - means[labels])[base]
    distance = np.abs(kept[:, None] - wanted[None]).max(2)
    assert distance.min(1).max() < 1e-5
    times = np.bincount(distance.argmin(1), minlength=len(wanted))
    assert times.max() - times.min() <= 1


def test_transferred_features():
    """The mean of the class, and twice what some base clip has beyond its own."""
    info = info_of(",generator=transfer")
    variables = solved(info)
    labels = jnp.array([4, 5, 4])
    made = residuals.transfer(variables.buffers, labels, toy.key(1))
    lent = (made - variables.buffers["class_means"][labels]) / SCALE
    distance = jnp.abs(lent[:, None] - variables.buffers["residuals"][None]).max(2).min(1)
    np.testing.assert_allclose(distance, 0, atol=1e-5)
    c_hat = METHOD.generate(info, variables, labels, toy.key(1))
    np.testing.assert_allclose(c_hat, METHOD.embed(info, variables, made), atol=1e-5)


@pytest.mark.parametrize("role", ["base", "novel"])
def test_jitter_moves_the_inputs_of_the_head(role):
    """By as many residuals as it says; scores stay what they are."""
    features, labels = (jnp.asarray(x[:32]) for x in clips())
    batch = Fused(features, labels)

    def loss(jitter, features):
        info = info_of(jitter=jitter)
        return avdiff_plus.loss(info, variables, features, batch, toy.key(2), role)[0]

    variables = solved(info_of(jitter="2"))
    k_jitter = jax.random.fold_in(toy.key(2), 2)
    moved = features + 2 * residuals.draw_residuals(variables.buffers, 32, k_jitter)
    assert abs(loss("2", features) - loss("0", features)) > 1e-3
    np.testing.assert_allclose(loss("2", features), loss("0", moved), rtol=1e-5)
    np.testing.assert_array_equal(
        METHOD.scores(info_of(jitter="2"), variables, features),
        METHOD.scores(info_of(), variables, features))


@pytest.mark.slow
def test_room_for_residuals_is_given_back():
    """Where the scale was open and none was chosen: a model file has what its fields ask for."""
    open_field, chosen = info_of(jitter="auto"), info_of(jitter="0")
    variables = METHOD.init(open_field, toy.empty(open_field), toy.key(0))
    assert {*RESIDUALS} <= {*variables.buffers}
    after = METHOD.solve(chosen, variables, *clips())
    fresh = jax.eval_shape(partial(METHOD.init, chosen, toy.empty(chosen)), toy.key(0))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, fresh)


def test_growing_makes_room_for_new_classes():
    info = info_of(",generator=transfer")
    more = info._replace(
        classes=(*info.classes, "new"), is_base=np.append(info.is_base, False),
        text=np.concatenate([info.text, info.text[:1] + 0.5]),
    )
    grown = METHOD.grow(more, solved(info), list, toy.key(2))
    fresh = jax.eval_shape(partial(METHOD.init, more, toy.empty(more)), toy.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, fresh)


@pytest.mark.parametrize("words, changes, complaint", [
    ("generator=transfer", {}, "generator=transfer means nothing to method=avdiff"),
    ("method=avdiff_plus", {"avdiff_plus__jitter": "1"}, "avdiff_plus.jitter=1 means nothing"),
    ("method=avdiff_plus,generator=transfer", {"avdiff_plus__head": "gaussian"},
     "generator=transfer means nothing to avdiff_plus.head=gaussian"),
])
def test_refused(words, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        check(tiny.config(words, **changes), usual=tiny.config(words))
