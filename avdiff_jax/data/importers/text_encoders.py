"""Class text vectors from the names alone, by an embedding whose weights pip brings."""

import functools
import hashlib
import importlib
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avdiff_jax.data.class_text import respell, unit
from avdiff_jax.data.importers.word_vectors import words_of
from avdiff_jax.errors import UserError

ENCODERS = ("wordllama",)
INSTALL = "make encoders"
PACKAGE = "wordllama"
WEIGHTS = "weights/l2_supercat_256.safetensors"  # inside the package


def encode_names(
    class_names: Sequence[str], manual: Mapping[str, str] | None = None
) -> np.ndarray:
    """Encodes class names by WordLlama, without a network: [C, 256] float32 of length 1 each.

    Args:
      manual: class name -> words to take instead.

    Raises:
      UserError: it is not installed, or cannot be loaded.
    """
    phrases = [phrase_of(name) for name in respell(class_names, manual)]
    return unit(load_wordllama().embed(phrases))


def phrase_of(name: str) -> str:
    """"HandstandPushups2x" -> "handstand pushups 2 x"; a name without a word is its own phrase."""
    words = [part for word in words_of(name) for part in re.findall(r"\d+|[^\d]+", word)]
    return " ".join(words).lower() or name


def is_installed() -> bool:
    """Whether names can be encoded here."""
    return _folder() is not None


def identify() -> str:
    """What tells vectors of these weights from all others: wordllama and a part of their sha256.

    Raises:
      UserError: they are not installed.
    """
    return _identify(_require_folder() / WEIGHTS)


@functools.cache
def _identify(path: Path) -> str:
    with open(path, "rb") as file:
        return f"wordllama-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _folder() -> Path | None:
    """The folder of the package, which is not imported; None where it holds no weights."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return folder if folder and (folder / WEIGHTS).is_file() else None


def _require_folder() -> Path:
    folder = _folder()
    if folder is None:
        raise UserError(f"WordLlama, which makes vectors from class names, is not installed: run "
                        f"`{INSTALL}`, or `pip install wordllama`")
    return folder


@functools.cache
def load_wordllama() -> Any:
    """Loads the packaged model, once. Raises UserError where it is not installed or not whole."""
    folder, root = _require_folder(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        package: Any = importlib.import_module(PACKAGE)
        # Its tokenizer lies where only the cache folder is looked for.
        return package.WordLlama.load(cache_dir=folder, disable_download=True)
    except Exception as error:  # of any kind: a part of it is missing or of another version
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"WordLlama cannot be loaded ({reason}): install it again by `{INSTALL}`"
                        ) from None
    finally:  # it sets up logging for everybody when it is imported
        root.handlers[:] = handlers
        root.setLevel(level)
