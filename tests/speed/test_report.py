"""launch/speed.py, the FLOP count behind it, and the generator of dropout's randomness."""

import importlib
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.nn.layers import dropout, random_words
from avdiff_jax.speed import flops
from tests import ROOT, tiny

PATH = ROOT / "launch" / "speed.py"


@pytest.mark.parametrize(
    "name, batch, audio, video, substage1, substage2",
    [("ucf", 64, 11, 17, 44.4, 37.0), ("vggsound", 64, 10, 16, 71.1, 52.6),
     ("activitynet", 32, 37, 60, 95.9, 71.6)],
)
def test_needed_flops_are_those_measured_on_the_published_code(
    name, batch, audio, video, substage1, substage2
):
    """The reference counts every pair of tokens; without hidden pairs it is a little less."""
    config = importlib.import_module(f"configs.{name}").get_config("5shot")
    tokens = np.full(batch, audio), np.full(batch, video)
    for phase, want in (("substage1", substage1), ("substage2", substage2)):
        visible = flops.needed(config, phase, *tokens)
        config.model.attention = "full"
        every = flops.needed(config, phase, *tokens)
        config.model.attention = "hybrid"
        assert every == pytest.approx(want, rel=0.02)
        assert 0.97 * want < visible < every


def test_executed_flops_follow_loops():
    w = jnp.ones((3, 3))
    loop = lambda x: jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, length=5)[0]  # noqa: E731
    assert flops.executed(jax.jit(loop), jnp.ones((2, 3))) == pytest.approx(5 * 2 * 2 * 3 * 3 / 1e9)


def kept(key, shape=(64, 256), rate=0.3):
    return np.asarray(dropout(key, jnp.ones(shape), rate)) > 0


def test_dropout_keeps_the_expected_share_and_scale(key):
    for rate in (0.1, 0.2, 0.5, 0.9):
        x = np.asarray(dropout(key, jnp.ones((512, 512)), rate))
        share, count = (x > 0).mean(), x.size
        assert abs(share - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / count)
        np.testing.assert_allclose(x[x > 0], 1 / (1 - rate), rtol=1e-6)


def test_random_words_are_uniform_in_every_bit(key):
    words = np.asarray(random_words(key, (1024, 256)))
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32).mean(0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(words.size)
    counts = np.bincount((words >> 20).ravel(), minlength=4096)
    chi2 = ((counts - words.size / 4096) ** 2 / (words.size / 4096)).sum()
    assert abs(chi2 - 4095) < 5 * np.sqrt(2 * 4095)


def test_dropout_is_independent_across_positions_keys_and_shapes(key):
    """Correlations of masks at all small distances, of neighbouring keys, of rows, are noise."""
    mask = kept(key, (512, 512))
    centred = (mask - mask.mean()).ravel()
    scale = centred.var() * np.sqrt(centred.size)
    for lag in [*range(1, 70), 256, 511, 512, 513, 1024, 4096, 65536]:
        assert abs((centred[:-lag] * centred[lag:]).sum() / scale) < 5, lag
    keys = [*jax.random.split(key, 12), *(jax.random.fold_in(key, 100 + i) for i in range(12))]
    masks = np.stack([kept(k).ravel() for k in keys]).astype(float)
    off = np.corrcoef(masks) - np.eye(len(keys))
    assert np.abs(off).max() < 5 / np.sqrt(masks.shape[1])
    raw = [jax.random.wrap_key_data(jnp.array(d, jnp.uint32))
           for d in ([0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [2, 0], [0, 1 << 31], [1 << 31, 0])]
    masks = np.stack([kept(k).ravel() for k in raw]).astype(float)
    off = np.corrcoef(masks) - np.eye(len(raw))
    assert np.abs(off).max() < 5 / np.sqrt(masks.shape[1])


def test_dropout_draws_are_a_function_of_the_global_position(key):
    """The same on one device and with the rows split over two."""
    from jax.sharding import NamedSharding, PartitionSpec

    from avdiff_jax.runtime import devices

    split = NamedSharding(devices.mesh(), PartitionSpec("data"))
    x = jnp.ones((8, 5, 7))
    run = jax.jit(lambda x: dropout(key, x, 0.4))
    np.testing.assert_array_equal(run(x), run(jax.device_put(x, split)))


@pytest.fixture(scope="module")
def speed():
    spec = importlib.util.spec_from_file_location("speed_command", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_small_report(speed, monkeypatch):
    monkeypatch.setattr(speed, "SAMPLES", 1)
    monkeypatch.setattr(speed, "PRODUCT", 64)
    config, sizes = tiny.config(), flops.Sizes(8, 12, 14, 8)
    with tiny.quick_compilation():
        report = speed.measured(config, sizes, ragged=True)
    for name in ("substage1", "substage2", "substage2_cached", "evaluation", "sampler"):
        phase = report["phases"][name]
        assert phase["seconds_per_step"] > 0 and phase["needed_gflop"] > 0
        assert phase["efficiency"] > 0 and phase["compilations"] >= 1
        assert phase["first_call_seconds"] > phase["seconds_per_step"]
        rate = phase["needed_gflop"] / phase["seconds_per_step"]
        assert phase["efficiency"] == pytest.approx(rate / phase["matmul_gflops"])
    assert 0 < report["phases"]["loader"]["share"] < 1
    assert report["compilations"] > 0 and report["peak_memory_mb"] > 0
    assert report["import_seconds"] > 0
    json.dumps(speed.files.plain(report))
    share = report["phases"]["loader"]["share"]
    for part in (f"{share:.1%}", f"{report['compilations']} compilations", report["device"]):
        assert part in speed.summary(report)
    lines = speed.table(report, report).splitlines()
    assert lines[0].split()[0] == "phase" and all(x.endswith("1.00") for x in lines[1:])


def test_a_method_that_trains_nothing(speed, monkeypatch):
    monkeypatch.setattr(speed, "SAMPLES", 1)
    monkeypatch.setattr(speed, "PRODUCT", 64)
    with tiny.quick_compilation():
        report = speed.measured(tiny.config("method=ncm"), flops.Sizes(8, 12, 14, 8))
    assert [name for name, phase in report["phases"].items() if phase] == ["evaluation", "loader"]
    assert "share" not in speed.summary(report)
    assert [line.split()[0] for line in speed.table(report).splitlines()] == [
        "phase", "evaluation", "loader"]


def test_growth_doubles_one_size_at_a_time(speed, monkeypatch):
    """Cost is what a step takes in units of the product, so a slow moment of the machine, where
    both take longer, cancels out."""
    c, moment = tiny.config(), iter(range(1, 100))
    usual = speed.training_lengths(c)

    def measured(config, sizes, only, mesh=None, fixed=usual):
        found = {
            "T": config.diffusion.steps, "L": config.model.depth, "batch": config.train.batch,
            "tokens": fixed.audio + fixed.video, "devices": mesh.size if mesh else 8,
        }
        slow = next(moment)
        phase = {"seconds_per_step": slow * np.prod([*found.values()]), "matmul_gflops": 1 / slow}
        return {"phases": dict.fromkeys(only, phase)}

    monkeypatch.setattr(speed, "measured", measured)
    found = speed.grown(c)
    doubled = [found[f"{name} x 2"] for name in ("T", "L", "batch", "tokens")]
    for ratios in doubled:
        assert ratios == pytest.approx({"substage1": 2, "substage2": 2})
    fewer = [found[f"devices {n} of 8"]["substage1"] for n in (1, 2, 4)]
    assert fewer == pytest.approx([1 / 8, 1 / 4, 1 / 2])
