"""METHODS: the table of all methods."""

from avdiff_jax.errors import UserError
from avdiff_jax.methods import avdiff, ncm
from avdiff_jax.methods.method import Method

METHODS = {
    "avdiff": avdiff.METHOD,
    "ncm": ncm.METHOD,
}


def method(name: str) -> Method:
    """The method called `name`.

    Raises:
      UserError: unknown name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method={name}; known: {', '.join(METHODS)}")
    return METHODS[name]
