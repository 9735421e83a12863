"""The same substage on one and on two devices, and numbers that do not divide."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avdiff_jax.data.clips import Clip
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.data.windows import training_plan
from avdiff_jax.errors import UserError
from avdiff_jax.runtime import devices
from tests import ROOT, tiny

pytestmark = pytest.mark.usefixtures("small_programs")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return tiny.substage2(tiny.config(), tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    "count, residence",
    [(2, "device"), *(pytest.param(*case, marks=pytest.mark.slow)
                      for case in ((1, "host"), (8, "device")))],
)
def test_devices_and_residence_do_not_matter(alone, count, residence, tmp_path):
    state, line = tiny.substage2(tiny.config(data__residence=residence), tmp_path, count)
    tiny.nearly(state.vars, alone[0].vars)
    assert line.keys() == alone[1].keys()
    for name, value in line.items():
        np.testing.assert_allclose(value, alone[1][name], rtol=1e-3, err_msg=name)


def test_a_batch_is_split_and_the_features_are_not():
    b = tiny.make_context(tiny.config(), devices=2)
    plan = training_plan(b.feed.store, b.stage.base, b.lengths, 8, 4, [0])
    inputs = b.feed.inputs(plan, b.lengths)
    assert {s.data.shape for s in inputs.label.addressable_shards} == {(4, 4)}
    assert b.feed.data.video.sharding.is_fully_replicated
    streamed = Feed(b.feed.store, b.feed.mesh, "host").inputs(plan, b.lengths)
    shapes = {s.data.shape[:2] for s in streamed[0].video.addressable_shards}
    assert shapes == {(4, 4)}


def test_a_batch_that_does_not_divide():
    with pytest.raises(UserError, match=r"train.batch=7 does not divide by the 2 devices"):
        devices.check_divides(7, tiny.mesh(2), "train.batch")
    devices.check_divides(8, tiny.mesh(2), "train.batch")


MEMORY = """
import sys, threading, time
import jax, numpy as np
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.windows import Lengths, training_plan
from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.store import open_store
from tests import tiny

def own():  # MB that are not pages of a file
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0]) >> 10

store = open_store(sys.argv[1])
feed = Feed(store, tiny.mesh(), sys.argv[2])
lengths, most, read = Lengths(2, 40), 0, 0
step = jax.jit(lambda data, x: feed.batch(data, x, lengths).video.sum())
before = own()
members = Members(np.arange(len(store)), store.labels)
for i in range(40):
    plan = training_plan(store, members, lengths, 32, 1, [i])
    inputs = feed.inputs(jax.tree.map(lambda x: x[0], plan), lengths)
    step(feed.data, inputs).block_until_ready()
    read += int(plan.video_length.sum()) * store.video.dim * 4
    most = max(most, own())
print(store.video.values.nbytes >> 20, read >> 20, most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_streamed_set_takes_bounded_memory(tmp_path):
    """A store of 320 MB, read more than once over, in a fraction of that."""
    video = np.ones((40, 1024), np.float32)
    clips = (Clip(f"c{i:05d}", "ab"[i % 2], None, np.ones((2, 4)), video) for i in range(2048))
    write_store(
        tmp_path / "big.h5", name="big", clips=clips, class_names=["a", "b"],
        class_text=np.eye(2), audio_seconds=1.0, video_seconds=1.0, provenance={},
    )
    found = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "big.h5", "host"], capture_output=True,
        text=True, cwd=ROOT, check=True,
    )
    size, read, grown = map(int, found.stdout.split())
    assert size == 320 and read == 200
    assert grown < 60
