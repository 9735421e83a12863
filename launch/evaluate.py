"""Numbers, tables and plots of a finished run or of one model, on test clips.

    python launch/evaluate.py --model runs/own-5shot --out evaluation
    python launch/evaluate.py --model runs/own-5shot --store data/other.h5 --out evaluation
    python launch/evaluate.py --model bigger.npz --store data/mine.h5 --split mine-5shot.json \\
        --out evaluation

Without --store the store and split are the run's own, and scores, tables and plots are those that
the run wrote. With a store alone all its clips are test clips, but those that the model was trained
on; its classes must be known to the model.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dataclasses
from argparse import Namespace
from typing import NamedTuple

from avdiff_jax.cli.flags import Parser, check_outputs, finite
from avdiff_jax.data import clip_source
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.splits import split_file
from avdiff_jax.data.splits.sets import DRAWS
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.inference.model import Trained, load, model_file
from avdiff_jax.inference.sources import open_source
from avdiff_jax.results import run_table
from avdiff_jax.runtime import devices
from avdiff_jax.train import evaluation
from avdiff_jax.train.run_data import open_run_data


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_argument("--model", required=True, help="workdir of a run, or a model file")
    p.add_clips(required=False)
    p.add_argument("--split", metavar="FILE.json", help="names the test clips")
    p.add_argument("--draw", type=int, help="one draw of the few shots; default: all of a run, "
                                            "that of a model file")
    p.add_argument("--gamma", type=finite, help="default: chosen on Val")
    p.add_center_groups()
    p.add_output("DIR", "a folder for the files")
    return p


def models(args) -> dict[int, Trained]:
    """The models to measure, by draw."""
    path = pathlib.Path(args.model)
    if args.draw is None and path.is_dir():
        draws = [d for d in range(DRAWS) if model_file(path, d).exists()] or [0]
        loaded = {draw: load(path, draw) for draw in draws}
    else:
        model = load(path, args.draw or 0)
        trained_by = model.trained_on.draw if model.trained_on else None
        own = trained_by.number if trained_by else 0
        loaded = {own if args.draw is None else args.draw: model}
    if args.gamma is not None:
        loaded = {d: dataclasses.replace(m, gamma=args.gamma) for d, m in loaded.items()}
    return loaded


class Data(NamedTuple):
    """The clips and the split to measure on, and the file of the split: "" for no split, None
    where all is the run's own."""

    source: ClipSource
    split: split_file.Split | None
    split_path: str | None


def find_data(args: Namespace, model: Trained) -> Data:
    """What the flags name, or the run's own."""
    if args.clips or args.store or args.npz or args.manifest:
        split = split_file.load(args.split) if args.split else None
        return Data(open_source(args, model), split, args.split or "")
    if args.split or not pathlib.Path(args.model).is_dir():
        raise UserError("name the test clips with --clips, --store, --npz or --manifest too: "
                        "only a workdir has its own")
    store, split = open_run_data(model.info.config, pathlib.Path(args.model))
    return Data(clip_source.of_store(store), split, None)


def main(argv=None):
    """Measures, writes and prints the table."""
    with one_sentence():
        args = parser().parse_args(argv)
        check_outputs(args, pathlib.Path(args.out, "results.json"))
        loaded = models(args)
        devices.configure()
        data = find_data(args, next(iter(loaded.values())))
        outcome = evaluation.evaluate(
            loaded, data.source, data.split, pathlib.Path(args.out), data.split_path,
            args.center_groups,
        )
        print(f"{run_table.plain(outcome)}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
