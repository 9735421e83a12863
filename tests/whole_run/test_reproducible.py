"""What decides the numbers of a run: the seed and the training clips. What does not: everything
else, the network included."""

import subprocess
import sys

import numpy as np
import pytest

from avdiff_jax.data.splits import split_file
from avdiff_jax.data.store import open_store
from tests import ROOT, tiny

CONFIG = dict(train__epochs1=1, train__epochs2=1)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_programs")]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(workdir, final states) of a run."""
    workdir = tmp_path_factory.mktemp("first") / "w"
    _, states = tiny.finish(tiny.config("method=attention_fusion", **CONFIG), workdir)
    return workdir, states


@pytest.mark.parametrize("seed, equal", [(42, True), (43, False)])
def test_the_seed_decides(first, seed, equal, tmp_path):
    c = tiny.config("method=attention_fusion", seed=seed, **CONFIG)
    _, states = tiny.finish(c, tmp_path / "w")
    if equal:
        tiny.same(states, first[1])
        assert tiny.lines(tmp_path / "w") == tiny.lines(first[0])
        assert tiny.outcome(tmp_path / "w") == tiny.outcome(first[0])
    else:
        assert all(tiny.differ(ours.vars.params, theirs.vars.params)
                   for ours, theirs in zip(states, first[1], strict=True))
        assert tiny.outcome(tmp_path / "w")["test"] != tiny.outcome(first[0])["test"]


def test_clips_of_the_test_set_are_touched_by_evaluation_alone(first, tmp_path):
    """Other features in clips that only test sets hold: the same training, other results."""
    c = tiny.config("method=attention_fusion", **CONFIG)
    split = split_file.load(c.data.split)
    only = {clip for ids in split["sets"]["test_base"].values() for clip in ids}
    for test in split["sets"]["test_novel"]:
        only |= {clip for ids in test.values() for clip in ids}
    for shots in split["sets"]["train2_novel"]:
        only -= {clip for ids in shots.values() for clip in ids}
    assert len(only) > 10

    def change(clip):
        if clip.clip_id not in only:
            return clip
        return clip._replace(audio=255 - clip.audio, video=np.float32(7) - clip.video)

    store = tmp_path / "changed.h5"
    tiny.rewritten(open_store(c.data.store), store, change=change)
    with c.unlocked():
        c.data.store = str(store)
    _, states = tiny.finish(c, tmp_path / "w")
    tiny.same(states, first[1])
    epochs = [[x for x in tiny.lines(w) if "epoch" in x] for w in (tmp_path / "w", first[0])]
    assert epochs[0] == epochs[1]
    assert tiny.outcome(tmp_path / "w")["chosen"] == tiny.outcome(first[0])["chosen"]
    assert tiny.outcome(tmp_path / "w")["test"] != tiny.outcome(first[0])["test"]


def test_results_tell_what_they_hold_for(first):
    found = tiny.outcome(first[0])
    assert found["device"] and found["config"]["seed"] == 42
    assert {"python", "jax", "jaxlib", "numpy"} <= set(found["versions"])
    assert found["flags"] == {
        "XLA_FLAGS": found["flags"]["XLA_FLAGS"],
        "jax_enable_x64": False,
        "jax_default_prng_impl": "threefry2x32",
    }


DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from avdiff_jax.data.splits.stages import concat_members
from avdiff_jax.train.context import initialise_variables
from avdiff_jax.train.scoring import batch_members, score_members
from tests import tiny

def scores(devices, batch):
    c = tiny.config("method=attention_fusion", eval__batch=batch)
    b = tiny.make_context(c, devices=devices)
    members = concat_members(b.stage.eval_base, b.stage.eval_novel[0])
    vars = jax.device_put(start, jax.sharding.NamedSharding(b.feed.mesh, jax.P()))
    return score_members(b, vars, members, batch_members(b, members, test=False))

c = tiny.config("method=attention_fusion")
start = jax.device_get(initialise_variables(tiny.make_context(c)))
one = scores(1, 16)
assert one.std(0).max() > 1e-4
for devices, batch in ((2, 16), (8, 16), (8, 64), (1, 64)):
    other = scores(devices, batch)
    np.testing.assert_allclose(other, one, atol=1e-6)
    assert (other.argmax(-1) == one.argmax(-1)).all()
print("equal")
"""


def test_scores_depend_neither_on_devices_nor_on_the_batch():
    run = subprocess.run(
        [sys.executable, "-c", DEVICES], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "equal\n", run.stderr


OFFLINE = """
import runpy, sys
asked = []

def offline(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
        place = args[1] if event != "socket.getaddrinfo" else args
        if not (isinstance(place, (str, bytes)) or place[0] in ("127.0.0.1", "::1", "localhost")):
            asked.append(f"{event} {place}")
            raise OSError(f"no network: {event} {place}")

sys.addaudithook(offline)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("asked for:", asked)
"""


def test_no_network_is_asked_for(tmp_path):
    """By a whole run. The watch itself is tried on a program that asks."""
    def answer(*line):
        return subprocess.run(
            [sys.executable, "-c", OFFLINE, *line], cwd=ROOT, capture_output=True, text=True)

    run = answer(*tiny.command("method=ncm", tmp_path / "w")[1:])
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("asked for: []\n")
    (tmp_path / "asks.py").write_text(
        "import urllib.request\nurllib.request.urlopen('http://192.0.2.1', timeout=1)\n")
    assert "192.0.2.1" in answer(str(tmp_path / "asks.py")).stdout
