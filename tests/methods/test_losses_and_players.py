"""Losses by hand, players that keep to their parameters, and what each generator promises."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.methods import METHODS, avca, avdiff, linear, protogan, sldg, tcaf, tsl
from avdiff_jax.methods.method import with_params
from avdiff_jax.methods.shared import gan
from avdiff_jax.methods.shared.prototypes import average_classes
from avdiff_jax.train.optimisers import TrainState, fresh_optimisers
from avdiff_jax.train.step import update
from tests.methods import toy


def close(actual, desired, tolerance=1e-6):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def started(name, **changes):
    """Toy information, fresh variables of one layer, and one batch of novel clips."""
    info = toy.info(name, model__depth=1, model__switch=0, **changes)
    init = partial(METHODS[name].init, info, toy.empty(info))
    return info, jax.jit(init)(jax.random.key(0)), draw(jax.random.key(1), "novel")


# Op by op it would compile each of its many small steps.
draw = jax.jit(toy.draw, static_argnums=1)


# Losses


def test_kl_by_hand():
    found = gan.kl_divergence(jnp.array([[1.0, 0.0]]), jnp.array([[np.log(4.0), 0.0]]))
    close(found, [0.5 * (4 + 1 - 1 - np.log(4))])
    assert gan.kl_divergence(jnp.zeros((1, 3)), jnp.zeros((1, 3))) == 0


def test_cosine_embedding_by_hand():
    a = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = jnp.array([[3.0, 4.0], [3.0, 4.0], [-1.0, 0.0], [1.0, 0.0]])
    matched = jnp.array([True, False, False, True])
    close(gan.cosine_embedding(a, b, matched), [0.4, 0.6, 0, 1])
    slope = jax.grad(lambda a: gan.cosine_embedding(a, b, matched).sum())(a)
    assert np.isfinite(slope).all()


def test_layers_of_a_gan():
    net = gan.MLP((2, 3), (gan.LEAKY, gan.RELU))
    x, y = jnp.array([[1.0, -2.0]]), jnp.array([[3.0]])
    params = net.init(jax.random.key(0), x, y)["params"]
    assert (params["linear0"]["bias"] == 0).all()
    hidden = np.array([[1.0, -2.0, 3.0]]) @ params["linear0"]["kernel"]
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    close(net.apply({"params": params}, x, y), np.maximum(hidden @ params["linear1"]["kernel"], 0))
    wide = gan.MLP((300,), (gan.LINEAR,)).init(jax.random.key(0), jnp.zeros((1, 300)))
    close(wide["params"]["linear0"]["kernel"].std(), 0.02, 1e-3)


def test_gradient_penalty_is_zero_at_unit_slope():
    key = jax.random.key(0)
    real, fake = jax.random.normal(key, (2, 5, 3))
    weights = jnp.array([2.0, -1.0, 2.0]) / 3
    penalty = gan.gradient_penalty(lambda x: x @ weights, real, fake, jnp.linspace(0, 1, 5))
    close(penalty, np.zeros(5))
    flat = gan.gradient_penalty(lambda x: 0 * x[:, 0], real, fake, jnp.ones(5))
    close(flat, np.ones(5), 1e-5)


def test_critic_loss_by_hand():
    critic = lambda x: x @ jnp.array([3.0, 4.0])  # slope 5: penalty 16  # noqa: E731
    real, fake = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])
    close(gan.critic_loss(critic, real, fake, jnp.array([0.3])), [8 - 3 + 160], 1e-5)


def test_gradient_penalty_against_finite_differences():
    """The critic's own derivative through the penalty, too: in float64 by differences."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(4, 6)), rng.normal(size=6)
    real, fake, mix = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), rng.random(3)

    def slow(w1):
        x = mix[:, None] * real + (1 - mix[:, None]) * fake

        def critic(x):
            h = x @ w1
            return np.tanh(h) @ w2

        steps = 1e-6 * np.eye(4)
        slope = np.stack([(critic(x + s) - critic(x - s)) / 2e-6 for s in steps], axis=-1)
        return ((np.linalg.norm(slope, axis=-1) - 1) ** 2).sum()

    def fast(w1):
        critic = lambda x: jnp.tanh(x @ w1) @ jnp.float32(w2)  # noqa: E731
        return gan.gradient_penalty(
            critic, jnp.float32(real), jnp.float32(fake), jnp.float32(mix)
        ).sum()

    value, slope = jax.value_and_grad(fast)(jnp.float32(w1))
    close(value, slow(w1), 1e-4)
    step = np.zeros_like(w1)
    step[1, 2] = 1e-4
    close(slope[1, 2], (slow(w1 + step) - slow(w1 - step)) / 2e-4, 1e-3)


