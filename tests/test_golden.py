"""Agreement with numbers that the published code computed on small random weights.

`pytest -s tests/test_golden.py` prints the largest error of each comparison. A failure here
means that AV-Diff no longer computes what the published AV-Diff computes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax import diffusion, sampling
from avdiff_jax.data.feed import Batch, Resident, gather
from avdiff_jax.data.store import Sequences
from avdiff_jax.data.windows import Lengths, windows
from avdiff_jax.inference.pytorch_weights import parameter_names, statistic_names, tree, variables
from avdiff_jax.methods import avdiff
from avdiff_jax.methods.method import Info, scaling_buffers
from avdiff_jax.nn import masks
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.layers import Linear, fourier
from avdiff_jax.nn.trunk import Trunk, scaled
from avdiff_jax.runtime import devices
from avdiff_jax.train.optimisers import TrainState, fresh_optimisers
from avdiff_jax.train.step import update
from configs import common
from tests import ROOT

pytestmark = pytest.mark.usefixtures("optimised")
FOLDER = ROOT / "tests" / "golden"
DEPTH, HEADS, STEPS = 3, 2, 10


def load(name):
    with np.load(FOLDER / f"{name}.npz") as archive:
        return {k: archive[k] for k in archive.files}


def under(arrays, prefix):
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def close(name, ours, theirs, tolerance):
    """Largest absolute error over the leaves of two trees of equal structure and shapes."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    errors = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), ours, theirs)
    shapes = jax.tree.map(lambda a, b: np.shape(a) == np.shape(b), ours, theirs)
    assert all(jax.tree.leaves(shapes)), shapes
    error = max(jax.tree.leaves(errors))
    print(f"golden {name:40s} {error:.1e} (at most {tolerance:.0e})")
    assert error <= tolerance, (name, error)


@pytest.fixture(scope="module")
def toy():
    """Config, info, batch and variables of the recorded model."""
    d = load("state_and_inputs")
    c = common.base()
    m = c.model
    m.depth, m.switch, m.dim, m.heads, m.head_dim, m.mlp = DEPTH, 2, 24, HEADS, 8, 16
    m.enc_hidden, m.code, m.proj_hidden, m.width = 16, 6, 16, 8
    m.dropout_enc = m.dropout_tokens = m.dropout_blocks = m.dropout_proj = 0.0
    m.bn_padding = "batch"
    c.diffusion.steps, c.diffusion.hidden = STEPS, 16
    info = Info(
        c, tuple("abcde"), np.array([True, True, True, False, False]),
        d["in/class_embeddings"], np.zeros(12), np.full(12, 1 / 255), 20,
    )
    batch = Batch(
        audio=jnp.asarray(d["in/audio"]),
        video=jnp.asarray(d["in/video"]),
        audio_mask=jnp.asarray(d["in/audio_mask"] > 0),
        video_mask=jnp.asarray(d["in/video_mask"] > 0),
        audio_time=jnp.asarray(d["in/timestep_audio"], jnp.float32),
        video_time=jnp.asarray(d["in/timestep_video"], jnp.float32),
        label=jnp.asarray(d["in/labels"], jnp.int32),
        weight=jnp.ones(4),
    )
    buffers = {**scaling_buffers(info), "condition": jnp.asarray(d["in/class_embeddings"])}
    vars = jax.tree.map(jnp.asarray, variables(under(d, "sd/"), buffers))
    return info, batch, vars


def recorded(arrays, prefix=""):
    """The draws of one training step as `avdiff.loss` takes them."""
    a = under(arrays, prefix)
    chain = diffusion.Draws(
        jnp.asarray(a["x_T"]), jnp.asarray(a["step_noise"]),
        jax.random.split(jax.random.key(0), STEPS),
    )
    return jnp.asarray(a["loss_t"], jnp.int32), jnp.asarray(a["loss_noise"]), chain


