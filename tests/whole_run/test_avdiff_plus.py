"""AV-Diff+ through the whole protocol: what it leaves open is chosen on Val, and classes are added
to it exactly."""

import itertools
import json

import numpy as np
import pytest

from avdiff_jax.data import synthetic
from avdiff_jax.data.clip_source import of_store
from avdiff_jax.data.store import open_store
from avdiff_jax.inference.model import load
from avdiff_jax.train import protocol
from avdiff_jax.train.add_classes import add_classes
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_programs")]


def config(**changes):
    return tiny.config("method=avdiff_plus", diffusion__few_steps=2, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, results, final states)."""
    workdir = tmp_path_factory.mktemp("plus") / "w"
    return workdir, *tiny.finish(config(), workdir)


def test_the_space_is_chosen_on_val_and_told(run):
    workdir, results, _ = run
    chosen = results["chosen"]["avdiff_plus.space"]
    assert chosen["on"] == "Val of stage 1, AUSUC" and len(chosen["trials"]) == 3
    first, *others = chosen["trials"]
    margin = chosen["margin"] if first["avdiff_plus.space"] == "both" else 0
    assert first["AUSUC"] >= (1 - margin) * max(trial["AUSUC"] for trial in others)
    assert chosen["value"] == first["avdiff_plus.space"]
    assert first["AUSUC"] == results["validation"]["substage2"]["val/AUSUC"]
    # The result file tells what was asked for, the model what it is.
    assert results["config"]["avdiff_plus"]["space"] == "auto"
    assert load(workdir).info.config.avdiff_plus.space == chosen["value"]


def test_only_the_chosen_space_is_seen(run):
    _, results, states = run
    for state in states:
        weights, dim = state.vars.buffers["weights"], results["config"]["model"]["dim"]
        blocks = bool(weights[:dim].any()), bool(weights[dim:].any())
        space = results["chosen"]["avdiff_plus.space"]["value"]
        assert blocks == {"token": (1, 0), "raw": (0, 1), "both": (1, 1)}[space]


def test_draws_have_heads_of_their_own(run):
    _, _, states = run
    assert tiny.differ(states[0].vars.buffers["weights"], states[1].vars.buffers["weights"])
    tiny.same(states[0].vars.params, states[1].vars.params)


def test_an_evaluation_restores_the_same(run, tmp_path):
    workdir, results, states = run
    again, restored = tiny.finish(config(), workdir, "evaluate")
    tiny.same(restored, states)
    assert again["test"] == results["test"] and again["chosen"] == results["chosen"]


def test_a_resumed_run_takes_the_choice_of_the_first(run, tmp_path):
    _, results, states = run
    workdir = tmp_path / "w"
    assert protocol.run(config(), workdir, "stage1") is None
    record = json.loads((workdir / "stage1.json").read_text())
    assert record["trials"][0]["filled"] == {
        "avdiff_plus.space": results["chosen"]["avdiff_plus.space"]["value"]
    }
    _, again = tiny.finish(config(), workdir, "stage2")
    tiny.same(again, states)


def test_classes_are_added_exactly(run, tmp_path):
    """One by one in any order or at once: the same scores to 1e-5; nothing else is learned anew."""
    model = load(run[0])
    path = tmp_path / "new.h5"
    synthetic.synthesize(
        path, seed=5, classes=8, clips_per_class=6, audio_dim=8, video_dim=12, text_dim=14,
        seconds=(1.0, 6.0),
    )
    store = open_store(path)

    def clips(number):
        rows = np.flatnonzero(store.labels == number)[:3]
        members = list(of_store(store, rows))
        return [c.audio for c in members], [c.video for c in members], [f"new {number}"] * 3

    def add(model, numbers):
        parts = zip(*map(clips, numbers), strict=True)
        audio, video, names = (list(itertools.chain(*part)) for part in parts)
        return add_classes(model, audio, video, names)

    whole = add(model, (0, 1, 2))
    audio, video, _ = clips(1)
    wanted = whole.scores(audio, video)
    for order in itertools.permutations(range(3)):
        bigger = model
        for number in order:
            bigger = add(bigger, (number,))
        places = [bigger.info.classes.index(name) for name in whole.info.classes]
        np.testing.assert_allclose(bigger.scores(audio, video)[:, places], wanted, atol=1e-5)
    tiny.same(whole.vars.params["fusion"], model.vars.params["fusion"])
    assert (whole.predict(audio, video)[0][:, 0] == "new 1").any()


@pytest.mark.parametrize("head, words, jitter", [
    ("linear", "", "auto"), ("auto", "", "auto"), ("linear", ",generator=transfer", "1"),
])
def test_residuals(head, words, jitter, tmp_path):
    """A model holds those that its fields ask for, whatever the run left open, and learns on."""
    c = tiny.config(
        f"method=avdiff_plus{words}", diffusion__few_steps=2, avdiff_plus__head=head,
        avdiff_plus__space="token", avdiff_plus__jitter=jitter,
    )
    results, _ = tiny.finish(c, tmp_path / "w")
    model = load(tmp_path / "w")
    plus = model.info.config.avdiff_plus
    assert "auto" not in (plus.head, plus.jitter)
    trials = results["chosen"].get("avdiff_plus.jitter", {"trials": [None]})["trials"]
    assert len(trials) == ({"linear": 3, "auto": 6}[head] if jitter == "auto" else 1)
    residuals = model.vars.buffers.get("residuals")
    wanted = plus.head == "linear" and (plus.jitter != "0" or bool(words))
    assert (residuals is not None) == wanted
    assert residuals is None or residuals.any()
    clip = next(iter(of_store(open_store(c.data.store), [0])))
    bigger = add_classes(model, [clip.audio] * 2, [clip.video] * 2, ["new"] * 2)
    assert bigger.scores([clip.audio], [clip.video]).shape == (1, len(model.info.classes) + 1)
