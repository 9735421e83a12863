"""A checkpoint of the published PyTorch code as a model file.

    python launch/convert.py --checkpoint best.pt --config configs/ucf.py:5shot,published \\
        --store data/ucf.h5 --split data/ucf-5shot.json --out ucf.npz

PyTorch is not needed. The configuration gives the sizes (--config.x.y=v changes one);
store and split give the classes, their text vectors and the seconds per token. The outputs of the
classifier are taken to be the classes of stage 2 in the order of their names; --classes names them
otherwise. Every weight is used or named as unused.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from collections.abc import Sequence

from avdiff_jax.cli import configuration
from avdiff_jax.cli.flags import Parser, finite
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits import split_file, stages
from avdiff_jax.data.splits.sets import DRAWS
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import one_sentence
from avdiff_jax.inference import pytorch_weights
from avdiff_jax.io import text_files
from avdiff_jax.methods import METHODS
from avdiff_jax.runtime import devices
from avdiff_jax.train.context import prepare_stage
from avdiff_jax.train.measure import describe_training


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_argument("--checkpoint", required=True, metavar="FILE.pt", help="of the published code")
    p.add_config()
    p.add_argument("--store", required=True, metavar="FILE.h5", help="what it was trained on")
    p.add_argument("--split", required=True, metavar="FILE.json", help="which clips of the store")
    p.add_argument("--classes", metavar="FILE", help="one name a line, as the outputs are ordered")
    p.add_argument("--gamma", type=finite, default=0.0,
                   help="subtracted from the scores of base classes; a checkpoint does not hold it")
    p.add_argument("--draw", type=int, default=0, choices=range(DRAWS),
                   help="of the split's shots, those that it was trained on")
    p.add_output("FILE.npz", "the model")
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the model and says what became of the weights."""
    with one_sentence():
        args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
        config = configuration.resolve(args.config, overrides)
        pytorch_weights.check_published(config)
        devices.configure()
        state = pytorch_weights.read_checkpoint(args.checkpoint)
        store, split = open_store(args.store), split_file.load(args.split)
        feed = Feed(store, devices.mesh(), "host")
        stage = stages.stage(split, store, 2)
        context = prepare_stage(config, METHODS["avdiff"], feed, stage, 2)
        info = context.info
        if args.classes:
            names = text_files.lines(args.classes, "class list")
            info = pytorch_weights.reorder_classes(info, names, args.classes)
        model = pytorch_weights.trained(
            args.checkpoint, state, info, feed.seconds, context.lengths, args.gamma,
            describe_training(context, args.draw),
        )
        model.save(args.out)
        left = pytorch_weights.unused(state)
        print(f"{args.out}: {len(state) - len(left)} arrays of {args.checkpoint} used, "
              f"{len(left)} unused: {', '.join(left)}")


if __name__ == "__main__":
    main()
