"""Feature files to a store, a store or lists to a split, class names to text vectors.

    python launch/data.py import --layout official --root UCF --shots 5 --out data/ucf.h5
    python launch/data.py split --lists LISTS/UCF --shots 5 --seed 0 --out split.json
    python launch/data.py text --classes names.txt --words glove.6B.300d.txt --out text.npz
    python launch/data.py inspect data/ucf.h5 --plot ucf.png
    python launch/data.py synthesize --out data/made-up.h5 --seed 0

`python launch/data.py COMMAND --help` lists the flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import collections
import datetime
import os
import re
import signal

import numpy as np

from avdiff_jax.data import (
    importers,
    lists,
    official,
    partition,
    sets,
    splits,
    synthetic,
    text,
    text_files,
    user_files,
    words,
)
from avdiff_jax.data import report as reports
from avdiff_jax.data import store as stores
from avdiff_jax.data.clips import pooled
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.progress import Progress


def main(argv=None):
    """Runs one subcommand; `argv` defaults to the command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(arguments)
    with one_sentence():
        args.run(args, arguments)


# ---------------------------------------------------------------------------- import


def import_features(args, arguments):
    """`import`: a store from the published layout, from .npz arrays or from a manifest."""
    _only_flags_of_layout(args)
    progress = Progress(None, "import")
    clips, source = _read(args, progress)
    pool = _pooling(args.pool)
    clips = pooled(clips, **pool)
    name = args.name or Path(args.out).stem
    brings_split = source.sets is not None
    if brings_split:
        # an official archive brings its split; it is audited before the store is published
        clips, finish = _with_split(clips, source, name, args.shots)
    published = official.PUBLISHED_SECONDS  # only the official layout may leave the rates out
    progress.total = source.total
    with progress:
        report = stores.write_store(
            args.out, name=name, clips=clips,
            class_names=source.class_names, class_text=source.class_text,
            audio_seconds=_given(args.audio_seconds, published["audio"]) * pool["audio"],
            video_seconds=_given(args.video_seconds, published["video"]) * pool["video"],
            provenance={
                "command": _portable(arguments),
                "sources": source.files,
                "pool": pool,
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            },
            may_lack_modality=args.may_lack_modality,
            video_dtype=args.video_dtype, notes=source.notes,
            # the official reader counts MiB itself, the others leave it to the store to count clips
            progress=None if brings_split else progress)
    print(report)
    if brings_split:
        path = args.split or f"{os.path.splitext(args.out)[0]}-{args.shots}shot.json"
        split = finish()
        splits.write(split, path)
        print(f"split      {path}, the archive's own sets\n")
        _print_split(split)


def _read(args, progress):
    """(clips, Source) from the reader of the chosen layout."""
    given = {"text": args.text, "text_map": args.text_map}
    if args.layout == "official":
        return official.read_official(args.root, args.shots, **given, progress=progress)
    given |= {"text_key": args.text_key, "text_names": args.text_names}
    if args.layout == "manifest":
        return importers.read_manifest(args.manifest, **given)
    return importers.read_npz(
        args.npz, audio_key=args.audio_key, video_key=args.video_key, label_key=args.label_key,
        class_key=args.class_key, id_key=args.id_key, group_key=args.group_key, **given)


def _given(value, default):
    return default if value is None else value


def _only_flags_of_layout(args):
    """Refuses a flag that the chosen layout would ignore, and asks for those that it needs."""
    needs = {
        "official": ("root", "shots"),
        "npz": ("npz", "label_key", "text", "audio_seconds", "video_seconds"),
        "manifest": ("manifest", "text", "audio_seconds", "video_seconds"),
    }
    takes = {
        "official": ("text", "text_map", "audio_seconds", "video_seconds", "split"),
        "npz": ("audio_key", "video_key", "class_key", "id_key", "group_key", "text_key",
                "text_names", "text_map"),
        "manifest": ("text_key", "text_names", "text_map"),
    }
    layout = args.layout
    everything = {flag for table in (needs, takes) for flags in table.values() for flag in flags}
    for flag in sorted(everything):
        given, spelled = getattr(args, flag) is not None, "--" + flag.replace("_", "-")
        if given and flag not in needs[layout] + takes[layout]:
            raise UserError(f"{spelled} means nothing with --layout {layout}: leave it out or "
                            f"change the layout")
        if not given and flag in needs[layout]:
            raise UserError(f"--layout {layout} needs {spelled}: add it")


