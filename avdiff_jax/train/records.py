"""Where a run stands and what it has chosen, as values that are kept as JSON."""

import dataclasses
from typing import Any, NamedTuple


class Phase(NamedTuple):
    """Where in the protocol: stage 1 or 2, substage 1 or 2, draw of the shots, None for all draws
    side by side; and where stage 1 tries what open fields may hold, which trial, from 1."""

    stage: int
    substage: int
    draw: int | None = 0
    trial: int = 0

    @property
    def name(self) -> str:
        """Folder of its checkpoints and prefix of its curves."""
        draw = "-draws" if self.draw is None else f"-draw{self.draw}"
        of_draw = (self.stage, self.substage) == (2, 2)
        trial = f"-trial{self.trial}" if self.trial else ""
        return f"stage{self.stage}-substage{self.substage}{draw if of_draw else trial}"


@dataclasses.dataclass(frozen=True)
class SubstageRecord:
    """Where the training of a substage stands; a checkpoint holds it beside the state.

    run_epochs: finished epochs over the whole run.
    epoch, step: where training goes on.
    steps: of a dispatch, the same over the substage, so that a resumed run makes the same cuts.
    best_epoch, best: 1-based epoch with the highest selection score and what was measured there.
    cuts: epochs after which the rate was cut.
    stalled, plateau: epochs without gain and the score they are held against.
    sums: metrics of the dispatches of an unfinished epoch.
    seconds: spent in training.
    last: mean metrics of the last finished epoch.
    """

    run_epochs: int
    epoch: int = 0
    step: int = 0
    steps: int | None = None
    best_epoch: int = 0
    best: dict[str, float] | None = None
    cuts: tuple[int, ...] = ()
    stalled: int = 0
    plateau: float | None = None
    sums: dict[str, float] | None = None
    seconds: float = 0.0
    last: dict[str, float] | None = None
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the metadata of a checkpoint; `run_epochs` is called `at` there, as in the lines
        of metrics.jsonl."""
        fields = dataclasses.asdict(self)
        return {"at": fields.pop("run_epochs"), **fields, "cuts": list(self.cuts)}

    @classmethod
    def from_json(cls, metadata: dict[str, Any]) -> "SubstageRecord":
        """Reads what `to_json` made."""
        fields = dict(metadata)
        return cls(run_epochs=fields.pop("at"), cuts=tuple(fields.pop("cuts")), **fields)


@dataclasses.dataclass(frozen=True)
class SubstageChoice:
    """What a substage of stage 1 has chosen on Val.

    epochs: how many to train for.
    cuts: epochs before the last of them after which the rate is cut.
    measured: on Val, after these epochs.
    seconds: that it took, with the epochs that were too many.
    """

    epochs: int
    cuts: tuple[int, ...]
    measured: dict[str, float]
    seconds: float

    @classmethod
    def of(cls, record: SubstageRecord) -> "SubstageChoice":
        """Takes the best epoch of a finished substage."""
        epochs = record.best_epoch
        cuts = tuple(epoch for epoch in record.cuts if epoch < epochs)
        return cls(epochs, cuts, record.best or {}, record.seconds)

    @classmethod
    def from_json(cls, part: dict[str, Any]) -> "SubstageChoice":
        """Reads a part of stage1.json."""
        return cls(part["epochs"], tuple(part["cuts"]), part["measured"], part["seconds"])


class Trial(NamedTuple):
    """A way of filling the open fields of the configuration, by dotted name, and the AUSUC on Val
    that it led to: on few clips it is surer than HM, which hangs on one calibration value."""

    filled: dict[str, str]
    ausuc: float


@dataclasses.dataclass(frozen=True)
class Stage1Record:
    """What stage 1 has chosen: stage 2 trains by it, and the result file tells it.

    gamma: the calibration value.
    run_epochs: finished epochs over the whole run.
    temperature: of the probabilities; None in the records of earlier versions.
    trials: what was tried for open fields, the chosen one first; stage 2 takes it.
    """

    substage1: SubstageChoice
    substage2: SubstageChoice
    gamma: float
    run_epochs: int
    temperature: float | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def filled(self) -> dict[str, str]:
        """What the open fields hold from now on, by dotted name; empty where none was open."""
        return self.trials[0].filled if self.trials else {}

    def to_json(self) -> dict[str, Any]:
        """Returns the content of stage1.json, without its version."""
        fields = dataclasses.asdict(self)
        trials = [trial._asdict() for trial in self.trials]
        return {"at": fields.pop("run_epochs"), **fields, "trials": trials}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Stage1Record":
        """Reads what `to_json` made."""
        return cls(
            SubstageChoice.from_json(content["substage1"]),
            SubstageChoice.from_json(content["substage2"]),
            content["gamma"], content["at"], content.get("temperature"),
            tuple(Trial(**trial) for trial in content.get("trials", ())),
        )
