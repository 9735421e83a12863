"""What launch/speed.py measures and prints, and the FLOP count behind it."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.speed import clips, flops, measure, report
from avdiff_jax.speed.product import Product
from tests import tiny


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


SIZES = flops.Sizes(8, 12, 14, 8)


@pytest.fixture
def watch(monkeypatch):
    """One call of everything, against a product that takes no time to make."""
    monkeypatch.setattr(measure, "SAMPLES", 1)
    a = jnp.ones((64, 64))
    return measure.Stopwatch(Product(64, lambda: a @ a))


@pytest.mark.slow
def test_a_small_report(watch):
    found = measure.measure(tiny.config(), SIZES, ragged=True, watch=watch)
    content = found.record()
    for name in ("substage1", "substage2", "substage2_cached", "evaluation", "sampler"):
        phase = content["phases"][name]
        assert phase["seconds_per_step"] > 0 and phase["needed_gflop"] > 0
        assert phase["efficiency"] > 0 and phase["compilations"] >= 1
        assert phase["first_call_seconds"] > phase["seconds_per_step"]
        rate = phase["needed_gflop"] / phase["seconds_per_step"]
        assert phase["efficiency"] == pytest.approx(rate / phase["matmul_gflops"])
    assert 0 < found.loader_share < 1
    assert found.compilations > 0 and found.peak_memory_mb > 0
    text = report.summary(found, 1.5)
    for part in (f"{found.loader_share:.1%}", f"{found.compilations} compilations", found.device,
                 "float32 products of 64 rows", "imports 1.5 s"):
        assert part in text


def test_a_method_that_trains_nothing(watch):
    found = measure.measure(tiny.config("method=ncm"), SIZES, watch=watch)
    assert [name for name, phase in found.phases.items() if phase] == ["evaluation", "loader"]
    assert "share" not in report.summary(found, 1.5)
    assert [line.split()[0] for line in report.table(found).splitlines()] == [
        "phase", "evaluation", "loader"]


def made_up(device="1 x cpu: cpu", **seconds) -> report.Report:
    """Phases of so many seconds a step, beside a product of 100 GFLOP/s."""
    phases = {
        name: value and report.Phase(9.0, value, 100.0, 64, needed_gflop=50 * value)
        for name, value in seconds.items()
    }
    return report.Report(device, "ucf", "float32", False, 2048, 7, 8.0, 900.0, None, phases)


def test_a_report_is_compared_with_what_an_earlier_one_wrote(tmp_path):
    path = tmp_path / "old.json"
    report.write(path, made_up(substage1=0.4, sampler=0.1), made_up(substage1=0.8), None)
    old, ragged = report.read_seconds(path)
    assert (old, ragged) == ({"substage1": 0.4, "sampler": 0.1}, {"substage1": 0.8})
    lines = report.table(made_up(substage1=0.2, sampler=None, loader=0.3), old).splitlines()
    assert [line.split()[-1] for line in lines] == ["faster", "2.00", "-"]
    assert lines[1].split()[:6] == ["substage1", "200.0", "5.00", "320", "10.0", "50%"]
    assert json.loads(path.read_text())["phases"]["substage1"]["steps_per_second"] == 2.5


@pytest.mark.parametrize("text", ["{", "[]", '{"phases": 3}', '{"phases": {"a": {"b": 1}}}'])
def test_what_is_no_report(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"--compare=.*old.json (cannot be read|was not written)"):
        report.read_seconds(path)


def test_the_card_is_named_where_it_is_known():
    found = made_up("1 x gpu: NVIDIA H100 80GB HBM3", substage1=0.4)
    assert "0% of the card's 67000" in report.summary(found, 1.5)
    assert "of the card" in report.table(found) and "of the card" not in report.table(
        made_up(substage1=0.4))


def test_growth_doubles_one_size_at_a_time(watch, monkeypatch):
    """Cost is what a step takes in units of the product, so a slow moment of the machine, where
    both take longer, cancels out."""
    c, moment = tiny.config(), iter(range(1, 100))
    usual = clips.training_lengths(c)

    def measured(config, sizes, only, watch, mesh=None, fixed=usual):
        sizes = {
            "T": config.diffusion.steps, "L": config.model.depth, "batch": config.train.batch,
            "tokens": fixed.audio + fixed.video, "devices": mesh.size if mesh else 8,
        }
        slow = next(moment)
        phase = report.Phase(1.0, float(slow * np.prod([*sizes.values()])), 1 / slow)
        return report.Report("", "", "float32", False, 64, 0, 0.0, 0.0, None,
                             dict.fromkeys(only, phase))

    monkeypatch.setattr(measure, "measure", measured)
    found = measure.grow(c, watch)
    doubled = [found[f"{name} x 2"] for name in ("T", "L", "batch", "tokens")]
    for ratios in doubled:
        assert ratios == pytest.approx({"substage1": 2, "substage2": 2})
    fewer = [found[f"devices {n} of 8"]["substage1"] for n in (1, 2, 4)]
    assert fewer == pytest.approx([1 / 8, 1 / 4, 1 / 2])