def _pooling(words):
    """["audio=4"] -> {"audio": 4, "video": 1}."""
    pool = {"audio": 1, "video": 1}
    for word in words:
        match = re.fullmatch(r"(audio|video)=([1-9]\d{0,5})", word)
        if not match:
            raise UserError(f"--pool {word} is neither audio=N nor video=N with N of 1 or more: "
                            f"change it")
        pool[match[1]] = int(match[2])
    return pool


def _with_split(clips, source, name, shots):
    """The same clips, after the last of which the split is made, so that a bad one stops all."""
    made, groups = [], {}

    def watched():
        for clip in clips:
            groups[clip.clip_id] = clip.group
            yield clip
        made.append(splits.finish(
            source.sets, source.classes, name=name, shots=shots, seed=None, by="official",
            groups=groups))

    return watched(), lambda: made[0]


def _portable(arguments):
    """The command line without machine paths: a path keeps its last part only."""
    words = ["data.py"]
    for word in arguments:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(flag + equals + os.path.basename(value.rstrip("/")))
    return " ".join(words)


# ---------------------------------------------------------------------------- split


def make_split(args, _):
    """`split`: which clip is in which set, from the public lists or from a store."""
    if args.lists is not None:
        for flag in ("base", "novel1", "novel2", "by", "val", "test"):
            if getattr(args, flag) is not None:
                raise UserError(f"--{flag} means nothing with --lists, whose classes and sets are "
                                f"given: leave it out")
        split = lists.from_lists(args.lists, args.shots, args.seed)
    else:
        store = stores.open_store(args.store)
        wishes = {}
        for flag in ("base", "novel1", "novel2"):
            if getattr(args, flag) is None:
                raise UserError(f"--store needs --{flag}: give a count, a fraction or a text file "
                                f"of class names")
            wishes[flag] = _wish(getattr(args, flag), flag)
        split = partition.from_store(store, args.shots, args.seed, by=args.by, val=args.val,
                                  test=args.test, **wishes)
    splits.write(split, args.out)
    _print_split(split)


