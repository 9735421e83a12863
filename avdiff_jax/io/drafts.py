"""A file on disk that appears whole or not at all."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator

from avdiff_jax.errors import UserError


def check_free(*paths, overwrite: bool) -> None:
    """Raises UserError where a file is there already, unless it may be overwritten."""
    there = [os.fspath(path) for path in paths if os.path.exists(path)]
    if there and not overwrite:
        raise UserError(f"{there[0]} exists already: name another place or add --overwrite")


@contextlib.contextmanager
def draft(path) -> Iterator[str]:
    """Yields the name of a file to write; when all went well it takes the place of `path`.

    The draft lies in a scratch folder beside `path`, which has room for other scratch files and is
    gone afterwards. Missing parents are made and, on failure, unmade.

    Raises:
      UserError: `path` is a folder, or an OSError came up: the place cannot be written to, or the
        disk is full.
    """
    path = os.fspath(path)
    parent = os.path.dirname(path) or "."
    above = [parent]
    while os.path.dirname(above[-1]) not in ("", above[-1]):
        above.append(os.path.dirname(above[-1]))
    missing = list(itertools.takewhile(lambda folder: not os.path.exists(folder), above))
    try:
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder: name a file to write")
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=parent) as folder:
            made = os.path.join(folder, "draft-" + os.path.basename(path))
            yield made
            _sync(made)
            os.replace(made, path)
            _sync(parent)
    except BaseException as error:
        for folder in missing:  # deepest first
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        # an error of the source files was already turned into a UserError where they are read
        if isinstance(error, OSError):
            reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
            raise UserError(f"cannot write {path}: {reason}: free space or name another place"
                            ) from error
        raise


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
