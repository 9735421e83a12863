"""Finished models measured on test clips of any store that has their classes."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.splits import stages
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.data.splits.stages import Members, concat_members
from avdiff_jax.errors import UserError
from avdiff_jax.inference.model import Trained
from avdiff_jax.io.documents import plain
from avdiff_jax.io.files import make_folder, written_to
from avdiff_jax.results import results_json
from avdiff_jax.runtime import devices
from avdiff_jax.train.measure import Measurement, aggregate_draws, measure_scores
from avdiff_jax.train.report import describe_data, write_confusion, write_draw, write_results


def evaluate(
    models: Mapping[int, Trained], source: ClipSource, split: Split | None, folder: Path
) -> dict:
    """Measures finished models by draw; writes the files that a run writes about its test.

    Args:
      source: labelled clips.
      split: names the test clips of each draw; without one they are all clips of the source but
        those that a model was trained on.
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
            draw: measure_model(model, source, tested[draw]) for draw, model in models.items()
        }
    for draw, measurement in measurements.items():
        write_draw(folder, draw, models[draw], measurement, source.clip_ids)
    model = [*models.values()][-1]
    confusion = np.sum([m.confusion for m in measurements.values()], axis=0)
    write_confusion(confusion, model.info.classes, folder)
    gamma = {"value": model.gamma, "on": "Val of the run, unless --gamma was given"}
    results = results_json.results_json(
        test=aggregate_draws([*measurements.values()]), validation={}, chosen={"gamma": gamma},
        config=plain(model.info.config.to_dict()), device=devices.describe(),
        timing={"wall_seconds": time.monotonic() - started},
        data=describe_data(source, model.info, stages.describe_origin(split) if split else None),
    )
    write_results(folder, results)
    return results


def measure_model(model: Trained, source: ClipSource, members: Members) -> Measurement:
    """Measures a finished model on clips of a source, at its own calibration value."""
    order = np.argsort(members.clips)
    scores = np.zeros((len(order), len(model.info.classes)), np.float32)
    scores[order] = model.score_all(source.select(members.clips[order]))
    return measure_scores(scores, members, model.info.is_base, model.gamma)


def find_test_members(
    model: Trained, source: ClipSource, split: Split | None, draw: int
) -> Members:
    """Finds the test clips, labelled as the model numbers its classes.

    Raises:
      UserError: the model does not know one of their classes, or they are all of one kind.
    """
    table = source.labelled()
    if split is None:
        trained_on = model.examples.clips if model.examples else ()
        clips = np.flatnonzero(~np.isin(source.clip_ids, trained_on))
        names, labels = table.class_names, table.labels[clips]
    else:
        stage = stages.stage(split, table, 2)
        clips, labels = concat_members(stage.eval_base, stage.eval_novel[draw])
        names = stage.class_names
    number = {name.casefold(): i for i, name in enumerate(model.info.classes)}
    used = [names[label] for label in np.unique(labels)]
    if unknown := [str(name) for name in used if name.casefold() not in number]:
        raise UserError(
            f"the model does not know {unknown[0]!r} ({len(unknown)} of the {len(used)} classes to "
            f"test, which {source.place} has): add it with launch/add_class.py, or name another "
            "store or split"
        )
    labels = np.array([number.get(name.casefold(), -1) for name in names], np.int32)[labels]
    base = int(model.info.is_base[labels].sum())
    if not 0 < base < len(labels):
        raise UserError(
            f"there are {base} test clips of base and {len(labels) - base} of novel classes in "
            f"{source.place}, but both kinds are needed: name another store or split"
        )
    return Members(clips, labels)
