"""Classes of unlabelled clips, by a trained model, as a CSV.

    python launch/predict.py --model runs/own-5shot --store data/new.h5 --out classes.csv
    python launch/predict.py --model model.npz --manifest clips.csv --top 3 --out classes.csv
    python launch/predict.py --model model.npz --npz new.npz --audio-key m1 --video-key m2 \\
        --out classes.csv

A row holds the clip's id, whether the best class is a base one, a novel one of the run (known from
few clips) or an added one, and the best classes with their probabilities. Clips are streamed:
memory does not grow with their number. The CSV appears when it is complete.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import csv
import time
from collections.abc import Iterable

from avdiff_jax.cli.flags import Parser
from avdiff_jax.data import stream
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.inference import model as models
from avdiff_jax.io.files import draft
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.progress import Progress


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_model()
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--store", metavar="FILE.h5", help="its labels are not read")
    source.add_argument("--npz", action="append", metavar="FILE", help="flat arrays; may repeat")
    source.add_argument("--manifest", metavar="FILE.csv", help="clip_id,audio,video of .npy files")
    for modality in ("audio", "video"):
        p.add_argument(f"--{modality}-key", metavar="KEY",
                       help="npz: KEY_flat and KEY_offsets, or VALUES,OFFSETS")
    p.add_argument("--id-key", metavar="KEY", help="npz: clip ids; default: numbered")
    p.add_argument("--top", type=int, default=1, help="classes a clip")
    p.add_output("FILE.csv", "where the classes go")
    return p


def clips_of(args) -> tuple[int, Iterable[stream.Features]]:
    """The number of clips, and the clips."""
    if not args.npz and (args.audio_key or args.video_key or args.id_key):
        raise UserError("--audio-key, --video-key and --id-key mean nothing without --npz: leave "
                        "them out")
    if args.npz:
        return stream.of_npz(args.npz, args.audio_key, args.video_key, args.id_key)
    if args.manifest:
        return stream.of_manifest(args.manifest)
    store = open_store(args.store)
    return len(store), stream.of_store(store)


def main(argv=None):
    """Writes the CSV and says how fast."""
    with one_sentence():
        args = parser().parse_args(argv)
        model = models.load(args.model, args.draw)
        devices.configure()
        if not 1 <= args.top <= len(model.info.classes):
            raise UserError(f"--top={args.top} must lie in 1..{len(model.info.classes)}, the "
                            "number of classes")
        count, clips = clips_of(args)
        if model.temperature is None:
            print("note: the model was not calibrated on validation clips, so its probabilities "
                  "are its scores after gamma, scaled to sum to 1")
        started, done = time.monotonic(), 0
        columns = [f"{what}{i + 1}" for i in range(args.top) for what in ("class", "probability")]
        with draft(args.out) as scratch, open(scratch, "w", newline="", encoding="utf-8") as file, \
                Progress(count, "predict") as progress:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["clip_id", "kind", *columns])
            for ids, scores in model.scored(clips):
                for clip, labels, p in zip(ids, *model.best(scores, args.top), strict=True):
                    row = [clip, model.kinds[labels[0]]]
                    for label, probability in zip(labels, p, strict=True):
                        row += [model.info.classes[label], f"{probability:.4f}"]
                    table.writerow(row)
                done += len(ids)
                progress.step(len(ids))
        seconds = time.monotonic() - started
        print(f"{args.out}: {done} clips in {seconds:.1f} s, {done / seconds:.0f} clips per second "
              f"on {devices.describe()}")


if __name__ == "__main__":
    main()
