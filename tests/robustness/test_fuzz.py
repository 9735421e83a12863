"""No file and no word of a user ends in a traceback, in code that is run, or in all the memory.

    AVDIFF_FUZZ=1000 python -m pytest tests/robustness/test_fuzz.py -m slow -s  # cases each reader

Cases are a function of the seed, AVDIFF_FUZZ_SEED=0. What was found stands in test_found.py.
"""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.io import subprocess_probe
from tests import ROOT
from tests.robustness import fuzz

CASES = int(os.environ.get("AVDIFF_FUZZ", "60"))
SEED = os.environ.get("AVDIFF_FUZZ_SEED", "0")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("reader", fuzz.TARGETS)
def test_rubbish(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess_probe, "SECONDS", 3 * fuzz.SECONDS)
    first, contained, counts = 0, 0, {"read": 0, "refused": 0}
    while first < CASES:  # again after a case that the reader's process did not survive
        worker = subprocess.run(
            [sys.executable, "-m", fuzz.__name__, reader, SEED, str(first), str(CASES - first)],
            cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"TMPDIR": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        lost = worker.returncode == -signal.SIGSEGV or "Timeout (" in worker.stderr
        if lost and reader == "store":
            # The library of HDF5 may crash or hang: `io.subprocess_probe` is for that.
            (file,) = tmp_path.glob("*/case/s.h5")
            with pytest.raises(UserError, match=r"crashes the library|not be opened within"):
                open_store(file)
            file.unlink()
            contained += 1
            first = int(re.findall(r"^\d+$", worker.stderr, re.M)[-1]) + 1
            continue
        assert worker.returncode == 0, worker.stderr[-2000:]
        report = json.loads(worker.stdout)
        assert not report["finds"]
        for outcome in counts:
            counts[outcome] += report.get(outcome, 0)
        print(f"\n| {reader} | {CASES} | {counts['refused']} | {counts['read']} | {contained} | "
              f"{report['lines']} | {report['MiB']} |")
        break
    assert counts["refused"] and sum(counts.values()) + contained >= CASES - 1


@pytest.mark.parametrize("what", ["calls", "writes", "raises", "waits", "fills"])
def test_what_must_not_happen_is_seen(what, monkeypatch, tmp_path):
    """The watch itself, on a reader that misbehaves."""
    program = f"""
import os, sys, time
from tests.robustness import fuzz
fuzz.SECONDS = 1

def misbehave(folder):
    data = (folder / "a.txt").read_bytes()
    if data == b"sound":
        return
    deeds = dict(calls=lambda: os.system("true"), writes=lambda: open(folder / "b", "w").close(),
                 raises=lambda: 1 / 0, waits=lambda: time.sleep(9),
                 fills=lambda: bytearray(4 << 30))
    deeds[{what!r}]()

def make(folder):
    (folder / "a.txt").write_bytes(b"sound")

fuzz.TARGETS["bad"] = fuzz.Target(make, misbehave)
print([find["outcome"] for find in fuzz.run("bad", 0, 0, 3)["finds"]][0])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT,
        capture_output=True, text=True,
    )
    wanted = {"calls": "did os.system", "writes": "did open", "raises": "ZeroDivisionError",
              "waits": "took more than 1 s", "fills": "MemoryError"}
    assert wanted[what] in found.stdout, found.stderr
