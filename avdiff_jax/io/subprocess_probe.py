"""A foreign file is opened in a child process first: a C library can crash on a hostile one.

What the child refuses is refused; a child that crashes, hangs or wants all the memory costs a
sentence instead of the run. Files that this process wrote or has tried before are not tried again.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath

SECONDS = 120  # until a child that still tries to open a file is given up
SPARE_BYTES = 8 << 30  # of address space for the child, beyond the file, which may be mapped
REFUSED = 3  # exit code of a child whose UserError is on its stdout

_known: set[tuple[int, ...]] = set()

_CHILD = """
import json, sys
sys.path[:], module, function, path, limit = json.loads(sys.argv[1])
from avdiff_jax.io import subprocess_probe
sys.exit(subprocess_probe.try_here(module, function, path, limit))
"""


def trust(path: FilePath) -> None:
    """This process wrote the file as it is now: no child need try it."""
    _known.add(_identity(path))


def try_apart(function: Callable[[str], object], path: FilePath, what: str) -> None:
    """Calls `function(path)` in a child process, unless the file as it is now is known.

    Args:
      function: at the top level of its module; its result is dropped.
      path: of an existing file.
      what: the file is, for messages.

    Raises:
      UserError: as the function raised it, or because the child did not survive.
    """
    path = os.fspath(path)
    identity = _identity(path)
    if identity in _known or not sys.executable:
        return
    request = [sys.path, function.__module__, function.__name__, path,
               os.path.getsize(path) + SPARE_BYTES]
    again = "copy or make it again, and trust no file of unknown origin"
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, json.dumps(request)],
            # threads would only make the start longer and the address space larger
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} {path} could not be opened within {SECONDS} seconds: {again}"
                        ) from None
    if child.returncode == REFUSED:
        raise UserError(child.stdout.decode("utf-8", "replace"))
    if child.returncode < 0:
        number = -child.returncode
        name = signal.strsignal(number) or f"signal {number}"
        raise UserError(f"{what} {path} crashes the library that reads it ({name}): {again}")
    if child.returncode:
        reason = child.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason"]
        raise UserError(f"{what} {path} could not be opened in a child process ({reason[-1]}): "
                        f"{again}")
    _known.add(identity)


def try_here(module: str, function: str, path: str, limit: int) -> int:
    """The child's side of `try_apart`; returns its exit code."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no core file behind
    except (ImportError, ValueError, OSError):  # no such limits here, or lower ones
        pass
    try:
        getattr(importlib.import_module(module), function)(path)
    except UserError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        return REFUSED
    return 0


def _identity(path: FilePath):
    """Changes whenever the file does, and not when it is renamed."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
