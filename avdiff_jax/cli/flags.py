"""What the command lines of launch/ have in common."""

import argparse
import math
import os
import sys
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Sequence
from typing import Any

from avdiff_jax.cli.choices import LARGEST
from avdiff_jax.errors import UserError
from avdiff_jax.io.files import check_output
from avdiff_jax.io.text_files import check_text

LARGEST_SEED = 2**32 - 1
OVERRIDE = "--config."  # of one field of the configuration


class Parser(argparse.ArgumentParser):
    """Complains in one sentence that names all that is missing, shows defaults, and takes no
    abbreviated flags: a mistyped one is an error, today and when more flags exist."""

    def __init__(self, description: str | None, **more):
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False, **more)

    def add_model(self):
        """The flags that name a trained model, as `inference.model.load` takes them."""
        self.add_argument("--model", required=True, metavar="PATH",
                          help="workdir of a finished run, or a model file (.npz)")
        self.add_argument("--draw", type=int, default=0, metavar="N",
                          help="which draw of the few shots: a run has a model for each")

    def add_clips(self, required: bool = True):
        """The flags that name clips and say how a model is to take them, as
        `inference.sources.open_source` reads them."""
        source = self.add_mutually_exclusive_group(required=required)
        source.add_argument("--clips", metavar="FOLDER|CSV",
                            help="video files, or .npy files as launch/fit.py takes them")
        source.add_argument("--store", metavar="FILE.h5", help="a store")
        source.add_argument("--npz", action="append", metavar="FILE",
                            help="flat arrays; may repeat")
        source.add_argument("--manifest", metavar="FILE.csv",
                            help="clip_id,audio,video of .npy files; class and group where known")
        for modality in ("audio", "video"):
            self.add_argument(f"--{modality}-key", metavar="KEY",
                              help="npz: KEY_flat and KEY_offsets, or VALUES,OFFSETS")
        self.add_argument("--id-key", metavar="KEY", help="npz: clip ids; default: numbered")
        self.add_argument("--label-key", metavar="KEY",
                          help="npz: class number (from 0) or name of each clip")
        self.add_argument("--class-key", metavar="KEY", help="npz: class names")
        self.add_argument("--group-key", metavar="KEY", help="npz: group of each clip")
        for modality in ("audio", "video"):
            self.add_argument(f"--{modality}-weights", metavar="FILE",
                              help="clips: weights, or ONNX model, of the encoder that the model "
                                   f"was trained on, where it needs a file for {modality}")
        self.add_argument("--audio-pca", metavar="FILE.npz", help="clips: of vggish")
        for modality in ("audio", "video"):
            self.add_argument(f"--{modality}-seconds", type=finite, metavar="S",
                              help=f"npz, manifest: seconds per {modality} token; default: those "
                                   "of the model")
        self.add_argument("--match-rate", action="store_true",
                          help="resample tokens of another rate than the model's")
        self.add_argument("--accept-values", action="store_true",
                          help="take values that lie far from those that the model was trained on")

    def add_center_groups(self) -> None:
        """The flag that asks for `inference.groups.score_centered`."""
        self.add_argument(
            "--center-groups", action="store_true",
            help="transductive: bring the mean scores of each group (speaker, session, scene) to "
                 "those of the training clips; all clips are one group where none are known",
        )

    def add_config(self, required: bool = True) -> None:
        """The flag that names a configuration, as `configuration.resolve` takes it."""
        self.add_argument("--config", required=required, metavar="FILE.py:WORDS",
                          help="such as configs/synthetic.py:5shot; --config.x.y=v changes a field")

    def add_output(
        self, metavar: str, help: str, flag: str = "--out", required: bool = True
    ) -> None:
        """A flag that names what the command writes, and --overwrite.

        Before anything is read, `io.files.check_output` looks at it beside all other words of the
        command line.
        """
        action = self.add_argument(flag, required=required, metavar=metavar, help=help)
        outputs = self.get_default("outputs") or ()
        self.set_defaults(outputs=(*outputs, action.dest))
        if not outputs:
            self.add_argument(
                "--overwrite", action="store_true", help="replace what is there already"
            )

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As argparse has it. Raises UserError where an output may not be written, and for numbers
        that mean nothing, too."""
        parsed = super().parse_args(args, namespace)
        for name, value in vars(parsed).items():
            _check_numbers(f"--{name.replace('_', '-')}", value)
        named = (getattr(parsed, name) for name in getattr(parsed, "outputs", ()))
        check_outputs(parsed, *filter(None, named))
        return parsed

    def parse_with_overrides(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The flags, and the words --config.field=value beside them."""
        overrides = [_at_home(word) for word in argv if word.startswith(OVERRIDE)]
        for word in overrides:
            if "=" not in word:
                raise UserError(f"{word}: write {OVERRIDE}field=value")
        return self.parse_args([w for w in argv if not w.startswith(OVERRIDE)]), overrides

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ):
        """As argparse has it; ~ is one's home after = too."""
        args = [_at_home(word) for word in (sys.argv[1:] if args is None else args)]
        for word in args:
            check_text(word, "a word of the command line")
        self._given = {word.partition("=")[0] for word in args}
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        """Instead of usage and exit."""
        flags = [word for word in self._given if word.startswith("--") and word != "--"]
        mistyped = [word for word in flags if word not in self._option_string_actions]
        if mistyped and not self._subparsers and "required" in message:
            # argparse comes to what it does not know only when all is there that it needs
            message = f"unrecognized arguments: {' '.join(sorted(mistyped))}"
        if message.startswith("the following arguments are required"):
            # argparse comes to the flags of which one is needed only when all others are there
            for group in self._mutually_exclusive_groups:
                flags = [action.option_strings[0] for action in group._group_actions]
                if group.required and not self._given & {*flags}:
                    message += f", {' or '.join(flags)}"
        raise UserError(f"{message} (--help lists the flags)")


def seed(text: str) -> int:
    """A number that everything random can begin with."""
    if not text.isascii() or not text.isdigit() or int(text) > LARGEST_SEED:
        raise ArgumentTypeError(f"{text!r} must be a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def finite(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} must be a finite number")
    return value


def check_outputs(args: argparse.Namespace, *paths: str | os.PathLike) -> None:
    """Refuses to write `paths` where one of the other words of the command line names an input
    there, or as `io.files.check_output` says. Raises UserError."""
    inputs = []
    for name, value in vars(args).items():
        if name not in ("outputs", *getattr(args, "outputs", ())):
            words = value if isinstance(value, list | tuple) else [value]
            inputs += [word for word in words if isinstance(word, str)]
    for path in paths:
        check_output(path, overwrite=getattr(args, "overwrite", False), inputs=inputs)


def _check_numbers(flag: str, value: object) -> None:
    """Raises UserError for a number, or one of several, that is not finite or beyond 32 bits."""
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{flag} {number} must be a finite number")
        if isinstance(number, int) and abs(number) > LARGEST:
            raise UserError(f"{flag} {number} must be at most {LARGEST}")


def _at_home(word: str) -> str:
    """--out=~/x -> --out=/home/me/x, which shells leave alone."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + os.path.expanduser(value)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Says the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action):
        default = action.default
        silent = default is None or isinstance(default, bool) or default in ("", [], SUPPRESS)
        return action.help if silent else f"{action.help}; default: {_words(default)}"


def _words(default: object) -> str:
    """As one writes it in a command."""
    parts = default if isinstance(default, list | tuple) else [default]
    return (" " if isinstance(default, tuple) else ",").join(map(str, parts)).replace("%", "%%")
