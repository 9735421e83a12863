"""Every choice of the configuration changes what is trained, and goes with the whole protocol."""

import numpy as np
import pytest

from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_programs")]

CHOICES = [
    ("generator=none", {}), ("generator=gaussian", {}), ("condition=prototype", {}),
    ("modality=audio", {}), ("modality=video", {}), ("published", {}),
    # In the two layers of the tiny model "alternate" and "self" do what "hybrid" does: only the
    # class token leaves the last layer, and it sees all tokens in a self as in a full layer.
    *((f"attention={a}", {}) for a in ("full", "cross")),
    ("", {"train__frozen_mode": "eval"}), ("", {"data__train_max_video": 3}),
    ("", {"model__video_norm": "feature"}), ("", {"data__audio_scale": "standardize"}),
    ("", {"diffusion__sampler_gradient": False}), ("", {"diffusion__final_noise": False}),
    ("", {"diffusion__schedule": "cosine"}), ("", {"diffusion__dropout": 0.2}),
    ("", {"diffusion__few_steps": 2}),
]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return tiny.substage2(tiny.config(), tmp_path_factory.mktemp("usual"))[0].vars.params


@pytest.mark.parametrize("words, changes", CHOICES)
def test_a_choice_means_something(words, changes, usual, tmp_path):
    state, _ = tiny.substage2(tiny.config(words, **changes), tmp_path)
    params = state.vars.params
    assert ("gen" in params) == (not words.startswith("generator="))
    assert tiny.differ(params["cls"], usual["cls"])


@pytest.mark.parametrize("words, changes", [
    ("generator=none,modality=audio", {"eval__calibration": "exact"}),
    ("generator=gaussian,attention=full", {"data__residence": "host"}),
    ("condition=prototype,attention=cross",
     {"train__frozen_mode": "eval", "train__crops": 2, "diffusion__few_steps": 2}),
    ("published,modality=video", {"train__reset_optimizer": False}),
    ("", {"model__video_norm": "feature", "data__audio_scale": "standardize",
          "data__train_max_video": 3, "data__test_max_video": 4, "diffusion__schedule": "cosine",
          "diffusion__dropout": 0.2, "diffusion__sampler_gradient": False,
          "diffusion__final_noise": False}),
])
def test_choices_together_run_to_the_end(words, changes, tmp_path):
    results, _ = tiny.finish(tiny.config(words, **changes), tmp_path / "w")
    assert bool(results.get("generator")) == ("generator=none" not in words)
    assert all(np.isfinite(results["test"]["mean"][k]) for k in ("B", "N", "HM", "FSL"))