def test_tokens_and_scores(toy):
    info, batch, vars = toy
    want = load("eval_hybrid_Z2_L3")
    trunk = Trunk(info.config)

    @jax.jit
    def compute(vars, batch):
        x = scaled(batch, vars.buffers, "time")
        codes = [
            Linear(6).apply(
                {"params": vars.params["pos"]["time"]}, fourier(seconds, vars.buffers["fourier"])
            )
            for seconds in (batch.audio_time, batch.video_time)
        ]
        variables = {"params": {g: vars.params[g] for g in avdiff.TRUNK}, "stats": vars.stats}
        tokens, _ = trunk.apply(variables, batch, vars.buffers, False, method="tokens")
        encoded = trunk.apply(
            variables, x, {"audio": batch.audio_mask, "video": batch.video_mask}, False,
            method=lambda trunk, *args: trunk.enc(*args),
        )
        return x, codes, encoded, tokens

    @jax.jit
    def judge(vars, batch):
        token, _ = avdiff.features(info, vars, batch, jax.random.key(0), False)
        c_o = avdiff.embed(info, vars, token)
        return token, c_o, avdiff.classify(info, vars, c_o), avdiff.scores(info, vars, token)

    x, codes, encoded, tokens = compute(vars, batch)
    close("scaled audio", x["audio"], want["audio_scaled"], 1e-7)
    close("scaled video", x["video"], want["video_normalized"], 1e-6)
    for name, key, code in zip(("audio", "video"), "AV", codes, strict=True):
        close(f"fourier code, {name}", code, want[f"fourier_{name}"], 1e-4)
        close(f"encoded {name}", encoded[name], want[f"{key}_enc_out"], 5e-6)
        close(f"tokens, {name}", tokens[name], want[f"tokens_{name}"], 1e-4)
    token, c_o, logits, softmax = judge(vars, batch)
    close("class token", token, want["cls"], 2e-5)
    close("c_o", c_o, want["theta_o"], 5e-6)
    close("logits", logits, want["logits"], 5e-6)
    close("softmax", softmax, want["softmax"], 1e-6)


@pytest.mark.parametrize(
    "name, attention, switch",
    [("all0_self", "self", 0), ("all1_cross", "cross", 0), ("all2_full", "full", 0),
     ("hybrid_Z1", "hybrid", 1), ("hybrid_Z2", "hybrid", 2)],
)
def test_attention_patterns(toy, name, attention, switch):
    """Every layer's output and attention at valid positions, for every pattern."""
    info, batch, vars = toy
    want = load("attention_codes")
    x = jnp.asarray(want["tokens_in"])
    valid = jnp.concatenate([jnp.ones((4, 1), bool), jnp.asarray(want["attn_mask"] > 0)], 1)
    real = np.asarray(valid)
    types = np.array([masks.CLASS] + [masks.AUDIO] * 5 + [masks.VIDEO] * 7)
    attend = jax.jit(partial(
        Block(24, HEADS, 8, 16, 0.0).apply, train=False, mutable="intermediates"
    ))
    for i, table in enumerate(masks.pattern(attention, DEPTH, switch)):
        params = {"params": vars.params["fusion"][f"block{i}"]}
        visible = masks.attend(table, types, valid)
        x, found = attend(params, x, visible)
        weights = np.asarray(found["intermediates"]["attention"]["weights"][0])
        weights = weights.transpose(0, 2, 1, 3)[real]
        theirs = want[f"{name}/layer{i}_attn"].transpose(0, 2, 1, 3)[real]
        close(f"{name} attention {i}", weights, theirs, 2e-6)
        close(f"{name} layer {i}", np.asarray(x)[real], want[f"{name}/layer{i}_out"][real], 2e-5)
    info.config.model.attention, info.config.model.switch = attention, switch
    token, _ = jax.jit(lambda *given: avdiff.features(info, *given, jax.random.key(0), False))(
        vars, batch
    )
    info.config.model.attention, info.config.model.switch = "hybrid", 2
    close(f"{name} class token", token, want[f"{name}/cls"], 2e-5)


def test_diffusion(toy):
    _, _, vars = toy
    want = load("diffusion")
    s = diffusion.schedule(STEPS)
    for name in ("beta", "alpha", "alpha_bar"):
        close(name, getattr(s, name), want[name], 1e-7)
    for steps in (100, 200, 300):
        ours = diffusion.schedule(steps).alpha_bar
        close(f"alpha_bar T={steps}", ours, want[f"alpha_bar_T{steps}"], 1e-6)
    x0, t, noise = (jnp.asarray(want[k]) for k in ("x0", "t", "noise"))
    w = jnp.asarray(want["word_embedding"])
    x_t = diffusion.noised(x0, t, noise, s)
    close("noised", x_t, want["q_sample"], 1e-6)
    model = diffusion.NoisePredictor(16, 8, 300, 0.0)
    gen = {"params": vars.params["gen"]}
    predict = jax.jit(partial(model.apply, gen))
    close("noise predictor", predict(x_t, t, w), want["eps_model_out"], 1e-6)
    loss = diffusion.noise_loss(
        predict, x0, w, jnp.asarray(want["loss/t"]), jnp.asarray(want["loss/noise"]), s
    )
    close("noise loss", loss.mean(), want["loss/value"], 1e-6)

    prepared = model.apply(gen, w, method="prepared")

    @jax.jit
    def take_step(x, t, *args):
        eps = prepared.eps(x, jnp.float32(t))
        return eps, diffusion.reversed_step(x, eps, *args)

    x = want["chain/x"][0]
    for i in range(STEPS):
        t = STEPS - 1 - i
        of_step = s.beta[t], s.alpha[t], s.alpha_bar[t]
        eps, x = take_step(x, t, want["chain/step_noise"][i], *of_step)
        close(f"chain eps t={t}", eps, want["chain/eps_theta"][i], 2e-6)
        close(f"chain x t={t}", x, want["chain/x"][i + 1], 2e-6)
    draws = diffusion.Draws(
        jnp.asarray(want["chain/x"][0]), jnp.asarray(want["chain/step_noise"]),
        jax.random.split(jax.random.key(0), STEPS),
    )
    found = jax.jit(lambda: diffusion.sample(prepared.eps, draws, s, True))()
    close("sampler", found, want["chain/x"][-1], 2e-6)
    found = jax.jit(lambda: sampling.sample(prepared, draws, s, True, 0.0))()
    close("sampler of a GPU", found, want["chain/x"][-1], 2e-6)


