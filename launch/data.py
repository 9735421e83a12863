"""Feature files to a store, a store or lists to a split, class names to text vectors.

    python launch/data.py import --layout official --root UCF --shots 5 --out data/ucf.h5
    python launch/data.py split --lists LISTS/UCF --shots 5 --seed 0 --out split.json
    python launch/data.py text --classes names.txt --encoder wordllama --out text.npz
    python launch/data.py inspect data/ucf.h5 --plot ucf.png
    python launch/data.py merge data/mine-*.h5 --out data/mine.h5
    python launch/data.py synthesize --out data/made-up.h5 --seed 0

`python launch/data.py COMMAND --help` lists the flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import os
import re
import signal
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Sequence

from avdiff_jax.cli.flags import Parser, check_outputs, seed
from avdiff_jax.data import class_text, synthetic
from avdiff_jax.data import store as stores
from avdiff_jax.data import store_report as reports
from avdiff_jax.data.importers import layouts, text_encoders, text_vectors, word_vectors
from avdiff_jax.data.inspect import class_names, inspect_path
from avdiff_jax.data.splits import from_lists, from_store, split_file
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.extract import shards
from avdiff_jax.io import text_files
from avdiff_jax.runtime.progress import Progress


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one subcommand; `argv` defaults to the command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with one_sentence():
        args = parser().parse_args(arguments)
        args.run(args, arguments)


def import_features(args: Namespace, arguments: Sequence[str]) -> None:
    """`import`: a store from the published layout, from .npz arrays or from a manifest."""
    settings = {key: value for key in layouts.SETTINGS
                if (value := getattr(args, key)) is not None}
    split_path = args.split or f"{os.path.splitext(args.out)[0]}-{args.shots}shot.json"
    if args.layout == "official":
        check_outputs(args, split_path)
    report, split = layouts.import_features(
        args.layout, settings, args.out, name=args.name or Path(args.out).stem,
        pool=_pooling(args.pool), command=_portable(arguments),
        may_lack_modality=args.may_lack_modality, video_dtype=args.video_dtype)
    print(report)
    if split:
        split_file.write(split, split_path)
        print(f"split      {split_path}, the archive's own sets\n\n{split_file.report(split)}")


def _pooling(words: Sequence[str]) -> dict[str, int]:
    """["audio=4"] -> {"audio": 4, "video": 1}."""
    pool = {"audio": 1, "video": 1}
    for word in words:
        match = re.fullmatch(r"(audio|video)=([1-9]\d{0,5})", word)
        if not match:
            raise UserError(f"--pool {word} is neither audio=N nor video=N with N of 1 or more: "
                            f"change it")
        pool[match[1]] = int(match[2])
    return pool


def _portable(arguments: Sequence[str]) -> str:
    """The command line without machine paths: a path keeps its last part only."""
    words = ["data.py"]
    for word in arguments:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(flag + equals + os.path.basename(value.rstrip("/")))
    return " ".join(words)


def make_split(args: Namespace, _: Sequence[str]) -> None:
    """`split`: which clip is in which set, from the public lists or from a store."""
    if args.lists is not None:
        for flag in ("base", "novel1", "novel2", "by", "val", "test"):
            if getattr(args, flag) is not None:
                raise UserError(f"--{flag} means nothing with --lists, whose classes and sets are "
                                f"given: leave it out")
        split = from_lists.make_split(args.lists, args.shots, args.seed)
    else:
        given = {flag: getattr(args, flag) for flag in ("base", "novel1", "novel2")}
        if missing := [f"--{flag}" for flag, wish in given.items() if wish is None]:
            raise UserError(f"--store needs {', '.join(missing)}: give a count, a fraction or a "
                            f"text file of class names for each")
        wishes = {flag: _wish(wish, flag) for flag, wish in given.items()}
        split = from_store.make_split(
            stores.open_store(args.store), args.shots, args.seed, by=args.by, val=args.val,
            test=args.test, base=wishes["base"], novel1=wishes["novel1"], novel2=wishes["novel2"])
    split_file.write(split, args.out)
    print(split_file.report(split))


def _wish(text: str, flag: str) -> int | float | list[str]:
    """"14" -> 14, "0.5" -> 0.5, a file -> its lines."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d*\.\d+", text):
        return float(text)
    try:
        return text_files.lines(text)
    except UserError:
        raise UserError(f"--{flag} {text} is no count, no fraction and no readable text file of "
                        f"class names: change it") from None


