"""The command of an installed package: `avdiff-jax NAME FLAGS` is `python launch/NAME.py FLAGS`."""

import ast
import runpy
import sys

from avdiff_jax.cli.home import HOME
from avdiff_jax.errors import UserError, one_sentence

COMMANDS = {path.stem: path for path in sorted((HOME / "launch").glob("*.py"))}


def describe_commands() -> str:
    """One line a command: its name and the first line of its file."""
    lines = ["usage: avdiff-jax COMMAND [FLAGS]; avdiff-jax COMMAND --help lists its flags", ""]
    for name, path in COMMANDS.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<12}{text.splitlines()[0].split(': python ')[0]}")
    return "\n".join(lines)


def main() -> None:
    """Runs the command that the first word names, with the other words as its flags.

    Raises:
      SystemExit: with code 2, where no command has that name.
    """
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(describe_commands())
        return
    name = sys.argv[1]
    with one_sentence():
        if name not in COMMANDS:
            raise UserError(f"there is no command {name!r}: name one of {', '.join(COMMANDS)}")
    sys.argv = [str(COMMANDS[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
