"""Thousands of clips of which some are broken, and clips of any length."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("av")

from avdiff_jax.data.store import open_store
from avdiff_jax.extract.collection import open_collection
from avdiff_jax.extract.run import extract
from tests import ROOT
from tests.extract.clips import write_clip
from tests.extract.test_run import encoders, rows_of, text

pytestmark = pytest.mark.slow


def test_two_thousand_files_every_tenth_broken(tmp_path):
    """Each kind of breakage again and again; what is whole is in the store."""
    source = tmp_path / "source.avi"
    write_clip(source, 0.9)
    whole = source.read_bytes()
    kinds = [b"", b"hello", whole[:40], whole[: len(whole) // 40], bytes(len(whole))]
    for number in range(2000):
        folder = tmp_path / "clips" / f"class{number % 20:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        content = kinds[number // 10 % len(kinds)] if number % 10 == 0 else whole
        (folder / f"{number:04d}.avi").write_bytes(content)
    collection = open_collection(tmp_path / "clips")
    done = extract(collection, tmp_path / "x.h5", encoders(), "plain", text(collection))
    rows = rows_of(tmp_path / "x.h5")
    assert len(rows) == 2000
    assert {row["clip_id"] for row in rows.values() if row["status"] == "ok"} == {
        clip_id for clip_id in rows if not clip_id.endswith("0")}
    broken = [row for clip_id, row in rows.items() if clip_id.endswith("0")]
    assert len(broken) == 200 and all(row["reason"] for row in broken)
    assert {row["status"] for row in broken} <= {"failed", "skipped", "incomplete"}
    store = open_store(tmp_path / "x.h5")
    assert len(store) >= 1800
    assert done.store.clips == len(store)


MEASURE = """
import resource, sys
from avdiff_jax.extract.collection import ClipFile
from avdiff_jax.extract.pipeline import encode_clips
from tests.extract.test_run import encoders
[(clip, part)] = encode_clips([ClipFile(sys.argv[1], "clip", "class")], encoders())
assert part.outcome.status == "ok", part.outcome
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_a_clip(tmp_path):
    """Ten minutes take what half a minute takes: 1500 more seconds of frames would be 900 MB."""
    peaks = []
    for seconds in (30, 600):
        path = tmp_path / f"{seconds}.avi"
        write_clip(path, seconds, fps=5)
        done = subprocess.run([sys.executable, "-c", MEASURE, path], cwd=ROOT, check=True,
                              capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 30, peaks  # MiB
