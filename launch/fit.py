"""Clips to trained classifiers: AV-Diff+ and two controls, their table, and how to use them.

    python launch/fit.py --clips FOLDER --out runs/mine
    python launch/fit.py --clips clips.csv --novel rare.txt --shots 5 --out runs/mine
    python launch/fit.py --clips features/ --audio-seconds 0.96 --video-seconds 0.64 --out runs/mine

FOLDER holds class/clip.mp4, or features as class/clip.audio.npy and class/clip.video.npy. A CSV has
the columns path,class[,clip_id][,group][,start][,end], or clip_id,class[,group],audio,video with
.npy files. `make encoders` installs what makes features of video files. The same command again goes
on after a stop.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import signal

from absl import logging

from avdiff_jax.cli.flags import Parser, seed
from avdiff_jax.errors import one_sentence
from avdiff_jax.extract import encoders
from avdiff_jax.fitting.fit import fit
from avdiff_jax.fitting.sources import Settings
from avdiff_jax.io import text_files
from avdiff_jax.runtime import devices, stop


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    add = p.add_argument
    add("--clips", required=True, metavar="FOLDER|CSV", help="video files or features, in classes")
    add("--out", required=True, metavar="DIR", help="where everything is written")
    p.set_defaults(outputs=("out",))  # a fit goes on there, so there is nothing to --overwrite
    add("--novel", default="auto", metavar="FILE|auto",
        help="classes to be learnt from few clips, a name a line; auto: those with too few to be "
             "base")
    add("--base", metavar="FILE", help="classes to be learnt from many clips; default: the others")
    add("--shots", type=int, metavar="K",
        help="clips of each novel class to learn from; default: what the rarest allows, up to 5")
    add("--by", choices=("group", "clip"), help="hold out groups or clips; default: groups if any")
    add("--method", default="avdiff_plus", help="what to compare with the controls linear and ncm")
    add("--text", metavar="FILE", help="class text vectors; default: made from the class names")
    for modality in ("audio", "video"):
        add(f"--{modality}", default=encoders.DEFAULTS[modality], metavar="ENCODER",
            help="of video files, as launch/extract.py has them")
        add(f"--{modality}-seconds", type=float, metavar="S",
            help=f"of given features: seconds per {modality} token")
    add("--seed", type=seed, default=42, help="of all that is drawn")
    return p


def main(argv=None):
    """Fits and says what came of it."""
    with one_sentence():
        args, overrides = parser().parse_with_overrides(sys.argv[1:] if argv is None else argv)
        logging.set_verbosity(logging.WARNING)  # Orbax tells of every step of every save
        devices.configure()
        names = {kind: text_files.lines(path) if path and path != "auto" else None
                 for kind, path in (("novel", args.novel), ("base", args.base))}
        try:
            made = fit(
                args.clips, out=args.out, **names, shots=args.shots, by=args.by,
                method=args.method, seed=args.seed, overrides=overrides,
                **{name: getattr(args, name) for name in Settings._fields})
        except stop.Stopped as stopped:
            print(f"stopped by {stopped}: the same command goes on", file=sys.stderr)
            raise SystemExit(stopped.exit_code) from None
        took = ", ".join(f"{part} {minutes:.1f}" for part, minutes in made.minutes.items())
        took = f"minutes: {took}" if took else "all of it was done before"
        print(f"\n{made}\n\n{took}; written to {args.out}")


if __name__ == "__main__":
    # A job that is told to end leaves through the usual doors, and so leaves nothing half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
