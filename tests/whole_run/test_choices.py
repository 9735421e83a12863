"""Choices of the configuration go together with the whole protocol; tests/methods/test_fields.py
sees that each of them means something."""

import numpy as np
import pytest

from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.mark.slow
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
