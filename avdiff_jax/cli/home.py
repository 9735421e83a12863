"""Where the folders `configs/` and `launch/` lie."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "home"  # setup.py puts both folders there

# The folder that holds both: within an installed package, beside the package of a checkout.
HOME = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent


def command(name: str) -> str:
    """How a user calls launch/NAME.py: an installed package has one program for all of them."""
    return f"avdiff-jax {name}" if HOME == _INSTALLED else f"python launch/{name}.py"
