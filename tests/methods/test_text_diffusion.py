"""The generator of AV-Diff+: what it is told, what it tracks, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avdiff_jax.methods.method import Vars
from avdiff_jax.methods.shared import text_diffusion
from tests.methods import toy

CLASSES = toy.BASE + toy.NOVEL


def info_of(words="generator=diffusion", **changes):
    return toy.info(f"avdiff_plus,{words}", avdiff_plus__space="token", **changes)


def fresh(info, known=CLASSES):
    buffers = {"known": jnp.asarray(np.arange(CLASSES) < known, jnp.float32)}
    return text_diffusion.init_generator(info, Vars({}, {}, buffers), toy.key(0))


def clips(n=200, width=8, seed=0):
    """Features of all classes, at different places and of different spread in each dimension."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    means = np.random.default_rng(9).normal(size=(CLASSES, width)) * 3 + 2
    x = means[labels] + rng.normal(size=(n, width)) * np.linspace(0.2, 1, width)
    return x.astype(np.float32), labels, means


def test_text_is_centred_on_base_classes():
    info = info_of()
    text = text_diffusion.describe_classes(info)
    np.testing.assert_allclose(text[info.is_base].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(text[info.is_base].std(), 1, rtol=1e-5)
    difference = info.text[5] - info.text[0]
    scale = np.linalg.norm(difference) / np.linalg.norm(text[5] - text[0])
    np.testing.assert_allclose((text[5] - text[0]) * scale, difference, atol=1e-5)


def test_a_single_base_class_leaves_finite_text():
    info = info_of()._replace(is_base=np.arange(CLASSES) < 1)
    assert np.isfinite(text_diffusion.describe_classes(info)).all()


def test_shuffled_text_is_that_of_another_class():
    """Each class has the standardised text of the one before it, the first that of the last."""
    info = info_of(avdiff_plus__shuffle_text=True)
    found = text_diffusion.describe_classes(info)
    moved = info_of()._replace(text=info.text[[5, 0, 1, 2, 3, 4]])
    np.testing.assert_allclose(found, text_diffusion.describe_classes(moved), atol=1e-6)
    assert (found != text_diffusion.describe_classes(info_of())).any(1).all()


def test_tracking_starts_at_the_statistics_of_all_clips():
    info = info_of("generator=gaussian")
    x, labels, _ = clips()
    tracked = text_diffusion.start_tracking(info, fresh(info), x, labels).stats["tracked"]
    for c in range(CLASSES):
        np.testing.assert_allclose(tracked["mean"][c], x[labels == c].mean(0), rtol=1e-5)
    within = sum(((x[labels == c] - x[labels == c].mean(0)) ** 2).sum(0) for c in range(CLASSES))
    np.testing.assert_allclose(tracked["variance"], within / (len(x) - CLASSES), rtol=1e-4)


def test_tracking_follows_the_classes_of_a_batch():
    """By hand: a tenth of the way to the mean of the batch; other classes stay."""
    info = info_of("generator=gaussian")
    tracked = {"mean": jnp.ones((CLASSES, 8)), "variance": jnp.ones(8)}
    variables = fresh(info).replace(stats={"tracked": tracked})
    c_o = jnp.asarray([[2.0] * 8, [4.0] * 8, [5.0] * 8])
    stats = text_diffusion.track(info, variables, c_o, jnp.asarray([1, 1, 3]))
    mean = np.asarray(stats["tracked"]["mean"])
    np.testing.assert_allclose(mean[:, 0], [1, 1.2, 1, 1.4, 1, 1], atol=1e-6)
    spread = ((2 - 1.2) ** 2 + (4 - 1.2) ** 2 + (5 - 1.4) ** 2) / 3
    np.testing.assert_allclose(stats["tracked"]["variance"], 0.9 + 0.1 * spread, rtol=1e-5)
    assert "average" not in stats


def test_the_average_of_the_weights_is_that_of_all_updates_at_first():
    """Then it forgets at the rate `ema`: after n updates its weight is at most n / (10 + n)."""
    info = info_of(avdiff_plus__ema=0.5)
    variables, x = fresh(info), jnp.zeros((2, 8))
    seen = []
    for i in range(30):
        params = jax.tree.map(lambda p, i=i: jnp.full_like(p, i), variables.params["gen"])
        variables = variables.replace(params={"gen": params})
        stats = text_diffusion.track(info, variables, x, jnp.zeros(2, int))
        variables = variables.replace(stats=stats)
        seen.append(float(jax.tree.leaves(stats["average"]["params"])[0].ravel()[0]))
    wanted, average = [], None
    for i in range(30):
        rate = min(0.5, i / (10 + i))
        average = float(i) if average is None else rate * average + (1 - rate) * i
        wanted.append(average)
    np.testing.assert_allclose(seen, wanted, rtol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
def test_standardised_features_have_mean_zero_and_deviation_one(residual):
    info = info_of(avdiff_plus__residual=residual)
    x, labels, _ = clips(6000)
    variables = text_diffusion.start_tracking(info, fresh(info), x, labels)
    offset, spread = text_diffusion.standardize(info, variables, jnp.asarray(labels))
    z = (x - np.asarray(offset)) / np.asarray(spread)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(z.std(0), 1, atol=0.1)
    of_class = np.stack([z[labels == c].mean(0) for c in range(CLASSES)])
    assert (np.abs(of_class).max() < 1e-4) == residual


def test_classes_without_clips_do_not_shift_what_is_standardised():
    info = info_of()
    x, labels, _ = clips()
    kept = labels < toy.BASE
    some = text_diffusion.start_tracking(info, fresh(info, toy.BASE), x[kept], labels[kept])
    offset, spread = text_diffusion.standardize(info, some, jnp.asarray([0]))
    means = np.stack([x[labels == c].mean(0) for c in range(toy.BASE)])
    np.testing.assert_allclose(offset[0], means.mean(0), rtol=1e-4)
    assert (spread[0] > means.std(0)).all()


def test_a_dead_dimension_stays_finite():
    info = info_of()
    x, labels, _ = clips()
    x[:, 2] = 0
    variables = text_diffusion.start_tracking(info, fresh(info), x, labels)
    total, metrics = text_diffusion.generator_loss(
        info, variables, jnp.asarray(x[:32]), jnp.asarray(labels[:32]), toy.key(1)
    )
    assert np.isfinite(total) and np.isfinite(metrics["noise_loss"])
    assert np.isfinite(text_diffusion.generate(info, variables, jnp.arange(4), toy.key(2))).all()


@pytest.mark.parametrize("predict", ["noise", "v"])
def test_an_untrained_predictor_is_as_good_as_zero(predict):
    """It says zero. For the noise that costs 1; for v the noise then is sqrt(1 - alpha_bar) x_t,
    which costs alpha_bar on average over unit features."""
    info = info_of(avdiff_plus__predict=predict, diffusion__steps=50)
    x, labels, _ = clips(4000)
    variables = text_diffusion.start_tracking(info, fresh(info), x, labels)
    total, metrics = text_diffusion.generator_loss(
        info, variables, jnp.asarray(x), jnp.asarray(labels), toy.key(1)
    )
    alpha_bar = text_diffusion.make_schedule(info).alpha_bar
    np.testing.assert_allclose(total, 1, atol=0.05)
    wanted = 1 if predict == "noise" else alpha_bar.mean()
    np.testing.assert_allclose(metrics["noise_loss"], wanted, atol=0.05)


def test_the_last_step_is_pure_noise_unless_noise_is_predicted():
    for predict, end in (("v", True), ("x0", True), ("noise", False)):
        s = text_diffusion.make_schedule(info_of(avdiff_plus__predict=predict))
        assert (s.alpha_bar[-1] == 0) == end


def train(info, x, labels, steps):
    """Variables after `steps` of the generator's own Adam, and its last noise loss."""
    variables = text_diffusion.start_tracking(info, fresh(info), x, labels)
    player = text_diffusion.make_player(info, None)
    optimiser = optax.adam(player.rate, *player.betas)

    def step(carry, key):
        variables, opt = carry
        k_batch, k_loss = jax.random.split(key)
        rows = jax.random.randint(k_batch, (64,), 0, len(x))
        c_o, label = jnp.asarray(x)[rows], jnp.asarray(labels)[rows]

        def loss(params):
            moved = variables.replace(params={"gen": params})
            return text_diffusion.generator_loss(info, moved, c_o, label, k_loss)

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(variables.params["gen"])
        changes, opt = optimiser.update(grads, opt)
        params = optax.apply_updates(variables.params["gen"], changes)
        stats = text_diffusion.track(info, variables, c_o, label)
        variables = variables.replace(params={"gen": params}, stats=stats)
        return (variables, opt), metrics["noise_loss"]

    @jax.jit
    def run(variables, keys):
        opt = optimiser.init(variables.params["gen"])
        (variables, _), losses = jax.lax.scan(step, (variables, opt), keys)
        return variables, losses

    variables, losses = run(variables, jax.random.split(toy.key(3), steps))
    return variables, float(losses[-50:].mean())


@pytest.mark.slow
@pytest.mark.parametrize("residual", [False, True], ids=["whole", "residual"])
def test_it_learns(residual):
    """Synthetic features lie where their classes do and spread as they do, in as many steps as an
    epoch has at least."""
    info = info_of(avdiff_plus__residual=residual, diffusion__steps=50, diffusion__hidden=64)
    x, labels, means = clips(400)
    variables, noise_loss = train(info, x, labels, 600)
    wanted = np.repeat(np.arange(CLASSES), 100)
    found = np.asarray(text_diffusion.generate(info, variables, jnp.asarray(wanted), toy.key(4)))
    distance = np.square(found[:, None] - means[None]).sum(-1)
    assert (distance.argmin(1) == wanted).mean() > 0.9
    within = np.mean([found[wanted == c].var(0).mean() for c in range(CLASSES)])
    assert 0.6 < within / np.square(np.linspace(0.2, 1, 8)).mean() < 1.5
    assert noise_loss < 0.6


def test_the_gaussian_control_draws_around_class_means():
    info = info_of("generator=gaussian")
    x, labels, _ = clips()
    variables = text_diffusion.start_tracking(info, fresh(info), x, labels)
    found = text_diffusion.generate(info, variables, jnp.full(4000, 2), toy.key(0))
    tracked = variables.stats["tracked"]
    np.testing.assert_allclose(found.mean(0), tracked["mean"][2], atol=0.1)
    np.testing.assert_allclose(found.var(0), tracked["variance"], rtol=0.15)
