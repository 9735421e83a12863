"""AV-Diff's loss and sampling, by stand-ins that tell what they are given."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax import diffusion
from avdiff_jax.methods import avdiff
from avdiff_jax.methods.method import Vars
from tests.methods import toy

LABELS = jnp.arange(400) % 6


@pytest.fixture
def variables():
    """A single parameter of the generator, and conditions that tell their class."""
    return Vars({"gen": jnp.ones(1)}, {}, {"condition": jnp.arange(6.0)[:, None]})


@pytest.fixture
def head(monkeypatch):
    """A head that passes c_o on, and real clips that cost nothing."""
    monkeypatch.setattr(avdiff, "apply_head", lambda info, variables, c, key: ((c, c), {}))
    monkeypatch.setattr(avdiff, "judge_real", lambda logits, label: (0.0, {}))
    monkeypatch.setattr(avdiff, "classify", lambda info, variables, c: c)


def test_shuffled_text_is_that_of_the_class_before():
    info = toy.info("avdiff", diffusion__condition="shuffled")
    np.testing.assert_allclose(avdiff.describe_classes(info)[1:], info.text[:-1], rtol=1e-6)
    np.testing.assert_allclose(avdiff.describe_classes(info)[0], info.text[-1], rtol=1e-6)
    np.testing.assert_allclose(avdiff.describe_classes(toy.info("avdiff")), info.text, rtol=1e-6)
    init = jax.jit(lambda key: avdiff.init_conditioned(info, toy.empty(info), key))
    np.testing.assert_allclose(
        init(toy.key(0)).buffers["condition"], avdiff.describe_classes(info), rtol=1e-6)


def test_every_step_of_the_diffusion_is_trained(head, variables, monkeypatch):
    """The noisiest, which sampling begins with, as often as the others; each clip under the
    condition of its class, and with noise of its own."""
    noted = []

    def note(predict, x0, w, t, noise, s):
        noted.append((w, t, noise))
        return jnp.zeros(len(t))

    monkeypatch.setattr(diffusion, "noise_loss", note)
    batch = SimpleNamespace(label=LABELS)
    token = jnp.zeros((400, 3))
    avdiff.loss(toy.info("avdiff"), variables, token, batch, jax.random.key(0), "base")
    ((w, t, noise),) = noted
    assert np.abs(np.bincount(t) / 400 - 1 / 4).max() < 0.1 and len(np.bincount(t)) == 4
    np.testing.assert_array_equal(w[:, 0], LABELS)
    assert noise.shape == (400, 3) and abs(noise.std() - 1) < 0.1


@pytest.mark.parametrize("role", ["base", "novel"])
@pytest.mark.parametrize("wish", [True, False])
def test_synthetic_features_teach_the_generator_where_asked_to(
    role, wish, head, variables, monkeypatch
):
    """They are made in novel updates alone, with dropout."""
    info, asked = toy.info("avdiff", diffusion__sampler_gradient=wish), []

    def generate(info, variables, labels, key, train, draws):
        asked.append(train)
        return jnp.eye(6)[labels] * variables.params["gen"][None]

    monkeypatch.setattr(avdiff, "generate", generate)
    monkeypatch.setattr(diffusion, "noise_loss", lambda *_: jnp.zeros(400))
    batch, token = SimpleNamespace(label=LABELS), jnp.zeros((400, 3))

    def loss(params):
        moved = variables.replace(params=params)
        return avdiff.loss(info, moved, token, batch, jax.random.key(0), role)

    (total, (_, told)), slope = jax.value_and_grad(loss, has_aux=True)(variables.params)
    if role == "base":
        assert asked == [] and "ce_synthetic" not in told
        return
    assert asked == [True] and (slope["gen"] != 0) == wish
    np.testing.assert_allclose(total, np.log(1 + 5 / np.e), rtol=1e-5)  # of logits 1, 0, 0, ...


@pytest.mark.parametrize("few_steps", [0, 2])
def test_dropout_runs_in_training_alone(few_steps, variables, monkeypatch):
    info = toy.info("avdiff", diffusion__few_steps=few_steps, diffusion__dropout=0.25)
    rates = []

    def eps(x, t, key, rate):
        rates.append(rate)
        return 0 * x

    monkeypatch.setattr(avdiff, "apply_params", lambda *_, **__: SimpleNamespace(eps=eps))
    for train in (False, True):
        made = avdiff.generate(info, variables, LABELS, jax.random.key(0), train)
        assert made.shape == (400, info.config.model.width)
    assert rates == [0.0, 0.25]
