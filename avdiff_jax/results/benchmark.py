"""Methods x shots x data sets x class splits x seeds: which runs that is."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from avdiff_jax.cli import configuration
from avdiff_jax.cli.choices import OF_FIELD, OF_WORD, find_usual_value
from avdiff_jax.cli.flags import OVERRIDE
from avdiff_jax.data.of_config import find_store
from avdiff_jax.data.splits import from_store, split_file
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import plain
from avdiff_jax.methods import METHODS, check, reads
from avdiff_jax.methods import method as find_method
from avdiff_jax.methods.without_text import settle_text
from avdiff_jax.results.results_json import dataset
from avdiff_jax.results.runs import ROWS, Key, Setting

# What the axes of the benchmark set, and the flag to use in place of an override.
AXES = {"seed": "--seeds", "shots": "--shots", "method": "--methods"}
SPLIT = "data.split"


class Run(NamedTuple):
    """One run: the row it belongs to, its seed, and what to call launch/main.py with.

    flags: --config and its overrides. config: what they resolve to, plain and nested. split: number
    of the class split of `ClassSplits`, if any.
    """

    key: Key
    seed: int
    flags: tuple[str, ...]
    config: dict
    workdir: Path
    split: int | None = None

    def __str__(self):
        split = "" if self.split is None else f" split {self.split}"
        return f"{self.key.dataset} {self.key.shots}-shot {self.key.label}{split} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run printed: beside the workdir."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    def arguments(self, resume: bool = False) -> list[str]:
        """For launch/main.py."""
        return [*self.flags, f"--workdir={self.workdir}", *(["--resume"] if resume else [])]


class ClassSplits(NamedTuple):
    """Class splits of a store that the splitter makes from the seeds 0 to count - 1.

    base, novel1, novel2: counts or fractions of classes, as `from_store.make_split` takes them.
    """

    count: int
    base: int | float = 0.5
    novel1: int | float = 0.25
    novel2: int | float = 0.25

    def path(self, root: Path, name: str, shots: int, number: int) -> Path:
        """Where the file of a split lies: all rows of a data set and shots share it."""
        sizes = "-".join(f"{size:g}" for size in self[1:])
        return root / "splits" / f"{name}-{shots}shot-{sizes}" / f"split{number}.json"

    def make(self, runs: Iterable[Run]) -> list[Path]:
        """Makes the splits that `runs` need and that are not there yet; returns their paths.

        Raises:
          UserError: there is no such store, or it cannot be split so.
        """
        made = []
        for run in runs:
            path = Path(run.config["data"]["split"])
            if run.split is None or path.exists():
                continue
            split = from_store.make_split(
                open_store(find_store(ConfigDict(run.config))), run.key.shots, run.split,
                base=self.base, novel1=self.novel1, novel2=self.novel2,
            )
            split_file.write(split, path)
            made.append(path)
        return made


# ---------------------------------------------------------------------------- which rows


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

    Args:
      methods: names; name=value behind one is its setting, as tables write it:
        avdiff, avdiff, generator=none are two rows.
      variants: name=value each, added for the methods that read the field.

    Raises:
      UserError: an unknown method, a setting without one, or a variant that no method has.
    """
    rows: list[tuple[str, Setting]] = []
    for before, text in zip(["", *methods], methods, strict=False):
        if "=" not in text:
            rows += ROWS if text == "all" else [_row(text)]
            continue
        if before in ("", "all"):
            raise UserError(f"{text} is a setting of no method: write avdiff,{text}")
        method, departures = rows.pop()
        rows.append((method, _sorted({**dict(departures), **dict(_departure(text, method))})))
    for text in variants:
        plain_rows = [method for method, departures in rows if not departures]
        field = _field(text)
        having = [method for method in plain_rows if reads(method, field)]
        if not having:
            raise UserError(
                f"variant {text} means nothing to {', '.join(plain_rows)}: it is for "
                f"{', '.join(method for method in METHODS if reads(method, field))}"
            )
        rows += [(method, _departure(text, method)) for method in having]
    return list(dict.fromkeys(rows))


def _row(name: str) -> tuple[str, Setting]:
    find_method(name)
    return name, ()


def _field(text: str) -> str:
    """The field of the configuration that name=value sets."""
    ((name, _),) = setting(text)
    return OF_WORD[name].field if name in OF_WORD else name


def _departure(text: str, method: str) -> Setting:
    """What name=value is among the departures of a row: nothing where it is the usual value."""
    ((name, value),) = setting(text)
    usual = name in OF_WORD and value == find_usual_value(OF_WORD[name].field, method)
    return () if usual else ((name, value),)


def _sorted(departures: Mapping[str, str]) -> Setting:
    """In the order of the rows of finished runs: choices, then other fields."""
    return tuple(sorted(departures.items(), key=lambda pair: (pair[0] not in OF_WORD, pair)))


# ---------------------------------------------------------------------------- which runs


def grid(
    *,
    configs: Sequence[str],
    methods: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    root: str | Path,
    variants: Sequence[str] = (),
    overrides: Sequence[str] = (),
    splits: ClassSplits | None = None,
) -> list[Run]:
    """Every run of the benchmark; all rows of a data set, shots and split with a seed come
    together.

    Args:
      configs: paths of configuration files, one for each data set, without words.
      overrides: `--config.x.y=v` for every run whose method reads the field; `{shots}` in one
        stands for the run's shots.
      root: holds DATASET-Kshot/METHOD/seedS, or splitN-seedS.

    Raises:
      UserError: something in it cannot be run, or two configurations are the same data set.
    """
    fields = {text.removeprefix(OVERRIDE).partition("=")[0]: text for text in overrides}
    for name in {*fields} & {*AXES, *([SPLIT] if splits else [])}:
        raise UserError(f"{fields[name]}: use {AXES.get(name, 'either it or --splits')}")
    runs, files = [], {}
    wanted = rows(methods, variants)
    numbers = range(splits.count) if splits else [None]
    for file, k, number, seed in itertools.product(configs, shots, numbers, seeds):
        if ":" in file:
            raise UserError(f"--config={file}: leave out the words, they come from other flags")
        for method, departures in wanted:
            mine = [text for text in overrides if not _is_for_others(text, method, wanted)]
            run = _run(file, k, seed, method, departures, mine, Path(root))
            if splits and number is not None:
                run = _on_split(run, number, splits, Path(root))
            if files.setdefault(run.key.dataset, file) != file:
                raise UserError(
                    f"{files[run.key.dataset]} and {file} are both dataset={run.key.dataset}: "
                    "benchmark them with one command each and another --config.dataset"
                )
            # A variant that sets the usual value is the same run as the row without it.
            if all(run.config != other.config for other in runs):
                runs.append(run)
    return runs


def _on_split(run: Run, number: int, splits: ClassSplits, root: Path) -> Run:
    """The run on a class split."""
    data = run.config["data"]
    if data["synthetic"]["classes"] and not data["store"]:
        raise UserError("--splits needs a store: name one with --config.data.store")
    path = str(splits.path(root, run.key.dataset, run.key.shots, number))
    return run._replace(
        flags=(*run.flags, f"{OVERRIDE}{SPLIT}={path}"),
        config={**run.config, "data": {**data, "split": path}},
        workdir=run.workdir.with_name(f"split{number}-{run.workdir.name}"), split=number,
    )


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
