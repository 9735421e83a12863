"""One program for each step function, and one for each shape of evaluation batches."""

from collections import Counter

import pytest

from avdiff_jax.data.store import open_store
from avdiff_jax.data.windows import Limits, bucket_shapes, cut_lengths
from avdiff_jax.train import protocol
from tests import programs, tiny

pytestmark = pytest.mark.usefixtures("small_programs")


def check(found: Counter[str], judged: int) -> None:
    """Both substages of both stages, three draws, test, the generator's quality, the models."""
    shapes = bucket_shapes(cut_lengths(open_store(tiny.world()[0]), Limits(0, 0)))
    assert len(shapes) == 3
    assert found.pop("fuse") <= 2 * len(shapes)  # not every set of clips fills every shape
    expected = {"init": 2, "run": 4, "scores": judged, "generate": 1, "embed": 1}
    assert {name: found[name] for name in expected} == expected


def test_a_whole_run(finished, compilations):
    check(compilations.copy(), judged=2)


@pytest.mark.slow
def test_a_whole_run_with_cached_features(tmp_path):
    """Val is judged at once, which is one more shape."""
    found = Counter()
    with programs.share(None), programs.count_compilations(found):
        protocol.run(tiny.config(train__frozen_mode="eval", eval__batch=8), tmp_path / "w")
    check(found, judged=3)
