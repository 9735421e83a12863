"""The folder of a run: its configuration, the record of stage 1, its checkpoints."""

import contextlib
import dataclasses
import errno
import pathlib
from collections.abc import Iterator
from typing import NotRequired, TypedDict

from ml_collections import ConfigDict

from avdiff_jax.cli import configuration
from avdiff_jax.cli.alternatives import count_alternatives
from avdiff_jax.errors import UserError
from avdiff_jax.io import documents
from avdiff_jax.runtime.checkpoint import Checkpoints
from avdiff_jax.train.records import Phase, Stage1Record

FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
DRAWS = (0, 1, 2, None)
TRIALS = range(count_alternatives() + 1)  # 0: no field is open
PHASES = (
    Phase(1, 1), *(Phase(1, 2, trial=trial) for trial in TRIALS), Phase(2, 1),
    *(Phase(2, 2, draw) for draw in DRAWS),
)


class ChoiceContent(TypedDict):
    """A `SubstageChoice` as JSON."""

    epochs: int
    cuts: list[int]
    measured: dict[str, float]
    seconds: float


class TrialContent(TypedDict):
    """A `Trial` as JSON."""

    filled: dict[str, str]
    ausuc: float


class RecordContent(TypedDict):
    """A `Stage1Record` as JSON."""

    substage1: ChoiceContent
    substage2: ChoiceContent
    gamma: float
    at: int
    temperature: NotRequired[float | None]
    trials: NotRequired[list[TrialContent]]


FIT = "fit.json"  # of a folder that launch/fit.py made

RECORD = documents.Document(
    "record", RecordContent,
    "delete it and go on with --resume, which makes it again from the checkpoints", version=1,
)


def claim(workdir: pathlib.Path, config: ConfigDict, resume: bool) -> None:
    """Begins a run in a workdir, or takes up one of the same configuration.

    Raises:
      UserError: it holds a run and `resume` is off; or its configuration differs.
    """
    path = workdir / "config.json"
    wanted = documents.plain(config.to_dict())
    if (workdir / FIT).exists():
        raise UserError(f"{workdir} holds a fit, whose runs lie in it: choose another --workdir")
    if path.exists():
        if not resume:
            raise UserError(
                f"{workdir} already holds a run: add --resume to go on with it, or choose "
                "another --workdir"
            )
        begun = configuration.read_recorded(path)
        for name, (ours, theirs) in configuration.differences(wanted, begun).items():
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
    documents.write(path, wanted)


@contextlib.contextmanager
def claim_workdir(workdir: pathlib.Path, config: ConfigDict, resume: bool) -> Iterator[None]:
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
def writable(workdir: pathlib.Path) -> Iterator[None]:
    """A disk that fills up or fails while the block runs is a sentence."""
    try:
        yield
    except (OSError, UserError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in FAILING:
            raise
        raise UserError(
            f"cannot write to --workdir={workdir}: {cause.strerror}; make space or mend it, then "
            "go on from the last checkpoint with --resume"
        ) from error


def write_record(workdir: pathlib.Path, record: Stage1Record) -> None:
    """Keeps what stage 1 has chosen."""
    documents.write(workdir / "stage1.json", {"version": RECORD.version, **record.to_json()})


def read_record(workdir: pathlib.Path) -> Stage1Record | None:
    """Reads what stage 1 has chosen; None where it has not finished.

    Raises:
      UserError: the file is damaged or of another version.
    """
    path = workdir / "stage1.json"
    return Stage1Record.from_json(RECORD.read(path)) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class PhaseCheckpoints:
    """Opens the checkpoints of a phase, of which `keep` stay, by calling it."""

    folder: pathlib.Path
    suffix: str
    keep: int

    def __call__(self, phase: Phase) -> Checkpoints:
        """Opens those of `phase`; their folder is made if absent."""
        return Checkpoints(self.folder / f"{phase.name}{self.suffix}", self.keep)

    def exist(self, phase: Phase) -> bool:
        """Whether there is one of `phase`; makes nothing."""
        folder = self.folder / f"{phase.name}{self.suffix}"
        return any(path.name.isdigit() for path in folder.glob("*"))


def open_checkpoints(workdir: pathlib.Path) -> tuple[PhaseCheckpoints, PhaseCheckpoints]:
    """Returns what opens the last checkpoints of a phase, and what opens its best ones."""
    folder = workdir / "checkpoints"
    # The newest best may be newer than the last checkpoint after a kill: keep its forerunner.
    return PhaseCheckpoints(folder, "", keep=1), PhaseCheckpoints(folder, "-best", keep=2)


def count_committed_epochs(last: PhaseCheckpoints) -> int:
    """Returns how many finished epochs checkpoints vouch for, over the whole run."""
    epochs = [0]
    for phase in filter(last.exist, PHASES):
        with last(phase) as manager:
            if (number := manager.latest()) is not None:
                epochs.append(manager.metadata(number)["at"])
    return max(epochs)