def _wish(text, flag):
    """"14" -> 14, "0.5" -> 0.5, a file -> its lines."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d*\.\d+", text):
        return float(text)
    try:
        return user_files.lines(text)
    except UserError:
        raise UserError(f"--{flag} {text} is no count, no fraction and no readable text file of "
                        f"class names: change it") from None


def _print_split(split):
    print(splits.table(split))
    for note in split.get("notes", ()):
        print(f"note: {note}")


# ---------------------------------------------------------------------------- inspect


def inspect(args, _):
    """`inspect`: what a store, a split or a published archive holds."""
    path = Path(args.path)
    if not path.exists():
        raise UserError(f"{path} does not exist: name a store (.h5), a split (.json) or a "
                        f"published archive folder")
    if args.shots is not None and not path.is_dir():
        raise UserError(f"--shots {args.shots} is for archive folders and {path} is a file: leave "
                        f"it out")
    if path.is_dir():
        lengths, counts = _inspect_archive(path, args.shots)
    elif path.suffix == ".json":
        lengths, counts = _inspect_split(path)
    else:
        lengths, counts = _inspect_store(path)
    if args.plot:
        reports.draw(args.plot, path.name, lengths, counts)
        print(f"plot       {args.plot}")


def _inspect_store(path):
    store = stores.open_store(path)
    tokens = len(store.audio.values) + len(store.video.values)
    with Progress(tokens, "looking for NaN") as progress:
        stores.check_values(store, progress)
    report = reports.report(store)
    print(report)
    for key, value in sorted(store.provenance.items()):
        print(f"{key:10} {value}")
    lengths = {"audio": store.audio.lengths, "video": store.video.lengths}
    return lengths, report.clips_per_class


def _inspect_split(path):
    split = splits.load(path)
    print(f"split      {path} ({split['name']}), {split['shots']} shots, seed {split['seed']}, "
          f"by {split['by']}")
    _print_split(split)
    counts = collections.Counter()
    for content in split["sets"].values():
        # of the three draws, the first: the others deal the same clips again
        for class_name, ids in (content[0] if isinstance(content, list) else content).items():
            counts[class_name] += len(ids)
    return {}, dict(counts)


def _inspect_archive(path, shots):
    found = official.published_shots(path)
    print(f"archive    {path} with features for {', '.join(map(str, found)) or 'no'} shots")
    lengths, counts = {"audio": [], "video": []}, collections.Counter()
    for k in [shots] if shots is not None else found:
        lengths, counts, groups = {"audio": [], "video": []}, collections.Counter(), {}
        with Progress(None, f"{k} shots") as progress:
            clips, source = official.read_official(path, k, progress=progress)
            for clip in clips:
                counts[clip.class_name] += 1
                groups[clip.clip_id] = clip.group
                for modality in lengths:
                    lengths[modality].append(len(getattr(clip, modality)))
        for modality, values in lengths.items():
            print(f"{modality}      tokens per clip min {min(values)}, median "
                  f"{np.median(values):g}, max {max(values)}")
        print(f"clips      {counts.total()}\nclasses    {len(counts)}, text vectors of "
              f"{source.class_text.shape[1]}")
        for note in source.notes:
            print(f"note: {note}")
        _print_split(splits.finish(source.sets, source.classes, name=source.name, shots=k,
                                   seed=None, by="official", groups=groups))
    return lengths, dict(counts)


# ---------------------------------------------------------------------------- text


def make_text(args, _):
    """`text`: class text vectors from class names, by word vectors or from given vectors."""
    if not args.out.endswith(".npz"):
        raise UserError(f"--out {args.out} does not end in .npz: change it")
    if args.words and (args.text_key or args.text_names):
        raise UserError("--text-key and --text-names mean nothing with --words: leave them out")
    names = _class_names(args.classes)
    if args.words:
        manual = text_files.read_manual_names(args.text_map) if args.text_map else None
        with Progress(None, "words") as progress:
            vectors, notes = words.name_vectors(names, args.words, manual, progress)
    else:
        given = text_files.read_text(args.vectors, args.text_key, args.text_names)
        manual = text_files.read_manual_names(args.text_map) if args.text_map else None
        vectors, notes = text.match_text(names, given, args.vectors, manual), []
        if len(given) > len(names):
            notes.append(f"{len(given) - len(names)} vectors of {args.vectors} are of no class of "
                         f"{args.classes} and were left out")
    source = args.words or args.vectors
    text.check_text(source, names, vectors)
    if args.unit:
        vectors = text.unit(vectors)
    text_files.write_text(args.out, dict(zip(names, vectors, strict=True)))
    print(f"text       {args.out}: {len(names)} classes, vectors of {vectors.shape[1]}"
          f"{', unit length' if args.unit else ''}, from {source}")
    for note in [*notes, *filter(None, [text.twins(names, vectors)])]:
        print(f"note: {note}")


def _class_names(path):
    """The classes of a split (.json), a store (HDF5) or a text file, one a line."""
    if path.endswith(".json"):
        split = splits.load(path)
        return sorted(name for names in split["classes"].values() for name in names)
    with user_files.opened(path, "class list") as file:
        is_store = file.read(4) == b"\x89HDF"
    if is_store:
        return list(stores.open_store(path).class_names)
    names = user_files.lines(path, "class list")
    if not names:
        raise UserError(f"{path} holds 0 classes but one class a line is needed")
    if twice := sets.repeated(names):
        raise UserError(f"{path} lists class {twice!r} twice: remove one of the two lines")
    return names


# ---------------------------------------------------------------------------- synthesize


def synthesize(args, _):
    """`synthesize`: a made-up store."""
    with Progress(args.classes * args.clips_per_class, "synthesize") as progress:
        print(synthetic.synthesize(
            args.out, seed=args.seed, classes=args.classes, clips_per_class=args.clips_per_class,
            audio_dim=args.audio_dim, video_dim=args.video_dim, text_dim=args.text_dim,
            seconds=tuple(args.seconds), name=args.name or Path(args.out).stem, progress=progress))


# ---------------------------------------------------------------------------- command line


def _parser():
    # No abbreviations: a mistyped flag is an error, today and when more flags exist.
    parser = argparse.ArgumentParser(
        prog="data.py", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run):
        made = commands.add_parser(name, help=run.__doc__.partition(": ")[2], allow_abbrev=False,
                                   description=run.__doc__.partition(": ")[2])
        made.set_defaults(run=run)
        return made

    add = command("import", import_features).add_argument
    add("--layout", required=True, choices=("official", "npz", "manifest"))
    add("--out", required=True, metavar="FILE.h5", help="store to make")
    add("--name", help="of the data set; default: that of the file")
    add("--root", help="official: folder that holds features/ and class-split/")
    add("--shots", type=int, help="official: which features/K-shot")
    add("--split", metavar="FILE.json",
        help="official: where its own sets go; default OUT-Kshot.json")
    add("--npz", action="append", metavar="FILE", help="npz: file with arrays; may repeat")
    add("--manifest", metavar="FILE.csv", help="manifest: clip_id,class,group,audio,video")
    for modality in ("audio", "video"):
        add(f"--{modality}-key", metavar="KEY",
            help="npz: KEY_flat and KEY_offsets, or VALUES,OFFSETS")
    add("--label-key", metavar="KEY", help="npz: class number (from 0) or name of each clip")
    add("--class-key", metavar="KEY", help="npz: class names")
    add("--id-key", metavar="KEY", help="npz: clip ids; default: numbered")
    add("--group-key", metavar="KEY", help="npz: group of each clip (source video, subject ...)")
    add("--text", metavar="FILE", help="class text vectors: .npy dict, .npz or .csv")
    add("--text-key", metavar="KEY", help="matrix in an .npz text file; default emb")
    add("--text-names", metavar="KEY", help="names of its rows; default names")
    add("--text-map", metavar="FILE.csv", help="original,manual: class name, name in text file")
    for modality in ("audio", "video"):
        add(f"--{modality}-seconds", type=float, metavar="S",
            help=f"seconds per {modality} token as it comes, before pooling")
    add("--pool", action="append", default=[], metavar="audio=N|video=N",
        help="average every N tokens; may repeat")
    add("--video-dtype", choices=stores.VALUE_TYPES["video"], default="float32")
    add("--may-lack-modality", action="store_true", help="clips may have no audio or no video")

    made = command("split", make_split)
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--lists", metavar="DIR", help="public class-split lists")
    source.add_argument("--store", metavar="FILE.h5", help="own data")
    add = made.add_argument
    add("--shots", type=int, required=True, help="clips of each novel class to learn from")
    add("--seed", type=int, default=0)
    add("--out", required=True, metavar="FILE.json")
    for kind in ("base", "novel1", "novel2"):
        add(f"--{kind}", metavar="N|0.N|FILE",
            help=f"{kind} classes of a store: count, fraction or text file of names")
    add("--by", choices=("group", "clip"), help="hold out groups or clips; default: groups if any")
    for share in ("val", "test"):
        add(f"--{share}", type=float, metavar="0.N", help="share of groups or clips held out")

    made = command("text", make_text)
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--words", metavar="FILE",
        help="word vectors as text, one word a line (word2vec, GloVe, fastText .vec); a class gets "
             "the mean over the words of its name, which spaces, underscores, hyphens and "
             "CamelCase part; lower case is tried first")
    source.add_argument("--vectors", metavar="FILE",
        help="class text vectors to take by name: .npy dict, .npz or .csv")
    add = made.add_argument
    add("--classes", required=True, metavar="FILE",
        help="class names: text file of one a line, store (.h5) or split (.json)")
    add("--out", required=True, metavar="FILE.npz", help="names and emb, for import --text")
    add("--unit", action=argparse.BooleanOptionalAction, default=True,
        help="scale each vector to length 1, as the benchmark's are")
    add("--text-key", metavar="KEY", help="matrix in an .npz of --vectors; default emb")
    add("--text-names", metavar="KEY", help="names of its rows; default names")
    add("--text-map", metavar="FILE.csv",
        help="original,manual: class name, words or name to look it up by")

    add = command("inspect", inspect).add_argument
    add("path", help="store, split or archive folder")
    add("--shots", type=int, help="archive: only this K")
    add("--plot", metavar="FILE.png", help="draw lengths and class counts")

    add = command("synthesize", synthesize).add_argument
    add("--out", required=True, metavar="FILE.h5")
    add("--seed", type=int, default=0)
    add("--name")
    add("--classes", type=int, default=32)
    add("--clips-per-class", type=int, default=60)
    add("--audio-dim", type=int, default=128)
    add("--video-dim", type=int, default=4096)
    add("--text-dim", type=int, default=300)
    add("--seconds", type=float, nargs=2, default=(4.0, 10.0), metavar=("MIN", "MAX"))
    return parser


if __name__ == "__main__":
    # a job that is told to end leaves through the usual doors, and so leaves nothing half written
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