# Players


@pytest.mark.parametrize("name", ["avgan", "tsl", "protogan"])
def test_each_player_moves_its_groups_only(name):
    """A rate of zero stops the others: what is not the player's stays bitwise the same."""
    info, variables, batch = started(name)
    method = METHODS[name]
    variables = method.refresh(info, variables, lambda: [batch]) if method.refresh else variables
    players, frozen = method.players(info, 2), method.frozen(info, 2).groups
    assert [p.repeats for p in players] == [5] + [1] * (len(players) - 1)
    assert players[0].groups == ("critic",)
    assert sorted([*frozen, *(g for p in players for g in p.groups)]) == sorted(variables.params)
    run = jax.jit(lambda state: update(method, info, 2, state, batch, jax.random.key(2), "novel"))
    opt = jax.jit(partial(fresh_optimisers, method, info, 2))(variables)
    before = jax.device_get(variables.params)
    for player in players:
        alone = {
            other: s._replace(hyperparams={"learning_rate": jnp.float32(rate)})
            for other, s in opt.items()
            for rate in [1e-3 if other == player.name else 0]
        }
        state, _ = run(TrainState(variables, alone, jnp.zeros((), int)))
        after = jax.device_get(state.vars.params)
        moved = {
            group for group, tree in before.items()
            if any((a != b).any() for a, b in zip(
                jax.tree.leaves(tree), jax.tree.leaves(after[group]), strict=True))
        }
        assert moved == set(player.groups), player.name


def test_avgan_synthetic_features_teach_the_generator():
    """CE(synthetic) reaches it in novel updates, and only there."""
    info, variables, batch = started("avgan")
    main = METHODS["avgan"].players(info, 2)[-1]
    token = jax.random.normal(jax.random.key(3), (32, info.config.model.dim))

    @partial(jax.jit, static_argnames="role")
    def slope(role):
        def loss(gen):
            _, (_, found) = main.loss(
                info, with_params(variables, {"gen": gen}), token, batch, jax.random.key(4), role
            )
            return found["loss"] - found["adversarial"]

        return jax.grad(loss)(variables.params["gen"])

    assert any(x.any() for x in jax.tree.leaves(slope("novel")))
    assert not any(x.any() for x in jax.tree.leaves(slope("base")))


def test_protogan_statistics_see_real_clips_only():
    info, variables, batch = started("protogan")
    main = METHODS["protogan"].players(info, 1)[-1]
    x = jax.jit(partial(protogan.concat_averages, info))(variables.buffers, batch)
    close(np.linalg.norm(x, axis=1), np.ones(len(x)), 1e-5)
    loss = jax.jit(partial(main.loss, info), static_argnames="role")
    after = [
        loss(variables, x, batch, jax.random.key(0), role=role)[1] for role in ("base", "novel")
    ]
    assert "ce_synthetic" in after[1][1]
    for a, b in zip(*(jax.tree.leaves(stats) for stats, _ in after), strict=True):
        close(a, b)
    mean = METHODS["protogan"].refresh(info, variables, lambda: [batch]).buffers["condition"]
    for c in range(toy.BASE + toy.NOVEL):
        rows = np.asarray(x)[np.asarray(batch.label) == c]
        close(mean[c], rows.mean(0) if len(rows) else np.zeros(x.shape[1]))


# TSL


def test_tsl_score_of_identical_segments():
    info, variables, _ = started("tsl")
    x = jax.random.normal(jax.random.key(5), (3, 1, info.config.model.dim))
    one = jax.nn.softmax(tsl.classify(info, variables, x[:, 0]))
    close(tsl.scores(info, variables, jnp.repeat(x, tsl.SEGMENTS, axis=1)), one)
    # And of different ones: the mean of probabilities, not the softmax of mean logits.
    two = jnp.concatenate([100 * x, -100 * x], axis=1)
    mean = jax.nn.softmax(tsl.classify(info, variables, two)).mean(1)
    close(tsl.scores(info, variables, two), mean)
    assert np.abs(mean - 1 / mean.shape[1]).max() > 0.01


