"""What a GPU computes, against the CPU beside it: `make test-gpu`, which also runs the tests of
the equations and of the published numbers there. Needs JAX_PLATFORMS=cuda,cpu."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType

from avdiff_jax.data.clip_source import of_store
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits import split_file, stages
from avdiff_jax.data.splits.stages import concat_members
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import one_sentence
from avdiff_jax.inference.contents import BASE, NOVEL
from avdiff_jax.inference.export import scoring_function
from avdiff_jax.inference.model import Trained
from avdiff_jax.methods import METHODS, method
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.train.context import initialise_variables, prepare_stage
from avdiff_jax.train.records import Phase
from avdiff_jax.train.scoring import batch_members, score_members
from avdiff_jax.train.setting import plan_epoch
from avdiff_jax.train.stage import prepare_substage
from tests import ROOT, tiny

pytestmark = pytest.mark.gpu
FORMS = {"each draw": {}, "draws side by side": {"train__frozen_mode": "eval"}}


@pytest.fixture(scope="module")
def card():
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU: make test-gpu")
    return jax.devices()[0]


def context_on(device, config):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=[device])
    store = open_store(config.data.store)
    stage = stages.stage(split_file.load(config.data.split), store, 2)
    feed = Feed(store, mesh, config.data.residence)
    return prepare_stage(config, method(config.method), feed, stage, 2)


def trained_on(device, config, start, monkeypatch):
    """(variables, metrics) after the first dispatch of substage 2, on the host."""
    monkeypatch.setattr(devices, "on_gpu", lambda: device.platform == "gpu")
    b = context_on(device, config)
    draw = None if config.train.frozen_mode == "eval" else 0
    vars = jax.device_put(start, devices.replicated(b.feed.mesh))
    setting, state = prepare_substage(b, Phase(2, 2, draw), vars, None)
    plans = jax.tree.map(lambda x: x[:2], plan_epoch(setting, 0))
    inputs = {role: setting.source.inputs(plan, setting.lengths) for role, plan in plans.items()}
    key = jax.random.key(1)
    if draw is None:
        key = jax.random.split(key, len(setting.members))
    key = devices.put(key, devices.replicated(b.feed.mesh))
    state, metrics = setting.program(state, setting.source.data, inputs, key)
    return jax.device_get(state.vars), jax.device_get(metrics)


def compare(config, card, monkeypatch):
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        start = jax.device_get(initialise_variables(context_on(cpu, config)))
        wanted, of_cpu = trained_on(cpu, config, start, monkeypatch)
    found, of_gpu = trained_on(card, config, start, monkeypatch)
    tiny.nearly(found, wanted, stats=config.train.learning_rate)
    assert of_gpu.keys() == of_cpu.keys()
    # Where a gradient is rounding noise, its sign decides a step of Adam. The players of TSL move
    # several times in a step, by up to 5e-3.
    rtol, atol = (5e-3, 5e-4) if config.method == "tsl" else (2e-3, 2e-4)
    for name, values in of_gpu.items():
        np.testing.assert_allclose(values, of_cpu[name], rtol=rtol, atol=atol, err_msg=name)


# In substage 2, where AV-Diff+ trains the head that it does not have by default.
TRAINED = {name: {} for name in METHODS if name not in ("ncm", "linear")}
TRAINED["avdiff_plus"] = {"avdiff_plus__head": "linear", "avdiff_plus__space": "both"}


@pytest.mark.parametrize("name", TRAINED)
def test_a_dispatch_of_each_method(name, card, monkeypatch):
    compare(tiny.config(f"method={name}", **TRAINED[name]), card, monkeypatch)


@pytest.mark.parametrize("changes", [
    {"train__frozen_mode": "eval"},
    {"train__frozen_mode": "eval", "diffusion__few_steps": 3, "diffusion__sampler_gradient": False},
    {"diffusion__dropout": 0.3, "data__residence": "host"},
], ids=["draws side by side", "few steps", "dropout in the sampler, streamed"])
def test_a_dispatch_of_avdiff(changes, card, monkeypatch):
    compare(tiny.config(**changes), card, monkeypatch)


@pytest.mark.parametrize("name", ["avdiff", "ncm", "linear"])
def test_scores(name, card):
    """Of fresh variables, refreshed with the training clips: also what is fitted to them."""
    scores, cpu = [], jax.devices("cpu")[0]
    config = tiny.config(f"method={name}")
    for device in (cpu, card):
        b = context_on(device, config)
        with jax.default_device(device):
            _, state = prepare_substage(b, Phase(2, 1), start_on(b, cpu), None)
            members = concat_members(b.stage.eval_base, b.stage.eval_novel[0])
            batches = batch_members(b, members, test=False)
            scores.append(score_members(b, state.vars, members, batches))
    assert scores[0].std() > 1e-3
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-4)


def start_on(b, cpu):
    """Variables that the CPU has drawn, on the devices of `b`."""
    with jax.default_device(cpu):
        vars = jax.device_get(initialise_variables(context_on(cpu, b.info.config)))
    return jax.device_put(vars, devices.replicated(b.feed.mesh))


def test_prediction_and_export(card):
    """A model file in Python and the exported function give the CPU's scores on both."""
    cpu = jax.devices("cpu")[0]
    b = context_on(cpu, tiny.config())
    with jax.default_device(cpu):
        vars = jax.device_get(initialise_variables(b))
    vars = jax.tree.map(jnp.asarray, vars)  # of no device in particular
    model = Trained(
        info=b.info, kinds=tuple(BASE if base else NOVEL for base in b.info.is_base), vars=vars,
        gamma=0.0, temperature=None, seconds=b.feed.seconds, lengths=b.lengths, epochs=1, cuts=(),
    )
    clips = list(of_store(b.feed.store, range(4)))
    audio, video = ([getattr(clip, part) for clip in clips] for part in ("audio", "video"))
    with jax.default_device(cpu):
        wanted = dataclasses.replace(model).scores(audio, video)
    np.testing.assert_allclose(model.scores(audio, video), wanted, rtol=1e-4, atol=1e-5)
    most = [max(map(len, part)) for part in (audio, video)]
    function = export.deserialize(bytearray(scoring_function(model, *most).serialize()))

    def padded(part, length):
        return np.stack([np.pad(x, ((0, length - len(x)), (0, 0))) for x in part]).astype(
            np.float32)

    arguments = [padded(part, n) for part, n in zip((audio, video), most, strict=True)]
    arguments += [np.array([len(x) for x in part], np.int32) for part in (audio, video)]
    for device in (card, cpu):
        found = function.call(*jax.device_put(arguments, device))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


