"""The reader of traces, on a made-up one and on a real one of the CPU."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.speed import trace


def meta(kind, name, pid, tid=None):
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def event(name, pid, tid, start, duration, **args):
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": start, "dur": duration,
            "args": args}


GPU = [
    meta("process_name", "/device:GPU:0", 1), meta("process_name", "/device:GPU:1", 2),
    meta("process_name", "/host:CPU", 3),
    meta("thread_name", "Stream #13(Compute)", 1, 13),
    meta("thread_name", "Stream #14(MemcpyH2D)", 1, 14), meta("thread_name", "XLA Ops", 1, 15),
    meta("thread_name", "Stream #13(Compute)", 2, 13), meta("thread_name", "python", 3, 1),
    event("gemm", 1, 13, 100, 30), event("gemm", 1, 13, 150, 10), event("add", 1, 13, 130, 10),
    event("copy", 1, 14, 155, 35),  # 5 us of it beside the second gemm
    event("gemm", 1, 15, 100, 30),  # the same by layers
    event("other card", 2, 13, 0, 500), event("host", 3, 1, 0, 500, hlo_op="dot"),
]


def write(folder, events, name="a"):
    path = folder / "plugins" / "profile" / name / "x.trace.json.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": events}, file)


def test_kernels_and_waiting(tmp_path):
    """Busy from 100 to 140 and from 150 to 190, of 90 us."""
    write(tmp_path, GPU)
    found = trace.read(tmp_path)
    assert [(k.name, k.launches) for k in found.kernels] == [("gemm", 2), ("copy", 1), ("add", 1)]
    assert found.kernels[0].seconds == pytest.approx(40e-6)
    assert found.busy == pytest.approx(80e-6) and found.span == pytest.approx(90e-6)
    assert found.waiting == pytest.approx(1 / 9)
    lines = trace.table(found, 2).splitlines()
    assert lines[0] == "4 kernels in 0.1 ms; the device waits for 11% of the time"
    assert [line.split()[-1] for line in lines[2:]] == ["gemm", "copy"]
    assert lines[2].split()[:3] == ["0.04", "50.0%", "2"]


def test_what_is_no_trace(tmp_path):
    with pytest.raises(UserError, match=r"holds no \*.trace.json.gz"):
        trace.read(tmp_path)
    write(tmp_path, GPU[:8])
    with pytest.raises(UserError, match="holds no kernels"):
        trace.read(tmp_path)


@pytest.mark.slow
def test_a_trace_of_a_cpu(tmp_path):
    step = jax.jit(lambda x: jnp.tanh(x @ x) @ x)
    x = jnp.ones((200, 200))
    step(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            step(x).block_until_ready()
    found = trace.read(tmp_path)
    assert 0 < found.busy <= found.span and 0 <= found.waiting < 1
    assert {3, 6} & {kernel.launches for kernel in found.kernels}