@pytest.mark.parametrize(
    "role, on_gpu", [("base", False), ("novel", False), ("novel", True)],
    ids=["base", "novel", "novel as on a GPU"],
)
def test_losses_gradients_statistics(toy, role, on_gpu, monkeypatch):
    monkeypatch.setattr(devices, "on_gpu", lambda: on_gpu)
    info, batch, vars = toy
    want = load(f"train_{role}")

    def loss(params):
        moved = vars.replace(params=params)
        token, stats = avdiff.features(info, moved, batch, jax.random.key(0), True)
        moved = moved.replace(stats=stats)
        drawn = recorded(want, "rng/")
        return avdiff.loss(info, moved, token, batch, jax.random.key(1), role, drawn)

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (stats, metrics)), grads = differentiate(vars.params)
    close(f"{role} loss", value, want["loss_total"], 1e-6)
    ce = metrics["ce_real"] + metrics.get("ce_synthetic", 0.0)
    close(f"{role} cross-entropy", ce, want["cross_entropy"], 1e-6)
    close(f"{role} noise loss", metrics["noise_loss"], want["diffusion_loss"], 1e-6)
    theirs = tree(parameter_names(DEPTH), under(want, "grad/"))
    largest = max(np.abs(g).max() for g in jax.tree.leaves(theirs))
    relative = partial(jax.tree.map, lambda g: g / largest)
    close(f"{role} gradients / largest", relative(grads), relative(theirs), 5e-5)
    theirs = tree(statistic_names(), under(want, "buffers_after/"))
    close(f"{role} BatchNorm statistics", stats, theirs, 2e-6)


def steps_of(info, vars, substage, parts):
    """Updates with recorded draws; parts: (batch, role, arrays, prefix). Yields states."""
    method, (player,) = avdiff.METHOD, avdiff.players(info, substage)
    state = TrainState(vars, fresh_optimisers(method, info, substage, vars), jnp.zeros((), int))
    for batch, role, arrays, prefix in parts:
        loss = partial(player.loss, drawn=recorded(arrays, prefix))
        with_draws = method._replace(
            players=lambda *_, loss=loss: (player._replace(loss=loss),)
        )
        key = jax.random.key(0)
        run = jax.jit(partial(update, with_draws, info, substage, role=role))
        state, metrics = run(state, batch, key=key)
        yield state, metrics[f"{player.name}/loss"]


def compare_updates(name, before, state, state_dict):
    """Compares p_after - p_before: Adam's first steps are about the learning rate each.

    Adam divides by the gradient's own size, so where a gradient is near rounding noise (biases
    in front of a BatchNorm, for one) its sign decides a full step. All entries with a clear
    gradient agree; of the rest, most do.
    """
    theirs = tree(parameter_names(DEPTH), state_dict)
    moment = state.opt["main"].inner_state[1][0].mu
    largest = max(np.abs(m).max() for m in jax.tree.leaves(moment))
    error = jax.tree.map(
        lambda a, b, c: np.abs((a - b) - (c - b)),
        {g: state.vars.params[g] for g in moment},
        {g: before[g] for g in moment},
        {g: theirs[g] for g in moment},
    )
    error, moment = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(part)]) for part in (error, moment)
    )
    close(name, error[np.abs(moment) > 1e-3 * largest].max(), np.zeros(()), 2e-6)
    assert (error > 2e-6).mean() < 0.03