def test_tsl_pairs_tokens_by_time():
    info, variables, batch = started("tsl", model__video_norm="none")
    middle = jnp.full((len(batch.label), tsl.SEGMENTS), 0.5)
    segments = jax.jit(partial(tsl.cut_segments, info))
    found = np.asarray(segments(variables.buffers, batch, middle))
    for i in range(4):
        n, heard = int(batch.video_mask[i].sum()), int(batch.audio_mask[i].sum())
        for s in range(tsl.SEGMENTS):
            j = int((s + 0.5) / 10 * n)
            near = np.abs(0.96 * np.arange(heard) - 0.64 * j).argmin()
            close(found[i, s], np.concatenate([batch.audio[i, near], batch.video[i, j]]))
    last = segments(variables.buffers, batch, jnp.full(middle.shape, 0.9999999))
    assert np.abs(last).sum(-1).all()  # never a padded token


# SLDG


def test_sldg_bumps():
    valid = jnp.arange(6)[None] < jnp.array([[6], [3]])
    centre = jnp.array([0.0, 0.5, 1.0])
    wide = sldg.weigh_tokens(valid, centre, jnp.full(3, 1e4))
    close(wide, np.broadcast_to((valid / valid.sum(1, keepdims=True))[:, None], wide.shape))
    narrow = np.asarray(sldg.weigh_tokens(valid, centre, jnp.full(3, 1e-3)))
    assert narrow[0, 0].argmax() == 0 and narrow[0, 2].argmax() == 5
    assert narrow[1, 0].argmax() == 0 and narrow[1, 1].argmax() == 1 and narrow[1, 2].argmax() == 2
    some = sldg.weigh_tokens(valid, centre, jnp.array([0.1, 0.3, 0.2]))
    close(some.sum(-1), np.ones((2, 3)))
    assert (np.asarray(some)[1, :, 3:] == 0).all()
    tau = (np.arange(3) + 0.5) / 3
    weight = np.exp(-((tau - 0.5) ** 2) / (2 * 0.3**2))
    close(some[1, 1, :3], weight / weight.sum())


def test_sldg_starts_evenly_spread():
    _, variables, _ = started("sldg")
    close(variables.params["pool"]["audio_centre"], [0.125, 0.375, 0.625, 0.875])
    close(jax.nn.softplus(variables.params["pool"]["video_width"]), np.full(4, 0.25))


# TCaF


def test_tcaf_attends_across_modalities_only():
    """After one layer no token depends on others of its modality, but on all of the other."""
    fusion = tcaf.FUSION(toy.config("tcaf"))  # of two layers: the last one's output is cut
    key = jax.random.key(0)
    audio, video = jax.random.normal(key, (1, 3, 16)), jax.random.normal(key, (1, 4, 16))
    valid = {"audio": jnp.ones((1, 3), bool), "video": jnp.ones((1, 4), bool)}
    init = jax.jit(lambda key: fusion.init(key, {"audio": audio, "video": video}, valid, False))
    params = init(key)

    @jax.jit
    def layer(audio):
        tokens = {"audio": audio, "video": video}
        _, seen = fusion.apply(params, tokens, valid, False, mutable="intermediates")
        return seen["intermediates"]["layer0"][0][0]  # class, 3 audio, 4 video

    moved = np.abs(layer(audio.at[0, 1].add(1.0)) - layer(audio)).max(-1) > 0
    assert moved.tolist() == [True, False, True, False, True, True, True, True]


def test_tcaf_predicts_the_nearest_text():
    info, variables, _ = started("tcaf")
    token = jax.random.normal(jax.random.key(6), (5, info.config.model.dim))
    scores = np.asarray(jax.jit(partial(tcaf.scores, info))(variables, token))
    variables = {"params": {g: variables.params[g] for g in ("proj", "text")},
                 "stats": {g: variables.stats[g] for g in ("proj", "text")}}
    of_clips, of_classes = jax.jit(lambda v: tcaf.build_output(info).apply(
        v, token, jnp.asarray(info.text), jnp.ones(6, bool), False, method="project"
    ))(variables)
    distance = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in np.asarray(of_classes)]
                         for a in np.asarray(of_clips)])
    close(scores, -distance, 1e-5)
    assert (scores.argmax(1) == distance.argmin(1)).all()
    close(METHODS["tcaf"].calibration_grid, np.arange(0, 3.1, 0.2))


