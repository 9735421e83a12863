"""How much memory there is, and how much a function will take, said before it is compiled."""

import contextlib
import math
import os
import pathlib
import resource
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

GROUPS = pathlib.Path("/sys/fs/cgroup")  # where Linux says what a container may take
# What XLA makes on the way and never stores.
NOT_STORED = ("broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims")


def free_bytes() -> int:
    """Memory of one device that is not in use; on a CPU, what this process may still take."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return min(_list_host_limits(), default=4 << 30)


def _list_host_limits() -> Iterator[int]:
    """What the machine, the container and the shell each leave, where they say so."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        (line,) = (
            line for line in pathlib.Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemAvailable")
        )
        yield int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError):
        taken = int((GROUPS / "memory.current").read_text())
        # Pages of files count as taken and are given back when they are needed.
        stat = dict(line.split() for line in (GROUPS / "memory.stat").read_text().splitlines())
        yield int((GROUPS / "memory.max").read_text()) - taken + int(stat["inactive_file"])
    with contextlib.suppress(OSError, ValueError):
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
            yield limit - pages * os.sysconf("SC_PAGE_SIZE")


def estimate_bytes(jaxpr: Any) -> int:
    """Estimates the most bytes that the values of a traced function take at one time, without its
    arguments.

    A value is there from the operation that makes it until the last that reads it. XLA orders and
    fuses operations, so what it takes is less, as a rule.

    Args:
      jaxpr: `program.trace(...).jaxpr`.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    last = {}
    for i, equation in enumerate(jaxpr.eqns):
        last |= {v: i for v in equation.invars if isinstance(v, core.Var)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if isinstance(v, core.Var)}
    ends: dict[int, list] = {}
    held = most = 0
    for i, equation in enumerate(jaxpr.eqns):
        stored = equation.primitive.name not in NOT_STORED
        made = [v for v in equation.outvars if stored and last.get(v, -1) > i]
        inner = max(map(estimate_bytes, _parts(equation)), default=0)
        most = max(most, held + inner + sum(map(_size, equation.outvars)) * stored)
        for v in made:
            ends.setdefault(last[v], []).append(v)
            held += _size(v)
        held -= sum(map(_size, ends.pop(i, ())))
    return max(most, held)


def _parts(equation: Any) -> Iterator[Any]:
    """The functions that an operation calls: the body of a loop, a compiled function."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
                yield part


def _size(variable: Any) -> int:
    aval = variable.aval
    return math.prod(getattr(aval, "shape", ())) * getattr(aval.dtype, "itemsize", 8)
