"""Clips to a feature store: video files in, audio and video tokens out.

    python launch/extract.py --clips FOLDER --out data/mine.h5
    python launch/extract.py --clips clips.csv --text text.npz --out data/mine-3.h5 --shard 3/16
    python launch/extract.py --clips new/ --out data/new.h5            # no classes: for predict
    python launch/extract.py --clips FOLDER --text text.npz --out data/mine.h5 --recipe tcaf-ucf \\
        --audio vggish --audio-weights vggish.pth --audio-pca vggish_pca_params.npz \\
        --video c3d --video-weights c3d.pickle

FOLDER holds class/clip.mp4, or clip.mp4 where there are no classes; a CSV has the columns
path[,class][,clip_id][,group][,start][,end]. Beside the store goes a report with a row a clip. A
run that was killed goes on where it was when it is started again. `launch/data.py merge` joins
shards.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import re
import signal

from avdiff_jax.cli.flags import Parser
from avdiff_jax.data.class_text import ClassText, lack_text
from avdiff_jax.data.importers.text_vectors import class_text
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.extract import encoders, recipes
from avdiff_jax.extract.collection import Collection, open_collection
from avdiff_jax.extract.pipeline import MISSING, Encoders
from avdiff_jax.extract.run import ON_ERROR, extract, report_path, survey
from avdiff_jax.runtime import devices


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_output("FILE.h5", "store to make")
    add = p.add_argument
    add("--clips", required=True, metavar="FOLDER|CSV", help="video files, in folders of classes")
    add("--name", help="of the data set; default: that of the folder or CSV")
    add("--text", metavar="FILE", help="class text vectors: .npy dict, .npz or .csv; default: made "
                                       "from the class names, where `make encoders` was run")
    known = ", ".join(encoders.ENCODERS).replace("onnx", "onnx:FILE")
    for modality in ("audio", "video"):
        add(f"--{modality}", default=encoders.DEFAULTS[modality], metavar="ENCODER",
            help=f"one of {known} that is for {modality}, or none")
        add(f"--{modality}-weights", metavar="FILE",
            help=f"of {'vggish' if modality == 'audio' else 'c3d'}: PyTorch file or .npz")
    add("--audio-pca", metavar="FILE.npz", help="of vggish: its PCA parameters")
    add("--recipe", default="plain", choices=recipes.RECIPES,
        help="how vggish and c3d are used: as they should be, or as the published scripts did")
    add("--missing", default="keep", choices=MISSING, help="clips that lack audio or video")
    add("--on-error", default="skip", choices=ON_ERROR, help="clips that cannot be decoded")
    add("--shard", default="1/1", metavar="N/COUNT", help="only every COUNT-th clip, from N on")
    add("--threads", type=int, metavar="N", help="that decode; default: one a core")
    add("--dry-run", action="store_true", help="only say what there is to be done")
    return p


def main(argv=None):
    """Makes the store and says what it holds."""
    with one_sentence():
        args = parser().parse_args(sys.argv[1:] if argv is None else argv)
        collection = open_collection(args.clips)
        shard = _shard(args.shard)
        if args.dry_run:
            print(survey(collection.shard(*shard)))
            return
        if args.threads is not None and args.threads < 1:
            raise UserError(f"--threads {args.threads} decode nothing: give 1 or more")
        text = _text(collection, args.text)
        devices.configure()
        recipe = recipes.find(args.recipe)
        chosen = Encoders(
            encoders.make(args.audio, "audio", recipe, args.audio_weights, args.audio_pca),
            encoders.make(args.video, "video", recipe, args.video_weights))
        print(extract(
            collection, args.out, chosen, args.recipe, text, shard=shard, missing=args.missing,
            on_error=args.on_error, threads=args.threads, name=args.name))
        print(f"report     {report_path(args.out)}")


def _shard(word: str) -> tuple[int, int]:
    """"3/16" -> (3, 16)."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", word)
    if not match:
        raise UserError(f"--shard {word} is not of the form 3/16: change it")
    return int(match[1]), int(match[2])


def _text(collection: Collection, path: str | None) -> ClassText:
    """Of clips without classes there is none."""
    if not collection.is_labelled:
        return lack_text(1)
    return class_text(collection.class_names, path)


if __name__ == "__main__":
    # A job that is told to end leaves through the usual doors, and so leaves nothing half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