def inspect(args: Namespace, _: Sequence[str]) -> None:
    """`inspect`: what a store, a split or a published archive holds."""
    path = Path(args.path)
    inspection = inspect_path(path, args.shots)
    print(inspection.text)
    if args.plot:
        reports.draw(args.plot, path.name, inspection.lengths, inspection.counts)
        print(f"plot       {args.plot}")


def make_text(args: Namespace, _: Sequence[str]) -> None:
    """`text`: class text vectors from class names, by an encoder, word vectors or given vectors."""
    if not args.out.endswith(".npz"):
        raise UserError(f"--out {args.out} does not end in .npz: change it")
    if not args.vectors and (args.text_key or args.text_names):
        raise UserError("--text-key and --text-names mean nothing without --vectors: leave them "
                        "out")
    names = class_names(args.classes)
    manual = text_vectors.read_manual_names(args.text_map) if args.text_map else None
    if args.encoder:
        vectors, notes = text_encoders.encode_names(names, manual), []
    elif args.words:
        with Progress(None, "words") as progress:
            vectors, notes = word_vectors.name_vectors(names, args.words, manual, progress)
    else:
        vectors, notes = text_vectors.match_file(
            names, args.vectors, args.text_key, args.text_names, manual
        )
    source = args.encoder or args.words or args.vectors
    class_text.check_text(source, names, vectors)
    if args.unit:
        vectors = class_text.unit(vectors)
    text_vectors.write_text(args.out, dict(zip(names, vectors, strict=True)))
    print(f"text       {args.out}: {len(names)} classes, vectors of {vectors.shape[1]}"
          f"{', unit length' if args.unit else ''}, from {source}")
    for note in [*notes, *filter(None, [class_text.find_twins(names, vectors)])]:
        print(f"note: {note}")


def merge(args: Namespace, _: Sequence[str]) -> None:
    """`merge`: stores of the shards of one extraction to a single store."""
    print(shards.merge(args.stores, args.out, args.name))


def synthesize(args: Namespace, _: Sequence[str]) -> None:
    """`synthesize`: a made-up store."""
    with Progress(args.classes * args.clips_per_class, "synthesize") as progress:
        print(synthetic.synthesize(
            args.out, seed=args.seed, classes=args.classes, clips_per_class=args.clips_per_class,
            audio_dim=args.audio_dim, video_dim=args.video_dim, text_dim=args.text_dim,
            seconds=tuple(args.seconds), name=args.name or Path(args.out).stem, progress=progress))


def parser() -> Parser:
    """The flags of all commands."""
    p = Parser(__doc__)
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    for name, run, add_flags in (
        ("import", import_features, add_import_flags), ("split", make_split, add_split_flags),
        ("text", make_text, add_text_flags), ("inspect", inspect, add_inspect_flags),
        ("merge", merge, add_merge_flags), ("synthesize", synthesize, add_synthesize_flags),
    ):
        says = str(run.__doc__).partition(": ")[2]
        command = commands.add_parser(name, help=says, description=says)
        command.set_defaults(run=run)
        add_flags(command)
    return p


def add_import_flags(p: Parser) -> None:
    """Those of `import`: what a layout may be given, `layouts.SETTINGS`, and the store."""
    add = p.add_argument
    add("--layout", required=True, choices=layouts.LAYOUTS, help="how the features lie on disk")
    p.add_output("FILE.h5", "store to make")
    add("--name", help="of the data set; default: that of the file")
    add("--root", metavar="FOLDER", help="official: it holds features/ and class-split/; folder: "
                                         "class/clip.audio.npy and class/clip.video.npy")
    add("--shots", type=int, help="official: which features/K-shot")
    p.add_output("FILE.json", "official: where its own sets go; default: OUT-Kshot.json",
                 flag="--split", required=False)
    add("--npz", action="append", metavar="FILE", help="npz: file with arrays; may repeat")
    add("--manifest", metavar="FILE.csv", help="manifest: clip_id,class,group,audio,video")
    for modality in ("audio", "video"):
        add(f"--{modality}-key", metavar="KEY",
            help="npz: KEY_flat and KEY_offsets, or VALUES,OFFSETS")
    add("--label-key", metavar="KEY", help="npz: class number (from 0) or name of each clip")
    add("--class-key", metavar="KEY", help="npz: class names")
    add("--id-key", metavar="KEY", help="npz: clip ids; default: numbered")
    add("--group-key", metavar="KEY", help="npz: group of each clip (source video, subject ...)")
    add("--text", metavar="FILE", help="class text vectors: .npy dict, .npz or .csv; default: the "
                                       "archive's, or made from the class names")
    add("--text-key", metavar="KEY", help="matrix in an .npz text file; default: emb")
    add("--text-names", metavar="KEY", help="names of its rows; default: names")
    add("--text-map", metavar="FILE.csv", help="original,manual: class name, name in text file")
    for modality in ("audio", "video"):
        add(f"--{modality}-seconds", type=float, metavar="S",
            help=f"seconds per {modality} token as it comes, before pooling")
    add("--pool", action="append", default=[], metavar="audio=N|video=N",
        help="average every N tokens; may repeat")
    add("--video-dtype", choices=stores.VALUE_TYPES["video"], default="float32",
        help="how video values are kept")
    add("--may-lack-modality", action="store_true", help="clips may have no audio or no video")


