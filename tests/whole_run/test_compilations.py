"""One program for each step function, and one for each shape of evaluation batches."""

import collections
import contextlib

import jax.monitoring
import pytest

from avdiff_jax.data.store import open_store
from avdiff_jax.data.windows import Limits, bucket_shapes, cut_lengths
from avdiff_jax.train import protocol
from tests import programs, tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@contextlib.contextmanager
def compilations():
    """Counts the programs that are made, by the name of their function."""
    found = collections.Counter()

    def heard(event, _, fun_name=None, **__):
        if event.endswith("backend_compile_duration"):
            found[fun_name.removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


@pytest.mark.parametrize("frozen_mode, judged", [("train", 2), ("eval", 3)])
def test_a_whole_run(tmp_path, frozen_mode, judged):
    """Both substages of both stages, three draws, test, the generator's quality, the models.

    With cached features Val is judged at once, which is one more shape.
    """
    c = tiny.config(train__frozen_mode=frozen_mode, eval__batch=8)
    with programs.share(None), compilations() as found:
        protocol.run(c, tmp_path / "w")
    shapes = bucket_shapes(cut_lengths(open_store(c.data.store), Limits(0, 0)))
    assert len(shapes) == 3
    expected = {
        "init": 2, "run": 4, "fuse": 2 * len(shapes), "scores": judged, "generate": 1, "embed": 1,
    }
    assert {name: found[name] for name in expected} == expected
