"""A trained model that knows more classes, from a few clips of each, in seconds.

    python launch/add_class.py --model runs/own-5shot --store data/new.h5 --shots 5 --out bigger.npz
    python launch/add_class.py --model runs/own-5shot --store data/mine.h5 \\
        --split data/mine-5shot.json --out bigger.npz

The classes of the store that the model does not know are added. Their text vectors come from the
store; with --no-text, prototypes of the clips take their place. With --shots so many clips of each
are learnt from and the rest is held out; with --split, shots and held-out clips are those of the
split's novel classes in the draw --draw. Held-out clips give the accuracies before and after.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import time

import numpy as np

from avdiff_jax.cli.flags import Parser
from avdiff_jax.data import stream
from avdiff_jax.data.splits import sampling, split_file
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.inference import model as models
from avdiff_jax.runtime import devices
from avdiff_jax.train import add_classes as adding


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_model()
    p.add_argument("--store", required=True, metavar="FILE.h5", help="clips of the new classes")
    p.add_argument("--classes", type=lambda text: text.split(","), metavar="A,B",
                   help="add these only")
    p.add_argument("--shots", type=int, help="clips of each to learn from; default: all")
    p.add_argument("--split", metavar="FILE.json", help="takes shots and held-out clips from it")
    p.add_argument("--seed", type=int, default=0, help="of the choice of shots and of training")
    p.add_argument("--no-text", action="store_true", help="leave the store's text vectors unread")
    p.add_output("FILE.npz", "the new model")
    return p


def chosen(args, model, store) -> tuple[dict, dict]:
    """Clip ids by new class to learn from, and by class held out."""
    by_class = {name: store.clip_ids[store.labels == label].tolist()
                for label, name in enumerate(store.class_names)}
    fresh = {name: ids for name, ids in by_class.items() if name not in model.info.classes and ids}
    if args.classes:
        for name in args.classes:
            if name not in fresh:
                why = "the model knows it already" if name in model.info.classes else (
                    f"{args.store} has no clip of it")
                raise UserError(f"--classes names {name!r}, but {why}: leave it out")
        fresh = {name: fresh[name] for name in args.classes}
    if not fresh:
        raise UserError(f"the model knows all {len(by_class)} classes of {args.store}: name a "
                        "store with clips of new ones")
    known = {*model.info.classes, *fresh}
    if not args.split:
        learnt = sampling.draw(fresh, args.shots, args.seed, 0) if args.shots else fresh
        rest = {n: sorted({*ids} - {*learnt.get(n, ())}) for n, ids in by_class.items()}
        return learnt, {n: ids for n, ids in rest.items() if n in known}
    sets = split_file.load(args.split)["sets"]
    if not 0 <= args.draw < len(sets["train2_novel"]):
        raise UserError(f"--draw={args.draw}: {args.split} has the draws 0.."
                        f"{len(sets['train2_novel']) - 1}")
    learnt = {n: ids for n, ids in sets["train2_novel"][args.draw].items() if n in fresh}
    if missing := sorted({*fresh} - {*learnt}):
        raise UserError(f"{missing[0]!r} is none of the novel classes of {args.split}: name the "
                        "classes to add with --classes, or use --shots")
    held_out = {**sets["test_base"], **sets["test_novel"][args.draw]}
    return learnt, {n: ids for n, ids in held_out.items() if n in known}


def arrays(store, by_class):
    """Audio, video, class names and ids of the clips that `by_class` lists."""
    where = {str(clip): i for i, clip in enumerate(store.clip_ids)}
    pairs = [(name, clip) for name, ids in sorted(by_class.items()) for clip in ids]
    if lost := [clip for _, clip in pairs if clip not in where]:
        raise UserError(f"{store.path} lacks {len(lost)} of {len(pairs)} clips, such as "
                        f"{lost[0]!r}: use the store that the split was made for")
    clips = list(stream.of_store(store, [where[clip] for _, clip in pairs]))
    return ([c.audio for c in clips], [c.video for c in clips], [name for name, _ in pairs],
            [c.clip_id for c in clips])


def main(argv=None):
    """Adds the classes, writes the model and prints what it gained and lost."""
    with one_sentence():
        args = parser().parse_args(argv)
        if args.split and args.shots:
            raise UserError("--shots means nothing with --split, which names the shots: leave one "
                            "out")
        if args.shots is not None:
            sampling.check_request(args.shots, args.seed)
        if not args.out.endswith(".npz"):
            raise UserError(f"--out {args.out} does not end in .npz: change it")
        model, store = models.load(args.model, args.draw), open_store(args.store)
        devices.configure()
        learnt, held_out = chosen(args, model, store)
        text = None if args.no_text else dict(zip(store.class_names, store.class_text, strict=True))
        started = time.monotonic()
        audio, video, names, ids = arrays(store, learnt)
        bigger = adding.add_classes(model, audio, video, names, text, ids, args.seed)
        seconds = time.monotonic() - started
        bigger.save(args.out)
        print(f"{args.out}: {len(learnt)} classes added to {len(model.info.classes)} from "
              f"{len(names)} clips in {seconds:.1f} s")
        audio, video, names, ids = arrays(store, held_out)
        # Where no split says what is held out, no clip that was trained on may count.
        known = bigger.examples.clips if bigger.examples else ()
        kept = np.flatnonzero(~np.isin(ids, known))
        if kept.size:
            audio, video, names = ([part[i] for i in kept] for part in (audio, video, names))
            print(adding.compare_models(model, bigger, audio, video, names))


if __name__ == "__main__":
    main()
