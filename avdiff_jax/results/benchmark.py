"""Methods x shots x data sets x seeds: which runs that is, how far each is, and doing the rest."""

import itertools
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from avdiff_jax.cli import configuration
from avdiff_jax.cli.choices import OF_FIELD, OF_WORD
from avdiff_jax.cli.flags import OVERRIDE
from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import plain
from avdiff_jax.methods import METHODS, check, reads
from avdiff_jax.methods import method as find_method
from avdiff_jax.methods.without_text import settle_text
from avdiff_jax.results.results_json import dataset, read_results
from avdiff_jax.results.runs import ROWS, Finished, Key, Setting
from avdiff_jax.runtime.progress import Progress

# What the axes of the benchmark set, and the flag to use in place of an override.
AXES = {"seed": "--seeds", "shots": "--shots", "method": "--methods"}


class Run(NamedTuple):
    """One run: the row it belongs to, its seed, and what to call launch/main.py with.

    flags: --config and its overrides. config: what they resolve to, plain and nested.
    """

    key: Key
    seed: int
    flags: tuple[str, ...]
    config: dict
    workdir: Path

    def __str__(self):
        return f"{self.key.dataset} {self.key.shots}-shot {self.key.label} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run printed: beside the workdir."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    def arguments(self, resume: bool = False) -> list[str]:
        """For launch/main.py."""
        return [*self.flags, f"--workdir={self.workdir}", *(["--resume"] if resume else [])]


class Failure(NamedTuple):
    """A run that ended with another exit code than 0, and the last line that it printed."""

    run: Run
    code: int
    reason: str


# ---------------------------------------------------------------------------- which runs


def setting(text: str) -> Setting:
    """"generator=none" -> (("generator", "none"),), "" -> ().

    Raises:
      UserError: it is not of the form name=value, or names no choice and no field.
    """
    if not text:
        return ()
    name, _, value = text.partition("=")
    if not value or (name not in OF_WORD and "." not in name):
        raise UserError(
            f"variant {text!r} is not one of {', '.join(OF_WORD)} or a field such as "
            "diffusion.steps, followed by =value"
        )
    choice = OF_FIELD.get(name)
    return ((choice.word if choice and choice.word else name, value),)


def rows(methods: Sequence[str], variants: Sequence[str] = ()) -> list[tuple[str, Setting]]:
    """(method, setting) of each row: "all" is every method and control; a variant adds rows.

    A variant is added for the methods that read its field.

    Raises:
      UserError: an unknown method, or a variant that no method has.
    """
    rows = [row for name in methods for row in (ROWS if name == "all" else [_row(name)])]
    for text in variants:
        ((name, value),) = setting(text)
        plain_rows = [method for method, departures in rows if not departures]
        field = OF_WORD[name].field if name in OF_WORD else name
        having = [method for method in plain_rows if reads(method, field)]
        if not having:
            raise UserError(
                f"variant {text} means nothing to {', '.join(plain_rows)}: it is for "
                f"{', '.join(method for method in METHODS if reads(method, field))}"
            )
        usual = name in OF_WORD and value == OF_WORD[name].usual
        rows += [(method, () if usual else ((name, value),)) for method in having]
    return list(dict.fromkeys(rows))


def _row(name: str) -> tuple[str, Setting]:
    find_method(name)
    return name, ()


