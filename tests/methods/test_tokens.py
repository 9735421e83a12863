"""Claims of the methods that fuse token sequences: who may learn of whom, and in which layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.methods import attention_fusion, check, perceiver
from avdiff_jax.methods.hip import Hip, group_tokens, merge_groups
from avdiff_jax.methods.mbt import Mbt
from avdiff_jax.methods.zorro import Zorro
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.latents import CrossBlock
from avdiff_jax.nn.layers import EPS
from tests.methods import toy

BOTH = ("audio", "video")


def tokens(dim=16, seed=0):
    """Tokens of three clips, and their validity: every clip has another length."""
    rng = np.random.default_rng(seed)
    x = {n: jnp.asarray(rng.normal(size=(3, t, dim)), jnp.float32)
         for n, t in zip(BOTH, (5, 7), strict=True)}
    valid = {n: jnp.arange(x[n].shape[1])[None] < jnp.array([[5], [3], [2]]) for n in BOTH}
    return x, valid


def made(module):
    """Variables of a fusion, with every parameter away from zero and one."""
    init = jax.jit(lambda key: module.init(key, *tokens(), False)["params"])
    leaves, tree = jax.tree.flatten(init(toy.key(0)))
    rng = np.random.default_rng(1)
    leaves = [x + 0.1 * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    return {"params": jax.tree.unflatten(tree, leaves)}


def reach(outputs):
    """Which outputs learn of which modality: {(output, modality): whether it moves at all when
    every token of the modality does}.

    Args:
      outputs: tokens by modality -> dict of arrays.
    """
    (x, _), (other, _) = tokens(), tokens(seed=1)
    outputs = jax.jit(outputs)
    before = outputs(x)
    after = {name: outputs({**x, name: other[name]}) for name in BOTH}
    return {(o, name): bool((before[o] != after[name][o]).any()) for o in before for name in BOTH}


def recorded(module, variables, x, **how):
    """What the parts of a fusion recorded while it ran."""
    _, seen = module.apply(variables, x, tokens()[1], False, **how)
    return seen["intermediates"]


def test_zorro_keeps_the_streams_pure():
    """At any depth: audio knows nothing of video, nor video of audio, but fusion of both."""
    module = Zorro(toy.config("zorro", model__depth=3))
    variables = made(module)
    count = variables["params"]["tokens"].shape[1]
    rows = {"audio": slice(count, count + 5), "video": slice(count + 5, None),
            "fusion": slice(count)}

    def outputs(x):
        layers = recorded(module, variables, x, mutable=["intermediates"])
        assert layers["layer2"][0].shape[1] == count  # the last computes fusion tokens only
        return {f"{n}{i}": layers[f"layer{i}"][0][:, rows[n]] for i in (0, 1) for n in rows}

    found = reach(outputs)
    for i in (0, 1):
        assert [found[f"audio{i}", n] for n in BOTH] == [True, False]
        assert [found[f"video{i}", n] for n in BOTH] == [False, True]
        assert [found[f"fusion{i}", n] for n in BOTH] == [True, True]


def test_mbt_modalities_meet_one_layer_after_the_fusion_layer():
    """The first fused layer fills the bottleneck, the next one reads it."""
    module = Mbt(toy.config("mbt", model__depth=4, model__switch=1))
    variables = made(module)

    def outputs(x):
        layers = recorded(module, variables, x, mutable=["intermediates"])
        return {f"{n}{i}": layers[f"layer{i}"][0][n] for i in range(4) for n in BOTH}

    found = reach(outputs)
    for name, other in (BOTH, BOTH[::-1]):
        assert [found[f"{name}{i}", other] for i in range(4)] == [False, False, True, True]
        assert all(found[f"{name}{i}", name] for i in range(4))


def tower(config, params, name, x, valid):
    """One modality's transformer by hand: class token, blocks, LayerNorm."""
    token = jnp.broadcast_to(params[f"token_{name}"], (len(x), 1, x.shape[2]))
    x = jnp.concatenate([token, x], axis=1)
    seen = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)[:, None]
    m = config.model
    for i in range(m.depth):
        block = Block(m.dim, m.heads, m.head_dim, m.mlp, 0.0, norms=2)
        x = block.apply({"params": params[f"{name}{i}"]}, x, seen, False)
    x = x[:, 0]
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPS)
    return x * params["norm"]["scale"][None] + params["norm"]["bias"][None]


@pytest.mark.parametrize("bottlenecks, switch, apart", [(0, 1, True), (4, 3, True), (4, 1, False)])
def test_mbt_without_exchange_is_two_towers(bottlenecks, switch, apart):
    """No bottleneck tokens, or fusion after the last layer; otherwise the towers do meet."""
    config = toy.config("mbt", model__depth=3, model__switch=switch)
    module = Mbt(config, bottlenecks)
    variables, (x, valid) = made(module), tokens()

    @jax.jit
    def run(x):
        alone = [tower(config, variables["params"], name, x[name], valid[name]) for name in BOTH]
        return module.apply(variables, x, valid, False), jnp.stack(alone, axis=1)

    both, alone = run(x)
    for i in range(2):
        assert np.allclose(both[:, i], alone[:, i], atol=1e-5) == apart


