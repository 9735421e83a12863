"""One run at a time in a workdir, on one machine and over a network file system.

The kernel's lock on WORKDIR/.lock ends with the process, however it ends: on one machine it is
never stale. Another machine may not see it, so the holder also names itself in the file and
touches it now and then; whoever meets the name of another machine watches for that.
"""

import contextlib
import fcntl
import itertools
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import jax

from avdiff_jax.errors import UserError

BEAT_SECONDS = 5.0  # between two signs of life
WATCH_SECONDS = 20.0  # without one, a holder on another machine counts as dead


@contextlib.contextmanager
def hold_lock(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a workdir and holds it; one that the block leaves empty is unmade. On several hosts
    process 0 holds it.

    Raises:
      UserError: another run holds it, or it cannot be written to.
    """
    if jax.process_index():
        yield
        return
    missing = list(itertools.takewhile(lambda f: not f.exists(), (workdir, *workdir.parents)))
    path = workdir / ".lock"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        raise UserError(
            f"cannot write to --workdir={workdir}: {error.strerror or error}; make space there or "
            "choose another"
        ) from error
    with file:
        try:
            with _signs_of_life(file):
                yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)
                if not (workdir / "config.json").exists():  # no run was begun
                    path.unlink()
                for folder in missing:
                    folder.rmdir()


def is_held(workdir: pathlib.Path) -> bool:
    """Whether a run on this machine has a workdir under way."""
    try:
        with (workdir / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no run was ever there, or the file system has no locks
        return False
    return False


def _take(path: pathlib.Path) -> TextIO:
    """The open and locked file, with our name in it."""
    with contextlib.ExitStack() as opened:
        while True:
            file = opened.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(path) from None
            except OSError:  # a file system without locks: signs of life decide
                pass
            # A run that failed at once may have removed the file that we have just opened.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
            opened.close()
        if _holder(path).partition(" ")[0] not in ("", socket.gethostname()):
            _watch(path)
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
        opened.pop_all()
        return file


def _watch(path: pathlib.Path) -> None:
    """Returns when the holder on another machine shows no sign of life.

    Raises:
      UserError: it does.
    """
    host, _, number = _holder(path).partition(" ")
    print(f"{path.parent} was last held by process {number} on {host}: watching for "
          f"{WATCH_SECONDS:g} s whether it lives", file=sys.stderr)
    before, end = _read_touch(path), time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1, WATCH_SECONDS / 10))
        if _read_touch(path) != before:
            raise _in_use(path)


def _read_touch(path: pathlib.Path) -> int:
    with path.open() as file:  # network file systems ask the server when a file is opened
        return os.fstat(file.fileno()).st_mtime_ns


def _holder(path: pathlib.Path) -> str:
    """"HOST PROCESS", or nothing after a run that ended by itself."""
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _in_use(path: pathlib.Path) -> UserError:
    host, _, number = _holder(path).partition(" ")
    return UserError(
        f"{path.parent} is in use by process {number} on {host}: wait until that run ends, or "
        "choose another --workdir"
    )


@contextlib.contextmanager
def _signs_of_life(file: TextIO) -> Iterator[None]:
    over = threading.Event()

    def beat():
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
