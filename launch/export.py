"""What other programs can read of a trained model: its parameters, or its scoring function.

    python launch/export.py --model runs/own-5shot --out parameters.npz
    python launch/export.py --model runs/own-5shot --out scores.stablehlo

An .npz is a model file without the tokens of the training clips: all that scoring takes. Anything
else is the scoring function, weights included, as jax.export serialises StableHLO, for CPU and
CUDA; see `exported.scoring_function` for its arguments.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dataclasses

from avdiff_jax.cli.flags import Parser
from avdiff_jax.data.store_report import size_text
from avdiff_jax.errors import UserError, one_sentence
from avdiff_jax.inference import export as exporting
from avdiff_jax.inference import model as models
from avdiff_jax.runtime import devices


def parser() -> Parser:
    """The flags."""
    p = Parser(__doc__)
    p.add_model()
    for modality in ("audio", "video"):
        p.add_argument(f"--{modality}-tokens", type=int, metavar="T",
                       help="function: most tokens of a clip; default: of a training clip")
    p.add_output("FILE", ".npz: parameters; else: function")
    return p


def main(argv=None):
    """Writes the file and says what it is."""
    with one_sentence():
        args = parser().parse_args(argv)
        model = models.load(args.model, args.draw)
        devices.configure()
        out = pathlib.Path(args.out)
        if out.suffix == ".npz":
            if args.audio_tokens or args.video_tokens:
                raise UserError("--audio-tokens and --video-tokens mean nothing for parameters: "
                                "leave them out, or name another --out than an .npz")
            dataclasses.replace(model, examples=None).save(out)
            what = "parameters, statistics and scaling"
        else:
            given = args.audio_tokens, args.video_tokens
            lengths = [length or usual for length, usual in zip(given, model.lengths, strict=True)]
            if min(lengths) < 1:
                raise UserError(f"--audio-tokens and --video-tokens are {lengths}, but must be "
                                "above 0")
            function = exporting.scoring_function(model, *lengths)
            exporting.write(function, out)
            what = f"scores of clips of up to {lengths[0]} audio and {lengths[1]} video tokens, "
            what += "any number of clips, on " + " and ".join(function.platforms)
        print(f"{out}: {what}; {len(model.info.classes)} classes, {size_text(out.stat().st_size)}")


if __name__ == "__main__":
    main()