def test_tcaf_losses():
    info, variables, batch = started("tcaf")
    token = jax.random.normal(jax.random.key(7), (32, info.config.model.dim))

    labels = batch.replace(label=batch.label % toy.BASE)

    def terms(params, text, substage):
        args = with_params(variables, params), token, labels, jax.random.key(0), "base", substage
        return tcaf.loss(info._replace(text=text), *args)[1][1]

    @jax.jit
    def slopes(params):
        def rest(params):
            found = terms(params, info.text, 1)
            return jnp.stack([found["loss"] - found["reconstruction"], found["loss"]])

        return jax.jacrev(rest)(params)

    # Decoders learn from the reconstruction alone.
    found = slopes(variables.params)
    for x in jax.tree.leaves(found["aux"]):
        close(x[0], np.zeros_like(x[0]))
    assert any(np.abs(x[1]).max() > 1e-3 for x in jax.tree.leaves(found["aux"]))
    assert any(np.abs(x[0]).max() > 1e-3 for x in jax.tree.leaves(found["text"]))

    # In substage 1 the texts of novel classes are no candidates, nor in W_proj's statistics.
    @jax.jit
    def entropies(text):
        return [terms(variables.params, text, substage)["ce_real"] for substage in (1, 2)]

    other = info.text.copy()
    other[toy.BASE :] += 1
    one, two = zip(entropies(info.text), entropies(other), strict=True)
    assert one[0] == one[1]
    assert two[0] != two[1]


# AVCA


def test_avca_losses_by_hand():
    rng = np.random.default_rng(0)
    w, other = rng.normal(size=(3, 5)), np.array([1, 2, 0])
    names = ("audio", "video", "text")
    theta = {n: rng.normal(size=(3, 2)) for n in names}
    rho = {n: rng.normal(size=(3, 5)) for n in names}
    phi, rebuilt = ({n: rng.normal(size=(3, 4)) for n in names[:2]} for _ in range(2))
    args = jax.tree.map(jnp.float32, (w, phi, theta, rho, rebuilt))
    found = avca.compute_auxiliary(*args, jnp.asarray(other), jnp.array([True, True, False]))

    def t(space, anchor, positive, negative):
        a, p, n = space[anchor], space[positive], space[negative][other]
        gap = np.linalg.norm(a - p, axis=1) - np.linalg.norm(a - n, axis=1) + 1
        return np.maximum(gap, 0)[:2].mean()

    a, v, x = names
    triplets = (
        t(rho, x, v, v) + t(rho, x, a, a)
        + t(theta, x, v, v) + t(theta, x, a, a) + t(theta, a, x, x) + t(theta, v, x, x)
        + t(theta, a, x, a) + t(theta, v, x, v) + t(theta, x, a, x) + t(theta, x, v, x)
    )
    mse = lambda a, b: ((a - b) ** 2).mean()  # noqa: E731
    close(found["triplets"], triplets, 1e-4)
    close(found["reconstruction"], mse(w, rho[v]) + mse(w, rho[a]) + mse(w, rho[x]), 1e-5)
    regression = mse(rebuilt[v], phi[v]) + mse(rebuilt[a], phi[a])
    regression += mse(theta[v], theta[x]) + mse(theta[a], theta[x])
    close(found["regression"], regression, 1e-5)


def test_avca_batch_of_one_class():
    info, variables, batch = started("avca")
    dim = info.config.model.dim
    halves = jax.random.normal(jax.random.key(8), (2, 2, 32, dim))
    shared = tuple(dict(zip(avca.BOTH, x, strict=True)) for x in halves)

    @jax.jit
    def run(label):
        (value, (_, found)) = avca.loss(
            info, variables, shared, batch.replace(label=label), jax.random.key(0), "novel"
        )
        return value, found

    assert run(batch.label)[1]["triplets"] > 0
    value, found = run(jnp.zeros_like(batch.label))
    assert found["triplets"] == 0 and np.isfinite(value)


# Controls


@pytest.mark.parametrize("shape", [(40, 7), (30, 90)])
def test_linear_is_at_its_optimum(shape):
    """The gradient of the objective, in NumPy and float64, against that at zero."""
    n, d = shape
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3])
    rows = rng.normal(size=shape) + 0.7 * rng.normal(size=(3, d))[labels]
    w, bias = (np.asarray(x, np.float64) for x in linear.fit_regression(rows, labels))
    weights = (n / (3 * np.bincount(labels)))[labels]

    def slope(w, bias):
        logits = rows @ w + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        error = weights[:, None] * (p - np.eye(3)[labels])
        return np.concatenate([(rows.T @ error + w).ravel(), error.sum(0)])

    at_zero = np.linalg.norm(slope(np.zeros_like(w), np.zeros_like(bias)))
    assert np.linalg.norm(slope(w, bias)) < 1e-4 * at_zero
    assert np.abs(w).max() > 0.01


