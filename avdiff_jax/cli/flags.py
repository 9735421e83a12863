"""What the command lines of launch/ have in common."""

import argparse
from argparse import SUPPRESS

from avdiff_jax.errors import UserError

OVERRIDE = "--config."  # of one field of the configuration


class Parser(argparse.ArgumentParser):
    """Complains in one sentence that names all that is missing, shows defaults, and takes no
    abbreviated flags: a mistyped one is an error, today and when more flags exist."""

    def __init__(self, description: str, **more):
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False, **more)

    def add_model(self):
        """The flags that name a trained model, as `inference.model.load` takes them."""
        self.add_argument("--model", required=True, metavar="PATH",
                          help="workdir of a finished run, or a model file (.npz)")
        self.add_argument("--draw", type=int, default=0, metavar="N",
                          help="which draw of the few shots: a run has a model for each")

    def parse_with_overrides(self, argv) -> tuple[argparse.Namespace, list[str]]:
        """The flags, and the words --config.field=value beside them."""
        overrides = [word for word in argv if word.startswith(OVERRIDE)]
        for word in overrides:
            if "=" not in word:
                raise UserError(f"{word}: write {OVERRIDE}field=value")
        return self.parse_args([word for word in argv if word not in overrides]), overrides

    def parse_known_args(self, args=None, namespace=None):
        """As argparse has it."""
        self._given = {word.partition("=")[0] for word in args or ()}
        return super().parse_known_args(args, namespace)

    def error(self, message):
        """Instead of usage and exit."""
        if message.startswith("the following arguments are required"):
            # argparse comes to the flags of which one is needed only when all others are there
            for group in self._mutually_exclusive_groups:
                flags = [action.option_strings[0] for action in group._group_actions]
                if group.required and not self._given & {*flags}:
                    message += f", {' or '.join(flags)}"
        raise UserError(f"{message} (--help lists the flags)")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Says the default of each flag that has one."""

    def _get_help_string(self, action):
        default = action.default
        silent = default is None or isinstance(default, bool) or default in ("", [], SUPPRESS)
        return action.help if silent else f"{action.help}; default: {_words(default)}"


def _words(default) -> str:
    """As one writes it in a command."""
    parts = default if isinstance(default, list | tuple) else [default]
    return (" " if isinstance(default, tuple) else ",").join(map(str, parts)).replace("%", "%%")