@pytest.mark.parametrize("length, sizes", [
    (8, [2, 2, 2, 2]), (6, [2, 1, 2, 1]), (4, [1, 1, 1, 1]), (3, [1, 1, 1, 0]), (1, [1, 0, 0, 0]),
])
def test_hip_groups_split_the_valid_tokens(length, sizes):
    valid = {"audio": jnp.arange(9)[None] < length, "video": jnp.ones((1, 7), bool)}
    members = np.asarray(group_tokens(valid, 8))[0]
    assert members.shape == (8, 16)
    # Every valid token in exactly one group, no padded one in any.
    np.testing.assert_array_equal(members.sum(0), [1] * length + [0] * (9 - length) + [1] * 7)
    np.testing.assert_array_equal(members[:4, :9].sum(1), sizes)
    assert not members[:4, 9:].any() and not members[4:, :9].any()
    group = members[:4, :length].argmax(0)
    assert (np.diff(group) >= 0).all()  # neighbours


def test_hip_merges_neighbours_and_leaves_empty_groups_out():
    valid = {"audio": jnp.arange(9)[None] < 2, "video": jnp.ones((1, 7), bool)}
    second = np.asarray(merge_groups(group_tokens(valid, 8), 3, 2))[0]
    # Two audio tokens of four groups: the first and third group live.
    np.testing.assert_array_equal(second[0], [1] * 3 + [0] * 3 + [1] * 3 + [0] * 15)
    np.testing.assert_array_equal(second[1], [0] * 12 + [1] * 12)
    third = np.asarray(merge_groups(jnp.asarray(second[None]), 5, 1))[0]
    np.testing.assert_array_equal(third, np.ones((1, 10), bool))
    assert not merge_groups(jnp.zeros((1, 8, 4), bool), 3, 2).any()


@pytest.mark.slow
def test_hip_modalities_meet_in_the_processor():
    module = Hip(toy.config("hip"))
    variables = made(module)

    def outputs(x):
        levels = recorded(module, variables, x, capture_intermediates=True)
        levels = [levels[f"level{i}"]["__call__"][0] for i in range(3)]
        return {f"{n}{i}": part for i, y in enumerate(levels)
                for n, part in zip(BOTH, jnp.split(y, 2, axis=1), strict=True)}

    found = reach(outputs)
    for i in (0, 1):
        assert [found[f"audio{i}", n] for n in BOTH] == [True, False]
        assert [found[f"video{i}", n] for n in BOTH] == [False, True]
    assert all(found[f"{half}2", n] for half in BOTH for n in BOTH)


def test_a_latent_that_sees_nothing_reads_nothing():
    block = CrossBlock(6, 1, 4, 8, 0.0)
    x, context = jnp.ones((2, 3, 6)), jnp.arange(40.0).reshape(2, 4, 5)
    visible = jnp.zeros((2, 3, 4), bool).at[0].set(True)
    variables = block.init(toy.key(0), x, context, visible, False)

    @jax.jit
    def read(context):
        return block.apply(variables, x, context, visible, False)

    changed = np.asarray(read(jnp.cos(context)) != read(context)).any((1, 2))
    np.testing.assert_array_equal(changed, [True, False])


def test_attention_fusion_gate_weighs_the_outputs():
    info = toy.info("attention_fusion")
    method, batch = attention_fusion.METHOD, toy.draw(toy.key(0))
    variables = jax.jit(partial(method.init, info, batch))(toy.key(1))
    x, _ = jax.jit(lambda: method.features(info, variables, batch, toy.key(2), False))()

    def logits(bias):
        gate = variables.params["gate"]
        gate = {**gate, "bias": jnp.full_like(gate["bias"], bias)}
        weighed = variables.replace(params={**variables.params, "gate": gate})
        module = attention_fusion.GatedHeads(info.config, len(info.classes))
        out = module.apply({"params": {g: weighed.params[g] for g in attention_fusion.GROUPS},
                            "stats": {"proj": variables.stats["proj"]}}, x, False)
        return out, method.scores(info, weighed, x)

    for bias, name in ((1e3, "audio"), (-1e3, "video")):
        out, scores = logits(bias)
        np.testing.assert_allclose(out["fused"], out[name], atol=1e-6)
        np.testing.assert_allclose(scores, jax.nn.softmax(out[name]), atol=1e-6)
    out, _ = logits(0.0)
    low, high = jnp.minimum(out["audio"], out["video"]), jnp.maximum(out["audio"], out["video"])
    assert ((low <= out["fused"] + 1e-6) & (out["fused"] <= high + 1e-6)).all()
    assert np.ptp(out["fused"] - low) > 1e-3


@pytest.mark.slow
def test_perceiver_takes_one_modality():
    info = toy.info("perceiver", model__modality="audio")
    method, batch = perceiver.METHOD, toy.draw(toy.key(0), clips=4)
    variables = jax.jit(partial(method.init, info, batch))(toy.key(1))
    read = jax.jit(lambda batch: method.features(info, variables, batch, toy.key(2), False)[0])
    a, b = read(batch), read(batch.replace(video=batch.video + 1))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["attention_fusion", "mbt", "zorro", "hip"])
def test_methods_about_two_modalities_refuse_one(name):
    check(toy.config(name))
    with pytest.raises(UserError, match=f"modality=audio .* method={name}"):
        check(toy.config(name, model__modality="audio"))
