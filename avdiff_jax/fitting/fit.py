"""A folder of clips to trained classifiers: features, text, split, a run of the method and of each
control, and what came of them in one table."""

import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ml_collections import ConfigDict

from avdiff_jax.cli import configuration
from avdiff_jax.cli.home import command
from avdiff_jax.data.splits import split_file
from avdiff_jax.data.splits.sets import count
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError, tell_clips
from avdiff_jax.fitting.classes import check_wishes, choose_split
from avdiff_jax.fitting.controls import CONTROLS, finish_run
from avdiff_jax.fitting.sources import Settings, find_source
from avdiff_jax.inference.model import Trained, load
from avdiff_jax.io import documents
from avdiff_jax.io.files import FilePath, write_text
from avdiff_jax.methods import METHODS
from avdiff_jax.results.controls import Comparison, compare, harmonic_mean, label, weigh_clip
from avdiff_jax.results.overview import draw_overview
from avdiff_jax.results.runs import Finished
from avdiff_jax.train.workdir import FIT

CONFIG = "configs/clips.py"


class Request(TypedDict):
    """What was asked of a fit: with the first two its store was made, with the others its split."""

    clips: str  # their fingerprint
    settings: dict
    classes: NotRequired[dict]
    seed: NotRequired[int]


REQUEST = documents.Document(
    "request", Request, "choose another folder, or remove that one", "avdiff_jax.fit", 1)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """What a fit has made.

    folder: holds the store, the split, and a workdir for each method.
    runs: the finished runs by method.
    comparison: their table, and which is ahead.
    split: classes, and which clips are for what.
    notes: remarks on how classes and shots were chosen.
    minutes: that each part took which was done this time, not in an earlier call.
    """

    folder: Path
    runs: dict[str, Finished]
    comparison: Comparison
    split: Split
    notes: tuple[str, ...]
    minutes: dict[str, float]

    @property
    def best(self) -> Trained:
        """The model with the highest HM."""
        return load(self.comparison.best.workdir)

    def model(self, method: str, draw: int = 0) -> Trained:
        """The model of a method, of one draw of the shots."""
        return load(self.runs[method].workdir, draw)

    def __repr__(self):
        classes = self.split["classes"]
        return (f"Fit({self.folder}, {len(classes['base1'] + classes['novel1'])} base and "
                f"{len(classes['novel2'])} novel classes, {', '.join(self.runs)})")

    def __str__(self):
        return "\n".join([str(self.comparison), "", *describe_use(self)])


def fit(
    clips: FilePath | Sequence, classes: Sequence[str] | None = None, *, out: FilePath,
    groups: Sequence[str] | None = None, novel: Sequence[str] | None = None,
    base: Sequence[str] | None = None, shots: int | None = None, by: str | None = None,
    method: str = "avdiff_plus", seed: int = 42, overrides: Sequence[str] = (), **settings: Any,
) -> Fit:
    """Trains AV-Diff+, or another method, and the controls on clips of a user's own, and measures
    them.

    Args:
      clips: a folder or a CSV of video files (see `extract.collection.open_collection`); a folder
        of class/clip.audio.npy and class/clip.video.npy, or a manifest of such files; or a list of
        video files, or of pairs (audio, video) of arrays [tokens, features].
      classes: of a list of clips, a name each.
      out: a folder; where a fit with the same arguments was interrupted there, it goes on.
      groups: of a list of clips, such as the source video each: they are held out as a whole.
      novel, base: names of classes; default: those with too few clips to be base are novel.
      shots: of a novel class; default: what the rarest allows, up to 5.
      by: "group" or "clip", what is held out as a whole; default: groups where there are some.
      method: to be compared with the controls; it, too, may be changed when the fit goes on.
      seed: of all that is drawn.
      overrides: `--config.field=value` of the configuration.
      settings: the fields of `Settings`; of features, which do not say how many seconds a token
        lasts, `audio_seconds` and `video_seconds` are needed.

    Raises:
      UserError: anything that a user can put right.
      Stopped: after a stop signal, once the state is saved.
    """
    folder, given = Path(out), Settings(**settings)
    source, minutes = find_source(clips, classes, groups), Minutes()
    wishes = {"novel": novel, "base": base, "shots": shots, "by": by}
    request = {"clips": source.fingerprint(), "settings": given._asdict(), "classes": wishes,
               "seed": seed}
    begun = read_request(folder, request)
    store_path, split_path = folder / f"{source.name}.h5", folder / "split.json"
    if "clips" not in begun:
        if labels := source.labels():  # said before what takes long
            check_wishes(labels, **wishes, seed=seed)
        print(f"features of {source.name}")
        print(source.write(store_path, given))
        write_request(folder, request, "clips", "settings")
        minutes.note("features")
    split, notes = choose_split(open_store(store_path), **wishes, seed=seed)
    if "classes" not in begun:
        split_file.write(split, split_path)
        write_request(folder, request, *request)
        print("\n".join([split_file.report(split), *describe_test(split),
                         *(f"note: {note}" for note in notes)]))
    runs = {}
    for name in dict.fromkeys([method, *CONTROLS]):
        config = configure(name, split["shots"], seed, store_path, split_path, overrides)
        print(f"\n{name}: {folder / name}")
        was_finished = (folder / name / "results.json").exists()
        runs[name] = finish_run(config, folder / name)
        if not was_finished:
            minutes.note(name)
    comparison = compare(
        [*runs.values()], weigh_clip(split), [*describe_test(split), *notes])
    write_text(folder / "results.md", comparison.markdown())
    if method not in CONTROLS:
        control = max((runs[name] for name in CONTROLS), key=harmonic_mean)
        draw_overview(folder / method, control.workdir)
    return Fit(folder, runs, comparison, split, notes, minutes.parts)


