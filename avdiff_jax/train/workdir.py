"""The folder of a run: who holds it, and its checkpoints."""

import contextlib
import json
import pathlib

from avdiff_jax.checkpoint import Checkpoints
from avdiff_jax.errors import UserError
from avdiff_jax.files import plain, write_atomically
from avdiff_jax.runs import differences
from avdiff_jax.train.substage import Phase

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
        there = json.loads(path.read_text())
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