def add_split_flags(p: Parser) -> None:
    """Those of `split`."""
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--lists", metavar="DIR", help="public class-split lists")
    source.add_argument("--store", metavar="FILE.h5", help="own data")
    add = p.add_argument
    add("--shots", type=int, required=True, help="clips of each novel class to learn from")
    add("--seed", type=seed, default=0, help="of the choice of classes, clips and shots")
    p.add_output("FILE.json", "split to make")
    for kind in ("base", "novel1", "novel2"):
        add(f"--{kind}", metavar="N|0.N|FILE",
            help=f"{kind} classes of a store: count, fraction or text file of names")
    add("--by", choices=("group", "clip"), help="hold out groups or clips; default: groups if any")
    for place, share in enumerate(("val", "test")):
        usual = ", ".join(f"{shares[place]} by {by}" for by, shares in from_store.SHARES.items())
        add(f"--{share}", type=float, metavar="0.N", help=f"share held out; default: {usual}")


def add_text_flags(p: Parser) -> None:
    """Those of `text`."""
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--encoder", choices=text_encoders.ENCODERS,
        help="makes them from the names alone; `make encoders` installs it")
    source.add_argument("--words", metavar="FILE",
        help="word vectors as text, one word a line (word2vec, GloVe, fastText .vec); a class gets "
             "the mean over the words of its name, which spaces, underscores, hyphens and "
             "CamelCase part; lower case is tried first")
    source.add_argument("--vectors", metavar="FILE",
        help="class text vectors to take by name: .npy dict, .npz or .csv")
    add = p.add_argument
    add("--classes", required=True, metavar="FILE",
        help="class names: text file of one a line, store (.h5) or split (.json)")
    p.add_output("FILE.npz", "names and emb, for import --text")
    add("--unit", action=BooleanOptionalAction, default=True,
        help="scale each vector to length 1, as the benchmark's are")
    add("--text-key", metavar="KEY", help="matrix in an .npz of --vectors; default: emb")
    add("--text-names", metavar="KEY", help="names of its rows; default: names")
    add("--text-map", metavar="FILE.csv",
        help="original,manual: class name, words or name to look it up by")


def add_inspect_flags(p: Parser) -> None:
    """Those of `inspect`."""
    p.add_argument("path", help="store, split, .npz or archive folder")
    p.add_argument("--shots", type=int, help="archive: only this K")
    p.add_output("FILE.png", "draw lengths and class counts", flag="--plot", required=False)


def add_merge_flags(p: Parser) -> None:
    """Those of `merge`."""
    p.add_argument("stores", nargs="+", metavar="FILE.h5",
                   help="a store of each shard, in any order")
    p.add_output("FILE.h5", "store to make")
    p.add_argument("--name", help="of the data set; default: that of the shards")


def add_synthesize_flags(p: Parser) -> None:
    """Those of `synthesize`."""
    add = p.add_argument
    p.add_output("FILE.h5", "store to make")
    add("--seed", type=seed, default=0, help="of all that is drawn")
    add("--name", help="of the data set; default: that of the file")
    add("--classes", type=int, default=32, help="how many")
    add("--clips-per-class", type=int, default=60, help="how many")
    for what, size in (("audio", 128), ("video", 4096), ("text", 300)):
        add(f"--{what}-dim", type=int, default=size, help=f"features of each {what} vector")
    add("--seconds", type=float, nargs=2, default=(4.0, 10.0), metavar=("MIN", "MAX"),
        help="duration of a clip")


if __name__ == "__main__":
    # a job that is told to end leaves through the usual doors, and so leaves nothing half written
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