class Minutes:
    """How long each part of a fit took."""

    def __init__(self):
        self.parts: dict[str, float] = {}
        self._started = time.monotonic()

    def note(self, part: str) -> None:
        """A part has ended, and the next begins."""
        now = time.monotonic()
        self.parts[part], self._started = (now - self._started) / 60, now


def read_request(folder: Path, request: Mapping) -> Mapping:
    """What was asked of a fit in this folder, as far as that was done; nothing of a new one.

    Raises:
      UserError: it was another request.
    """
    path, wanted = folder / FIT, documents.plain(request)
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run of launch/main.py: choose another folder")
    begun = REQUEST.read(path) if path.exists() else {}
    for name in wanted:
        if name in begun and begun[name] != wanted[name]:
            what = {"clips": "the clips are others now", "seed": "the seed is another now"}
            said = what.get(name) or differ(begun[name], wanted[name])
            raise UserError(f"{folder} holds a fit that was begun otherwise ({said}): choose "
                            f"another folder, or remove that one to begin anew")
    return begun


def write_request(folder: Path, request: Mapping, *names: str) -> None:
    """Keeps the parts of a request that are done."""
    done = {name: request[name] for name in names}
    documents.write(folder / FIT, {
        "schema": REQUEST.schema, "version": REQUEST.version, **done})


def differ(begun: Mapping, wanted: Mapping) -> str:
    """The first thing in which two parts of a request differ."""
    name = next(name for name in sorted({*begun, *wanted}) if begun.get(name) != wanted.get(name))
    return f"{name} was {begun.get(name)} and is {wanted.get(name)}"


def configure(
    method: str, shots: int, seed: int, store: Path, split: Path, overrides: Sequence[str]
) -> ConfigDict:
    """The configuration of one of the runs."""
    return configuration.resolve(f"{CONFIG}:{shots}shot,method={method}", [
        f"--config.seed={seed}", f"--config.data.store={store}", f"--config.data.split={split}",
        *overrides])


def describe_test(split: Split) -> list[str]:
    """How large the test is, what chance reaches, and which classes it leaves out."""
    classes, weight = split["classes"], weigh_clip(split)
    base, novel = split["sets"]["test_base"], split["sets"]["test_novel"][0]
    lines = [
        f"The test: {tell_clips(count(base), len(base), 'base')}, "
        f"{tell_clips(count(novel), len(novel), 'novel')}; one clip weighs up "
        f"to {weight.B:.1f} of B and {weight.N:.1f} of N. Chance of FSL: "
        f"{100 / len(classes['novel2']):.1f}."
    ]
    missing = sorted({*classes["novel2"]} - {*novel})
    if missing:
        lines.append(f"Not measured, for all clips were needed for training: {', '.join(missing)}.")
    return lines


def describe_use(made: Fit) -> list[str]:
    """The commands that use the models."""
    lines = [
        f"Look at it: {made.comparison.best.workdir / 'plots' / 'overview.png'}",
        f"Classify other clips, with {label(made.comparison.best)}:",
        f"  {command('predict')} --model {quote(made.comparison.best)} --clips FOLDER "
        "--out classes.csv",
    ]
    method = next(iter(made.runs))
    if METHODS[method].grow:
        lines += [
            f"Learn more classes, from a few clips of each, with {label(made.runs[method])}:",
            f"  {command('add_class')} --model {quote(made.runs[method])} --clips FOLDER "
            "--out bigger.npz",
        ]
    return lines


def quote(run: Finished) -> str:
    """The workdir of a run as a shell takes it."""
    return shlex.quote(str(run.workdir))
