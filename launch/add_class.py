"""A trained model that knows more classes, from a few clips of each, in seconds.

    python launch/add_class.py --model runs/own-5shot --store data/new.h5 --shots 5 --out bigger.npz
    python launch/add_class.py --model runs/own-5shot --store data/mine.h5 \\
        --split data/mine-5shot.json --out bigger.npz

The classes of the store that the model does not know are added. Their text vectors come from the
store, or from their names where the model's were made so; with --no-text, prototypes of the clips
take their place. With --shots so many clips of each are learnt from and the rest is held out; with
--split, shots and held-out clips are those of the split's novel classes in the draw --draw.
Held-out clips give the accuracies before and after.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence

import numpy as np

from avdiff_jax.cli.flags import Parser, seed
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.splits import new_classes, sampling, split_file
from avdiff_jax.data.splits.new_classes import NewClasses
from avdiff_jax.errors import UserError, note, one_sentence
from avdiff_jax.inference import model as models
from avdiff_jax.inference.extracted import encode_alike
from avdiff_jax.inference.sources import open_source
from avdiff_jax.runtime import devices
from avdiff_jax.train import add_classes as adding


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_model()
    p.add_clips()
    p.add_argument("--classes", action="append", metavar="NAME|A,B|FILE",
                   help="add these only: a name, names with commas between them, or a text file of "
                        "one a line; may repeat")
    p.add_argument("--shots", type=int, help="clips of each to learn from; default: all")
    p.add_argument("--split", metavar="FILE.json", help="takes shots and held-out clips from it")
    p.add_argument("--seed", type=seed, default=0, help="of the choice of shots and of training")
    p.add_argument("--no-text", action="store_true", help="leave the store's text vectors unread")
    p.add_output("FILE.npz", "the new model")
    return p


def choose_clips(args: Namespace, known: Sequence[str], source: ClipSource) -> NewClasses:
    """What to learn from and what to hold out, as the flags say."""
    fresh = new_classes.find_new(source, known, args.classes)
    if not args.split:
        return new_classes.draw_shots(source, known, fresh, args.shots, args.seed)
    split = split_file.load(args.split)
    return new_classes.take_from_split(split, args.split, args.draw, known, fresh)


def choose_text(
    args: Namespace, model: models.Trained, source: ClipSource
) -> Mapping[str, np.ndarray] | None:
    """The text vectors of the clips by class, made from their names where the model's were made so;
    None where they are not there or not to be read."""
    if args.no_text:
        return None
    if source.text:
        return source.text
    vectors = encode_alike(source.class_names, model.origin)
    if vectors is None:
        note(f"{source.place} has no class text, so prototypes of the clips take its place")
        return None
    return dict(zip(source.class_names, vectors, strict=True))


def check_flags(args: Namespace) -> None:
    """Raises UserError for flags that do not go together."""
    if args.split and args.shots:
        raise UserError("--shots means nothing with --split, which names the shots: leave one out")
    if args.shots is not None:
        sampling.check_request(args.shots, args.seed)
    if not args.out.endswith(".npz"):
        raise UserError(f"--out {args.out} does not end in .npz: change it")


def main(argv: Sequence[str] | None = None) -> None:
    """Adds the classes, writes the model and prints what it gained and lost."""
    with one_sentence():
        args = parser().parse_args(argv)
        check_flags(args)
        model = models.load(args.model, args.draw)
        devices.configure()
        source = open_source(args, model)
        learnt, held_out = choose_clips(args, model.info.classes, source)
        text = choose_text(args, model, source)
        started = time.monotonic()
        clips = new_classes.select(source, learnt)
        bigger = adding.learn_classes(model, clips, clips.names(), text, args.seed)
        seconds = time.monotonic() - started
        bigger.save(args.out)
        print(f"{args.out}: added {len(learnt)} to {len(model.info.classes)} classes, from "
              f"{len(clips)} clips in {seconds:.1f} s")
        held_out = new_classes.select(source, held_out)
        unseen = bigger.find_unseen(held_out, np.arange(len(held_out)))
        if len(unseen):
            print(adding.compare_models(model, bigger, held_out.select(unseen)))


if __name__ == "__main__":
    main()
