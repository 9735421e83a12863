"""Runs on a store without class text: who can, who cannot, and what stands in for it."""

import dataclasses

import numpy as np
import pytest

from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.inference.model import load
from avdiff_jax.methods import METHODS
from avdiff_jax.methods.without_text import settle_text
from avdiff_jax.train import protocol
from avdiff_jax.train.add_classes import add_classes
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The tiny store without its text."""
    store = open_store(tiny.world()[0])
    path = tmp_path_factory.mktemp("silent") / "silent.h5"
    bare = dataclasses.replace(store, class_text=store.class_text[:, :0])
    tiny.rewritten(bare, path)
    return path


def of_method(name, store, words=""):
    return tiny.config(",".join(filter(None, [f"method={name}", words])), data__store=str(store))


def test_a_store_without_text(silent):
    store = open_store(silent)
    assert store.class_text.shape == (12, 0) and store.text.source == "none"


def test_prototypes_take_the_place_of_text(silent):
    config = of_method("avdiff", silent)
    settled, note = settle_text(config)
    assert settled.diffusion.condition == "prototype" and config.diffusion.condition == "text"
    assert settled.is_locked and "silent.h5 has no class text, so prototypes condition" in note
    assert settle_text(settled) == (settled, "")


@pytest.mark.parametrize("name, words", [
    ("linear", ""), ("ncm", ""), ("mbt", ""), ("avdiff_plus", ""), ("avdiff", "generator=none"),
    ("protogan", "")])
def test_methods_without_text_stay_as_they_are(name, words, silent):
    config = of_method(name, silent, words)
    assert settle_text(config) == (config, "")


@pytest.mark.parametrize("name, words", [
    ("tcaf", ""), ("avca", ""), ("tsl", ""), ("avdiff_plus", "generator=diffusion")])
def test_methods_that_need_text_say_so(name, words, silent):
    config = of_method(name, silent, words)
    with pytest.raises(UserError, match=rf"method={name} reads the class text, of which .*silent.h5"
                                        r" has none: make the store with text, or choose one of "
                                        r"avdiff, "):
        settle_text(config)


def test_text_that_is_not_there_cannot_be_shuffled(silent):
    with pytest.raises(UserError, match="condition=shuffled shuffles the class text, of which"):
        settle_text(of_method("avdiff", silent, "condition=shuffled"))


@pytest.mark.parametrize("name", METHODS)
def test_text_that_is_there_changes_nothing(name):
    config = of_method(name, tiny.world()[0])
    assert settle_text(config) == (config, "")
    config = of_method(name, "not-there.h5")  # which is told of later
    assert settle_text(config) == (config, "")


@pytest.mark.slow
def test_a_run_without_text(silent, tmp_path, capsys):
    """AV-Diff trains, says once what it does, and learns more classes."""
    results = protocol.run(of_method("avdiff", silent), tmp_path / "run")
    assert capsys.readouterr().out.count("has no class text") == 1
    assert results["config"]["diffusion"]["condition"] == "prototype"
    model = load(tmp_path / "run")
    assert model.info.text.shape == (12, 0)
    rng = np.random.default_rng(0)
    audio, video = (
        [top * rng.random((4, dim)) for _ in range(3)] for top, dim in ((255, 8), (3, 12))
    )
    bigger = add_classes(model, audio, video, ["new"] * 3, {"new": np.ones(256, np.float32)})
    assert bigger.info.text.shape == (13, 0) and bigger.info.classes[-1] == "new"
    condition = bigger.vars.buffers["condition"]
    assert condition.shape[0] == 13 and np.isfinite(condition).all() and condition[-1].any()
    bigger.save(tmp_path / "bigger.npz")
    again = load(tmp_path / "bigger.npz")
    np.testing.assert_array_equal(again.scores(audio, video), bigger.scores(audio, video))
