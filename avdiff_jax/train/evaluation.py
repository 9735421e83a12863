"""Finished models measured on test clips of any store that has their classes."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from avdiff_jax.cli.home import command
from avdiff_jax.data.admission import choose_rates
from avdiff_jax.data.class_text import match_names
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.splits import split_file, stages
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.data.splits.stages import Members, concat_members
from avdiff_jax.data.training_set import Draw
from avdiff_jax.errors import UserError
from avdiff_jax.inference.groups import score_centered
from avdiff_jax.inference.model import Trained
from avdiff_jax.io.documents import plain
from avdiff_jax.io.files import make_folder, written_to
from avdiff_jax.results import results_json
from avdiff_jax.results.overview import draw_overview
from avdiff_jax.results.panels import Classes
from avdiff_jax.runtime import devices
from avdiff_jax.train.measure import Measurement, aggregate_draws, measure_scores
from avdiff_jax.train.report import describe_data, write_confusion, write_draw, write_results


def evaluate(
    models: Mapping[int, Trained], source: ClipSource, split: Split | None, folder: Path,
    split_path: str | None = None, center_groups: bool = False,
) -> dict:
    """Measures finished models by draw; writes the files that a run writes about its test, those
    that need clips of base and novel classes only where there are both.

    Args:
      source: labelled clips.
      split: names the test clips of each draw, of which `find_unseen` leaves some out unless a
        model was trained by it; without one they are all clips of the source.
      split_path: its file, for the record; "" for no split, None where all is the run's own.
      center_groups: score as `groups.score_centered`, which looks at all test clips of a group.
      folder: made if missing; where nothing could be measured it is not left behind.

    Returns:
      the results, as in results.json.

    Raises:
      UserError: clips of unknown classes or none to test on, or a folder that cannot be made.
    """
    started = time.monotonic()
    tested = {
        draw: find_test_members(model, source, split, draw) for draw, model in models.items()
    }
    with written_to(folder), make_folder(folder):
        measurements = {
            draw: measure_model(model, source, tested[draw], center_groups)
            for draw, model in models.items()
        }
    for draw, measurement in measurements.items():
        write_draw(folder, draw, models[draw], measurement, source.clip_ids)
    model = [*models.values()][-1]
    confusion = np.sum([m.confusion for m in measurements.values()], axis=0)
    write_confusion(confusion, Classes(model.info.classes, model.info.is_base), folder)
    config = model.info.config.copy_and_resolve_references()
    if split_path is not None:
        with config.unlocked():
            config.data.store, config.data.split = source.place, split_path
    gamma = {"value": model.gamma, "on": "Val of the run, unless --gamma was given"}
    results = results_json.results_json(
        test=aggregate_draws([*measurements.values()]), validation={}, chosen={"gamma": gamma},
        config=plain(config.to_dict()), device=devices.describe(),
        timing={"wall_seconds": time.monotonic() - started},
        data=describe_data(source, model.info, stages.describe_origin(split) if split else None),
        **({"transductive": "center_groups"} if center_groups else {}),
    )
    write_results(folder, results)
    if all(m.of_both_kinds for m in measurements.values()):
        draw_overview(folder, numbers=[*models])
    return results


def measure_model(
    model: Trained, source: ClipSource, members: Members, center_groups: bool
) -> Measurement:
    """Measures a finished model on clips of a source, at its own calibration value."""
    order = np.argsort(members.clips)
    clips = source.select(members.clips[order])
    scores = np.zeros((len(order), len(model.info.classes)), np.float32)
    scores[order] = score_centered(model, clips) if center_groups else model.score_all(clips)
    return measure_scores(scores, members, model.info.is_base, model.gamma)


def find_test_members(
    model: Trained, source: ClipSource, split: Split | None, draw: int
) -> Members:
    """Finds the test clips, labelled as the model numbers its classes, without those that
    `find_unseen` leaves out. Where store, split and draw are those that a model was trained by, the
    split has said already which clips it is tested on.

    Raises:
      UserError: the model does not know one of their classes, there are none, or they have
        another rate.
    """
    table = source.labelled()
    choose_rates(source, model.usual)  # before anything is read
    if split is None:
        clips, names, labels = np.arange(len(source)), table.class_names, table.labels
    else:
        stage = stages.stage(split, table, 2)
        if not 0 <= draw < len(stage.eval_novel):
            raise UserError(f"--draw={draw}: the split {split['name']!r} has the draws "
                            f"0..{len(stage.eval_novel) - 1}")
        clips, labels = concat_members(stage.eval_base, stage.eval_novel[draw])
        names = stage.class_names
    labels = number_classes(model, source, names, labels)
    if not is_of_run(model, source, split, draw):
        unseen = model.find_unseen(source, clips)
        clips, labels = clips[unseen], labels[unseen]
    if not len(clips):
        raise UserError(f"there is no test clip in {source.place}: name another store or split")
    return Members(clips, labels)


def is_of_run(model: Trained, source: ClipSource, split: Split | None, draw: int) -> bool:
    """Whether store, split and draw are those that a model was trained by."""
    if split is None or model.trained_on is None:
        return False
    return model.trained_on.draw == Draw(source.identity, split_file.fingerprint(split), draw)


def number_classes(
    model: Trained, source: ClipSource, names: Sequence[str], labels: np.ndarray
) -> np.ndarray:
    """The labels [n] of clips, into `names`, as the model numbers its classes.

    Raises:
      UserError: the model does not know one of them.
    """
    used = [str(names[label]) for label in np.unique(labels)]
    spelled = match_names(used, model.info.classes)
    if unknown := [name for name in used if name not in spelled]:
        raise UserError(
            f"the model does not know {unknown[0]!r} ({len(unknown)} of the {len(used)} classes to "
            f"test, which {source.place} has): add it with `{command('add_class')}`, or name "
            "another store or split"
        )
    number = {name: model.info.classes.index(known) for name, known in spelled.items()}
    return np.array([number.get(str(name), -1) for name in names], np.int32)[labels]