def grid(
    *,
    configs: Sequence[str],
    methods: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    root: str | Path,
    variants: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> list[Run]:
    """Every run of the benchmark; all rows of a data set and shots with a seed come together.

    Args:
      configs: paths of configuration files, one for each data set, without words.
      overrides: `--config.x.y=v` for every run whose method reads the field; `{shots}` in one
        stands for the run's shots.
      root: holds DATASET-Kshot/METHOD/seedS.

    Raises:
      UserError: something in it cannot be run, or two configurations are the same data set.
    """
    for text in overrides:
        name = text.removeprefix(OVERRIDE).partition("=")[0]
        if name in AXES:
            raise UserError(f"{text}: use {AXES[name]}")
    runs, files = [], {}
    wanted = rows(methods, variants)
    for file, k, seed in itertools.product(configs, shots, seeds):
        if ":" in file:
            raise UserError(f"--config={file}: leave out the words, they come from other flags")
        for method, departures in wanted:
            mine = [text for text in overrides if not _is_for_others(text, method, wanted)]
            run = _run(file, k, seed, method, departures, mine, Path(root))
            if files.setdefault(run.key.dataset, file) != file:
                raise UserError(
                    f"{files[run.key.dataset]} and {file} are both dataset={run.key.dataset}: "
                    "benchmark them with one command each and another --config.dataset"
                )
            # A variant that sets the usual value is the same run as the row without it.
            if all(run.config != other.config for other in runs):
                runs.append(run)
    return runs


def _is_for_others(override: str, method: str, wanted: Iterable[tuple[str, Setting]]) -> bool:
    """Tells whether other rows read the field of an override, and this method does not."""
    field = override.removeprefix(OVERRIDE).partition("=")[0]
    return not reads(method, field) and any(reads(other, field) for other, _ in wanted)


def _run(
    file: str, shots: int, seed: int, method: str, departures: Setting, overrides: Sequence[str],
    root: Path,
) -> Run:
    words = [f"{shots}shot", f"method={method}"]
    fields = [text.replace("{shots}", str(shots)) for text in overrides]
    for name, value in departures:
        if name in OF_WORD:
            words.append(f"{name}={value}")
        else:
            fields.append(f"--config.{name}={value}")
    name, fields = f"{file}:{','.join(words)}", [*fields, f"--config.seed={seed}"]
    resolved = configuration.resolve(name, fields)
    check(resolved, configuration.resolve(name))
    resolved, _ = settle_text(resolved)
    config = plain(resolved)
    key = Key(dataset(config), shots, method, departures)
    folder = root / f"{key.dataset}-{shots}shot" / key.label.replace(",", "-") / f"seed{seed}"
    return Run(key, seed, (f"--config={name}", *fields), config, folder)


# ------------------------------------------------------------------------- how far each is


def state(run: Run) -> str:
    """"done", "interrupted" or "missing".

    Raises:
      UserError: the workdir holds a run of another configuration.
    """
    there = None
    if (run.workdir / "results.json").exists():
        reached, there = "done", read_results(run.workdir)["config"]
    elif (run.workdir / "config.json").exists():
        reached, there = "interrupted", configuration.read_recorded(run.workdir / "config.json")
    else:
        return "missing"
    for name, (ours, theirs) in configuration.differences(run.config, there).items():
        raise UserError(
            f"{run.workdir} was run with {name}={theirs}, now {ours} is asked for: use the same "
            "value, or another --root"
        )
    return reached


def plan(runs: Sequence[Run]) -> str:
    """What would happen, one line a run with its command line, and how many there are of each."""
    verbs = {"done": "skip   ", "interrupted": "resume ", "missing": "run    "}
    lines, counts = [], Counter()
    for run in runs:
        reached = state(run)
        counts[reached] += 1
        call = f"python launch/main.py {' '.join(run.arguments(reached == 'interrupted'))}"
        lines.append(f"{verbs[reached]} {run}")
        lines += [] if reached == "done" else [f"          {call}"]
    total = ", ".join([f"{counts['missing']} to do", f"{counts['interrupted']} interrupted",
                       f"{counts['done']} done"])
    lines.append(f"{len(runs)} runs: {total}")
    return "\n".join(lines)


# ----------------------------------------------------------------------------- doing the rest


def execute(
    runs: Sequence[Run], start: Callable[[Sequence[str], Path], int],
    progress: type[Progress] = Progress
) -> list[Failure]:
    """Runs what is missing and goes on with what was interrupted; returns what failed.

    A run that fails does not keep the rest from running.

    Args:
      start: takes the arguments of launch/main.py and a log file, returns the exit code.
    """
    states = [state(run) for run in runs]  # complain before anything is run
    todo = [(run, reached) for run, reached in zip(runs, states, strict=True) if reached != "done"]
    failures = []
    with progress(len(todo), "benchmark") as bar:
        for run, reached in todo:
            bar.step(0, note=str(run))
            run.log.parent.mkdir(parents=True, exist_ok=True)
            code = start(run.arguments(reached == "interrupted"), run.log)
            if code == 0 and not (run.workdir / "results.json").exists():
                code = 1
            if code != 0:
                failures.append(Failure(run, code, _last_line(run.log)))
            bar.step(1, note=f"{run} failed" if code else str(run))
    return failures


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def start_process(command: Sequence[str], arguments: Sequence[str], log: Path) -> int:
    """Runs a command, its output appended to a log; a stop signal to us lets it save first."""
    with log.open("ab") as file, subprocess.Popen(
        [*command, *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
    ) as child:
        try:
            return child.wait()
        except BaseException:
            # Ctrl-C in a terminal reaches the child by itself; SIGTERM on top of it is harmless.
            child.terminate()
            child.wait()
            raise


def failure_report(failures: Sequence[Failure]) -> str:
    """One line for each failed run, with the place of its log."""
    lines = [f"failed (exit {f.code}): {f.run}: {f.reason} [{f.run.log}]" for f in failures]
    return "\n".join(lines)


def finished(runs: Sequence[Run]) -> dict[Key, list[Finished]]:
    """The finished runs of each row; a row without any is there too."""
    cells: dict[Key, list[Finished]] = {run.key: [] for run in runs}
    for run in runs:
        if (run.workdir / "results.json").exists():
            cells[run.key].append(Finished(run.workdir, read_results(run.workdir)))
    return cells