def test_linear_never_predicts_a_class_without_clips(monkeypatch):
    info, variables, novel = started("linear")

    def fit(rows, labels, precision):  # whatever it finds
        assert set(labels) == set(range(toy.NOVEL))
        return jnp.ones((rows.shape[1], toy.NOVEL)), 3 * jnp.arange(toy.NOVEL)

    monkeypatch.setattr(linear, "fit_regression", fit)
    method = METHODS["linear"]
    variables = method.refresh(info, variables, lambda: [novel])  # base classes have none
    z, _ = jax.jit(partial(method.features, info, train=False))(variables, novel, None)
    scores = np.asarray(method.scores(info, variables, z))
    close(scores[:, toy.BASE :], np.broadcast_to(jax.nn.softmax(jnp.array([0.0, 3.0])), (32, 2)))
    assert (scores[:, : toy.BASE] == linear.NEVER).all()


def test_class_averages():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(20, 3)).astype(np.float32), np.array([0, 2, 2, 3] * 5)
    weight = np.ones(20, np.float32)
    weight[-3:] = 0
    info = toy.info("avdiff")._replace(classes=tuple("abcd"))
    batch = toy.empty(info, 20).replace(
        label=jnp.asarray(labels), weight=jnp.asarray(weight), audio=jnp.asarray(x)
    )
    halves = [jax.tree.map(lambda a, s=s: a[s], batch) for s in (slice(0, 8), slice(8, 20))]
    mean, deviation = average_classes(info, lambda b: b.audio, halves)
    x, labels = x[:17], labels[:17]
    want = np.stack([x[labels == c].mean(0) if c in labels else np.zeros(3) for c in range(4)])
    close(mean, want, 1e-5)
    close(deviation, np.sqrt(((x - want[labels]) ** 2).sum(0) / (17 - 3)), 1e-5)


def test_gaussian_control(monkeypatch):
    info, batch = toy.info("avdiff"), draw(jax.random.key(1), "novel")

    def shapes():
        return jax.eval_shape(partial(avdiff.init, info, batch), jax.random.key(0))

    assert not [b for b in shapes().buffers if b.startswith("gaussian")]
    info.config.generator = "gaussian"
    assert "gen" not in shapes().params
    # The trunk does not matter here: any parameters, and tokens that are quick to compile.
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.float32(0.1 + rng.random(x.shape)), shapes())
    kernel = jnp.float32(rng.normal(size=(toy.AUDIO, info.config.model.dim)))
    monkeypatch.setattr(
        avdiff, "features", lambda info, variables, batch, *_: (batch.audio.mean(1) @ kernel, None)
    )
    token, _ = avdiff.features(info, variables, batch)
    c_o = np.asarray(avdiff.embed(info, variables, token))
    variables = avdiff.refresh(info, variables, lambda: [batch])
    labels = np.asarray(batch.label)
    inside = 0
    for c in (toy.BASE, toy.BASE + 1):
        mean = c_o[labels == c].mean(0)
        inside += ((c_o[labels == c] - mean) ** 2).sum(0)
        close(variables.buffers["gaussian_mean"][c], mean, 1e-5)
    spread = np.sqrt(inside / (len(labels) - 2))
    close(variables.buffers["gaussian_deviation"], spread, 1e-4)
    drawn = avdiff.generate(info, variables, jnp.full(20000, toy.BASE), jax.random.key(3))
    mean = variables.buffers["gaussian_mean"][toy.BASE]
    assert (np.abs(drawn.mean(0) - mean) <= 0.05 * spread).all()
    np.testing.assert_allclose(drawn.std(0), spread, rtol=0.03)
    (main,) = METHODS["avdiff"].players(info, 2)
    assert "gen" not in main.groups
    loss = jax.jit(partial(main.loss, info), static_argnames="role")
    _, (_, found) = loss(variables, token, batch, jax.random.key(0), role="novel")
    assert "noise_loss" not in found
    close(found["loss"], found["ce_real"] + found["ce_synthetic"])
