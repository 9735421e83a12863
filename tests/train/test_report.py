"""What a run says about its generator."""

import numpy as np
import pytest

from avdiff_jax.train.measure import GeneratorQuality, measure_overlap
from avdiff_jax.train.report import describe_generator


def quality(real, real_labels, synthetic, synthetic_labels) -> GeneratorQuality:
    rows = [np.array(x, float).reshape(-1, 1) for x in (real, synthetic)]
    return GeneratorQuality(
        rows[0], np.array(real_labels), rows[1], np.array(synthetic_labels), {}
    )


def test_overlap_by_hand():
    """Class 1: mean 1, class 3: mean 11, both clips one away; corrected for two clips, sqrt(2)."""
    found = quality([0, 2, 10, 12], [1, 1, 3, 3], [1, 2.4, -0.5, 11, 1], [1, 1, 1, 3, 3])
    assert measure_overlap(found) == pytest.approx(60)


def test_one_shot_has_no_overlap_to_speak_of():
    assert measure_overlap(quality([0, 10], [0, 1], [0, 10], [0, 1])) is None


def test_the_line_on_a_generator():
    report = {"recognised": 94.2, "chance": 14.3, "norm_synthetic": 18.345, "norm_real": 8.08,
              "variance_synthetic": 2.41, "variance_real": 0.312}
    said = describe_generator({**report, "overlap": 12.4})
    assert said == (
        "generated features: 12 % lie where real ones do, 94 % are recognised (guessing 14 %); "
        "norm 18.3, real 8.08; variance within classes 2.4, real 0.31"
    )
    assert "lie where" not in describe_generator(report)
