"""The folder of a run: its configuration, the record of stage 1, its checkpoints."""

import contextlib
import errno
import json
import pathlib

from avdiff_jax.errors import UserError
from avdiff_jax.io.files import plain, write_atomically
from avdiff_jax.io.text_files import text_of
from avdiff_jax.results.runs import differences
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.train.substage import Phase

RECORD_VERSION = 1  # of stage1.json; one without a number is of version 1
FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
DRAWS = (0, 1, 2, None)
PHASES = (Phase(1, 1), Phase(1, 2), Phase(2, 1), *(Phase(2, 2, draw) for draw in DRAWS))


def claim(workdir: pathlib.Path, config, resume: bool) -> None:
    """Begins a run in a workdir, or takes up one of the same configuration.

    Raises:
      UserError: it holds a run and `resume` is off; or its configuration differs.
    """
    path = workdir / "config.json"
    wanted = json.loads(json.dumps(plain(config.to_dict())))
    if path.exists():
        if not resume:
            raise UserError(
                f"{workdir} already holds a run: add --resume to go on with it, or choose "
                "another --workdir"
            )
        there = _object(path, "choose another --workdir")
        for name, (ours, theirs) in differences(wanted, there).items():
            raise UserError(
                f"{workdir} was begun with {name}={theirs}, now it is {ours}: use the same "
                "configuration, or another --workdir"
            )
        return
    if resume:
        raise UserError(
            f"{workdir} holds no run to go on with: begin one without --resume and with "
            "--run=all or --run=stage1"
        )
    write_atomically(path, json.dumps(wanted, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def claimed(workdir: pathlib.Path, config, resume: bool):
    """`claim`, and if the block fails, nothing is left of what a new claim and the block wrote."""
    before = set(workdir.iterdir())
    new = not (workdir / "config.json").exists()
    try:
        claim(workdir, config, resume)
        yield
    except BaseException:
        if new:
            for path in set(workdir.iterdir()) - before:
                path.unlink()
        raise


@contextlib.contextmanager
def writable(workdir: pathlib.Path):
    """A disk that fills up or fails while the block runs is a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FAILING:
            raise
        raise UserError(
            f"cannot write to --workdir={workdir}: {error.strerror}; make space or mend it, then "
            "go on from the last checkpoint with --resume"
        ) from error


def write_record(workdir: pathlib.Path, found: dict) -> None:
    """Keeps what stage 1 found."""
    content = json.dumps({"version": RECORD_VERSION, **found}, indent=2, sort_keys=True)
    write_atomically(workdir / "stage1.json", content + "\n")


def read_record(workdir: pathlib.Path) -> dict | None:
    """What stage 1 found; None where it has not finished.

    Raises:
      UserError: the file is damaged or of another version.
    """
    path = workdir / "stage1.json"
    if not path.exists():
        return None
    mend = "delete it and go on with --resume, which makes it again from the checkpoints"
    found = _object(path, mend)
    version = found.pop("version", 1)
    if version != RECORD_VERSION:
        raise UserError(
            f"{path} is of version {version!r} where this code reads {RECORD_VERSION}: go on with "
            "the code that wrote it, or begin in another --workdir"
        )
    try:
        found["gamma"] + 0.0, found["at"] + 0
        for name in ("substage1", "substage2"):
            part = found[name]
            part["epochs"] + sum(part["cuts"]) + part["seconds"], part["measured"].items()
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): {mend}") from None
    return found


def _object(path: pathlib.Path, mend: str) -> dict:
    """A JSON object of a run. Raises UserError."""
    try:
        content = json.loads(text_of(path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {mend}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__}, no object: {mend}")
    return content


def checkpoints(workdir: pathlib.Path):
    """Factories of the last and best checkpoints of a phase."""
    folder = workdir / "checkpoints"
    return (
        lambda phase: Checkpoints(folder / phase.name, keep=1),
        # The newest best may be newer than the last checkpoint after a kill: keep its forerunner.
        lambda phase: Checkpoints(folder / f"{phase.name}-best", keep=2),
    )


def committed(last) -> int:
    """Finished epochs that checkpoints vouch for, over the whole run."""
    found = [0]
    for phase in PHASES:
        with last(phase) as manager:
            if (number := manager.latest()) is not None:
                found.append(manager.metadata(number)["at"])
    return max(found)