@pytest.mark.slow
def test_three_adam_steps(toy):
    info, batch, vars = toy
    want = load("adam3_novel")
    parts = [(batch, "novel", want, f"step{i}/") for i in range(3)]
    for i, (after, loss) in enumerate(steps_of(info, vars, 1, parts)):
        close(f"loss of Adam step {i}", loss, want[f"step{i}/loss_total"], 1e-5)
        state = after
    compare_updates(
        "parameters after 3 Adam steps", vars.params, state, under(want, "sd_after3/")
    )
    adam = state.opt["main"].inner_state[1][0]
    for name, ours in (("adam_m", adam.mu), ("adam_v", adam.nu)):
        theirs = tree(parameter_names(DEPTH), under(want, f"{name}/"))
        close(name, ours, theirs, 1e-5)


def test_one_iteration_of_each_substage(toy):
    info, batch, vars = toy
    want = load("loop_iterations")
    ((state, loss),) = steps_of(info, vars, 1, [(batch, "base", want, "sub1/")])
    close("substage 1 loss", loss, want["sub1/loss_total"], 1e-6)
    after = under(want, "sub1/sd_after_optimize/")
    compare_updates("substage 1 update", vars.params, state, after)
    close("substage 1 statistics", state.vars.stats, tree(statistic_names(), after), 2e-6)

    # Published: the second substage of the record starts from the state of `sd/*` as well.
    order = np.asarray(want["sub2/novel/batch_order"])
    again = jax.tree.map(lambda x: x[order], batch)
    parts = [(batch, "base", want, "sub2/base/"), (again, "novel", want, "sub2/novel/")]
    for (state, loss), role in zip(steps_of(info, vars, 2, parts), ("base", "novel"), strict=True):
        close(f"substage 2 {role} loss", loss, want[f"sub2/{role}/loss_total"], 1e-6)
        after = under(want, f"sub2/{role}/sd_after/")
        compare_updates(f"substage 2 {role}", vars.params, state, after)
        close(f"substage 2 {role} statistics", state.vars.stats,
              tree(statistic_names(), after), 2e-6)
    for group in avdiff.TRUNK:
        jax.tree.map(np.testing.assert_array_equal, state.vars.params[group], vars.params[group])


class Clips:
    """The recorded raw clips as the part of a store that windows read."""

    def __init__(self, arrays, kind):
        for name, seconds in (("audio", 0.96), ("video", 0.64)):
            clips = [arrays[f"raw/{kind}{name}_{i}"] for i in range(4)]
            offsets = np.cumsum([0] + [len(c) for c in clips])
            setattr(self, name, Sequences(np.concatenate(clips), offsets, seconds))


@pytest.mark.parametrize(
    "mode, most", [("max", None), ("fixed5_center", (3, 5)), ("fixed4_random", (2, 4))]
)
def test_trims_and_padding(mode, most):
    """Windows cut where the published collator cuts; `gather` pads as it pads."""
    want = load("collator")
    starts = list(want[f"{mode}/random_trim_starts_in_call_order"])
    sides = {"positive": Clips(want, ""), "negative": Clips(want, "neg_")}
    positions = {sign: np.zeros(4) for sign in sides}
    if "random" in mode:
        # The record draws a start for each clip that is too long: item by item, both sides.
        for i in range(4):
            for sign, clips in sides.items():
                if (spare := clips.video.lengths[i] - most[1]) > 0:
                    positions[sign][i] = (starts.pop(0) + 0.5) / (spare + 1)
    assert not starts
    for sign, clips in sides.items():
        shape = [want[f"{mode}/{sign}/{m}"].shape[1] for m in ("audio", "video")]
        lengths = Lengths(*(most or shape))
        position = positions[sign] if "random" in mode else None
        plan = windows(clips, np.arange(4), np.zeros(4, int), lengths, position)
        data = Resident(jnp.asarray(clips.audio.values), jnp.asarray(clips.video.values))
        batch = jax.jit(gather, static_argnums=(2, 3))(data, plan, lengths, (0.96, 0.64))
        for name in ("audio", "video"):
            close(f"{mode} {sign} {name}", getattr(batch, name), want[f"{mode}/{sign}/{name}"], 0)
            mask = np.asarray(getattr(batch, f"{name}_mask"), np.float32)
            close(f"{mode} {sign} {name} mask", mask, want[f"{mode}/{sign}/{name}_mask"], 0)
            times = np.asarray(getattr(batch, f"{name}_time"))
            close(f"{mode} {sign} {name} time", times,
                  want[f"{mode}/{sign}/timestep_{name}"].astype(np.float32), 1e-6)
