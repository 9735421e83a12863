"""Classes of unlabelled clips, by a trained model, as a CSV.

    python launch/predict.py --model runs/own-5shot --store data/new.h5 --out classes.csv
    python launch/predict.py --model model.npz --manifest clips.csv --top 3 --out classes.csv
    python launch/predict.py --model model.npz --npz new.npz --audio-key m1 --video-key m2 \\
        --out classes.csv

A row holds the clip's id, whether the best class is a base one, a novel one of the run (known from
few clips) or an added one, and the best classes with their probabilities. Clips are streamed:
memory does not grow with their number, but for the scores under --center-groups, which looks at all
clips of a group. The CSV appears when it is complete.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import csv
import time
from collections.abc import Iterator

import numpy as np

from avdiff_jax.cli.flags import Parser
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.errors import UserError, note, one_sentence
from avdiff_jax.inference import model as models
from avdiff_jax.inference.groups import score_centered
from avdiff_jax.inference.sources import open_source
from avdiff_jax.io.files import draft
from avdiff_jax.results import plots
from avdiff_jax.results.panels import Classes
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.progress import Progress

DRAWN = 80


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_model()
    p.add_clips()
    p.add_center_groups()
    p.add_argument("--top", type=int, default=1, help="classes a clip")
    p.add_output("FILE.csv", "where the classes go")
    p.add_output("FILE.png", f"a picture of the first {DRAWN} clips", flag="--plot",
                 required=False)
    return p


def score_pieces(
    model: models.Trained, source: ClipSource, center_groups: bool, progress: Progress
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Clip ids and scores [n, C], piece by piece; all in one piece where groups are centred."""
    if center_groups:
        yield source.clip_ids.tolist(), score_centered(model, source, progress.step)
        return
    for ids, scores in model.scored(source):
        yield ids, scores
        progress.step(len(ids))


def main(argv=None):
    """Writes the CSV and says how fast."""
    with one_sentence():
        args = parser().parse_args(argv)
        model = models.load(args.model, args.draw)
        devices.configure()
        if not 1 <= args.top <= len(model.info.classes):
            raise UserError(f"--top={args.top} must lie in 1..{len(model.info.classes)}, the "
                            "number of classes")
        source = open_source(args, model)
        if model.temperature is None:
            note("the model was not calibrated on validation clips, so its probabilities are its "
                 "scores after gamma, scaled to sum to 1")
        started, done, drawn = time.monotonic(), 0, []
        columns = [f"{what}{i + 1}" for i in range(args.top) for what in ("class", "probability")]
        with draft(args.out) as scratch, open(scratch, "w", newline="", encoding="utf-8") as file, \
                Progress(len(source), "predict") as progress:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["clip_id", "kind", *columns])
            for ids, scores in score_pieces(model, source, args.center_groups, progress):
                for clip, labels, p in zip(ids, *model.best(scores, args.top), strict=True):
                    row = [clip, model.kinds[labels[0]]]
                    for label, probability in zip(labels, p, strict=True):
                        row += [model.info.classes[label], f"{probability:.4f}"]
                    table.writerow(row)
                if done < DRAWN:
                    drawn.append(model.probabilities(scores[: DRAWN - done]))
                done += len(ids)
        seconds = time.monotonic() - started
        if args.plot:
            shown = np.concatenate(drawn)
            classes = Classes(model.info.classes, model.info.is_base)
            ids = source.clip_ids[: len(shown)].tolist()
            plots.predictions_plot(shown, ids, classes, args.plot)
            print(f"plot       {args.plot}")
        print(f"{args.out}: {done} clips in {seconds:.1f} s, {done / seconds:.0f} clips per second "
              f"on {devices.describe()}")


if __name__ == "__main__":
    main()
