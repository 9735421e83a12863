"""A checkpoint of the published PyTorch code as a model file.

    python launch/convert.py --checkpoint best.pt --config configs/ucf.py:5shot,published \\
        --store data/ucf.h5 --split data/ucf-5shot.json --out ucf.npz

PyTorch is needed for this alone. The configuration gives the sizes (--config.x.y=v changes one);
store and split give the classes, their text vectors and the seconds per token. The outputs of the
classifier are taken to be the classes of stage 2 in the order of their names; --classes names them
otherwise. Every weight is used or named as unused.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from ml_collections import ConfigDict

from avdiff_jax.cli import configuration
from avdiff_jax.cli.flags import Parser
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits import split_file, stages
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.inference import pytorch_weights
from avdiff_jax.io import text_files
from avdiff_jax.methods import METHODS
from avdiff_jax.runtime import devices
from avdiff_jax.train.context import prepare_stage


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_argument("--checkpoint", required=True, metavar="FILE.pt", help="of the published code")
    p.add_config()
    p.add_argument("--store", required=True, metavar="FILE.h5", help="what it was trained on")
    p.add_argument("--split", required=True, metavar="FILE.json", help="which clips of the store")
    p.add_argument("--classes", metavar="FILE", help="one name a line, as the outputs are ordered")
    p.add_argument("--gamma", type=float, default=0.0,
                   help="subtracted from the scores of base classes; a checkpoint does not hold it")
    p.add_output("FILE.npz", "the model")
    return p


def of_the_paper(name, overrides) -> ConfigDict:
    """The configuration, which must be one that a published checkpoint can have."""
    config = configuration.resolve(name, overrides)
    wanted = {"method": (config.method, "avdiff"), "generator": (config.generator, "diffusion"),
              "diffusion.condition": (config.diffusion.condition, "text"),
              "data.audio_scale": (config.data.audio_scale, "255")}
    for field, (value, usual) in wanted.items():
        if value != usual:
            raise UserError(f"published checkpoints have {field}={usual}, not {value}: change it")
    return config


def ordered(info, path):
    """`info` with the classes in the order of a file of names."""
    names = text_files.lines(path, "class list")
    if sorted(names) != sorted(info.classes):
        odd = sorted({*names} ^ {*info.classes})
        raise UserError(f"{path} lists {len(names)} classes and the split has "
                        f"{len(info.classes)} ({(odd or names)[0]!r} is in one of them): make "
                        "them agree")
    rows = np.array([info.classes.index(name) for name in names])
    return info._replace(classes=tuple(names), text=info.text[rows], is_base=info.is_base[rows])


def main(argv=None):
    """Writes the model and says what became of the weights."""
    with one_sentence():
        args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
        config = of_the_paper(args.config, overrides)
        devices.configure()
        state = pytorch_weights.read_checkpoint(args.checkpoint)
        store, split = open_store(args.store), split_file.load(args.split)
        feed = Feed(store, devices.mesh(), "host")
        context = prepare_stage(config, METHODS["avdiff"], feed, stages.stage(split, store, 2), 2)
        info = ordered(context.info, args.classes) if args.classes else context.info
        model = pytorch_weights.trained(
            args.checkpoint, state, info, feed.seconds, context.lengths, args.gamma
        )
        model.save(args.out)
        left = pytorch_weights.unused(state)
        print(f"{args.out}: {len(state) - len(left)} arrays of {args.checkpoint} used, "
              f"{len(left)} unused: {', '.join(left)}")


if __name__ == "__main__":
    main()