RESUME = """
import signal, sys
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
devices.configure(deterministic=True)
import jax
from avdiff_jax.runtime.stop import Stop, Stopped
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import run_substage
from tests import tiny

b = tiny.make_context(tiny.config())

def train(folder, stop):
    setting, state = prepare_substage(b, Phase(1, 2), initialise_variables(b), None)
    given = tiny.services(f"{sys.argv[1]}/{folder}", stop)
    with given.writer, given.saves:
        return jax.device_get(run_substage(setting, state, Schedule(2), given, 0).state)

whole = train("whole", Stop())
stop = Stop()
stop.signal = signal.SIGINT  # obeyed after the first dispatch
try:
    train("parts", stop)
    raise SystemExit("it did not stop")
except Stopped:
    tiny.same(train("parts", Stop()), whole)
print(jax.default_backend(), "equal")
"""


def test_resume_is_exact_where_it_is_asked_for(card, tmp_path):
    """`device.deterministic`: a substage that was interrupted ends in the same bits. In a process
    of its own, since XLA reads the setting once."""
    done = subprocess.run(
        [sys.executable, "-c", RESUME, tmp_path], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == [f"{card.platform} equal"], done.stderr


def test_full_memory_of_a_card_is_a_sentence(card, capsys):
    """A product of a petabyte."""
    product = compile_function(lambda x: x[:, None] * x[None], "float32")
    with pytest.raises(SystemExit), one_sentence():
        product(jax.device_put(jnp.ones(1 << 24), card)).block_until_ready()
    assert "out of memory" in capsys.readouterr().err
