"""The precision of every product comes from the configuration, wherever a program is made."""

import collections
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from avdiff_jax.data.clip_source import of_store
from avdiff_jax.data.splits.stages import concat_members
from avdiff_jax.data.store import open_store
from avdiff_jax.inference.contents import BASE, NOVEL
from avdiff_jax.inference.export import scoring_function
from avdiff_jax.inference.model import Examples, Trained
from avdiff_jax.methods import linear
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import PRECISIONS, compile_function, product_precision
from avdiff_jax.train.add_classes import add_classes
from avdiff_jax.train.context import (
    fuse_training_clips,
    initialise_variables,
    iterate_training_clips,
)
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import plan_epoch
from avdiff_jax.train.stage import prepare_substage
from tests import tiny

PRODUCTS = ("dot_general", "conv_general_dilated")


def precisions(jaxpr) -> collections.Counter:
    """How many products of a program, those in loops included, have which precision."""
    found = collections.Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            found[equation.params["precision"]] += 1
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += precisions(inner)
    return found


@pytest.fixture
def programs(monkeypatch):
    """Precisions of the products of every program that the package compiles and then calls."""
    found, real = collections.defaultdict(collections.Counter), jax.jit

    def jit(function, **options):
        compiled = real(function, **options)
        if "compiler_options" not in options:
            return compiled

        def call(*args, **more):
            found[function.__name__] += precisions(compiled.trace(*args, **more).jaxpr.jaxpr)
            return compiled(*args, **more)

        call.trace = compiled.trace
        return call

    monkeypatch.setattr(jax, "jit", jit)
    return found


@pytest.fixture
def other_default():
    """jax's default is something else than the configuration's float32."""
    with jax.default_matmul_precision("bfloat16"):
        yield


def trained(config) -> tuple[Trained, list]:
    """A model that nothing was learnt by, and three clips."""
    b = tiny.make_context(config, 2)
    vars, members = initialise_variables(b), concat_members(b.stage.base, b.stage.novel[0])
    store = open_store(config.data.store)
    features = np.asarray(fuse_training_clips(b, vars, members))
    model = Trained(
        info=b.info, kinds=tuple(BASE if base else NOVEL for base in b.info.is_base),
        vars=jax.tree.map(jnp.asarray, jax.device_get(vars)),
        gamma=0.0, temperature=None, seconds=b.feed.seconds, lengths=b.lengths, epochs=1, cuts=(),
        examples=Examples(features, members.labels, store.clip_ids[members.clips]),
    )
    return model, list(of_store(store, range(3)))


def only(found: collections.Counter) -> bool:
    return set(found) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


@pytest.mark.parametrize("method", ["avdiff", pytest.param("tsl", marks=pytest.mark.slow)])
def test_training(method, programs, other_default, tmp_path):
    tiny.substage2(tiny.config(f"method={method}"), tmp_path)
    assert not programs.pop("begin_state")  # it makes optimisers, and multiplies nothing
    assert {"init", "run"} <= set(programs)
    assert all(only(found) for found in programs.values()), programs
    assert programs["run"].total() > 20


@pytest.mark.slow
def test_use(programs, other_default):
    """Prediction and new classes in Python, where no command has set anything."""
    model, clips = trained(tiny.config())
    audio, video = ([getattr(clip, part) for clip in clips] for part in ("audio", "video"))
    model.predict(audio, video)
    add_classes(model, audio, video, ["new"] * len(clips))
    assert {"fuse", "scores_of", "features_of", "run"} <= set(programs)
    assert all(only(found) for found in programs.values()), programs


def test_controls(programs, other_default):
    linear.compiled_fit.cache_clear()  # another test of this process may have compiled it
    for name in ("ncm", "linear"):
        config = tiny.config(f"method={name}")
        b = tiny.make_context(config)
        vars = initialise_variables(b)
        b.method.refresh(b.info, vars, iterate_training_clips(b, (b.stage.base,)))
    assert {"pool_segments", "fit"} <= set(programs)
    assert all(only(programs[name]) for name in ("pool_segments", "fit")), programs


def test_export(other_default):
    model, _ = trained(tiny.config(device__precision="tensorfloat32"))
    text = scoring_function(model, 3, 4).mlir_module()
    named = re.findall(r"stablehlo\.dot_general.*?precision = \[(\w+), (\w+)\]", text)
    assert set(named) == {("HIGH", "HIGH")}
    assert len(named) == len(re.findall(r"stablehlo\.dot_general", text)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("frozen_mode", ["train", "eval"])
def test_training_lowers_for_a_gpu(frozen_mode, monkeypatch):
    """In the form that a GPU gets, draws side by side where features are cached."""
    monkeypatch.setattr(devices, "on_gpu", lambda: True)
    b = tiny.make_context(tiny.config(train__frozen_mode=frozen_mode))
    setting, state = prepare_substage(b, Phase(2, 2, 0 if frozen_mode == "train" else None),
                           initialise_variables(b), None)
    inputs = {
        role: setting.source.inputs(plan, setting.lengths)
        for role, plan in plan_epoch(setting, 0).items()
    }
    key = jax.random.key(0)
    if frozen_mode == "eval":
        key = jax.random.split(key, len(setting.members))
    lowered = setting.program.trace(state, setting.source.data, inputs, key).lower(
        lowering_platforms=("cuda",)
    )
    assert "stablehlo.while" in lowered.as_text()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inside_and_outside(precision):
    assert product_precision() == "highest"
    seen = []
    compile_function(lambda: seen.append(product_precision()), precision)()
    assert seen == [PRECISIONS[precision]]


def test_the_name_is_that_of_the_function():
    def score(x, scale):
        return x * scale

    lowered = compile_function(partial(score, scale=2), "float32").lower(jnp.ones(2))
    assert "jit_score" in lowered.as_text()
