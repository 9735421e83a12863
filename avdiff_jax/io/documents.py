"""JSON documents with a type, a schema and a version: what is wrong with one is a sentence."""

import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath, write_text
from avdiff_jax.io.text_files import text_of

LARGEST = 1e300  # a number beyond is a mistake, and Python's integers have no end
WORDS = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false",
         dict: "an object", list: "a list", type(None): "null"}


@dataclass(frozen=True)
class Document:
    """A kind of JSON document.

    what: it is called in messages.
    content: its type: a TypedDict, or a dict with the type of its values. Fields that the type does
      not name are left alone, so that files of later code can say more.
    mend: what to do about a file that cannot be read, the end of a sentence.
    schema, version: that a file must name; None for a kind that has none. Without a schema a file
      of version 1 may leave out its version.
    """

    what: str
    content: type
    mend: str
    schema: str | None = None
    version: int | None = None

    def read(self, path: FilePath, missing: str = "") -> Any:
        """The content of a file.

        Args:
          missing: what to do where there is no file; `mend` if not given.

        Raises:
          UserError: the file is missing, no JSON, of another schema or version, or not of the type.
        """
        if not os.path.exists(path):
            raise UserError(f"{self.what} {os.fspath(path)} does not exist: {missing or self.mend}")
        return self.parse(text_of(path, self.what), path)

    def parse(self, text: str | bytes, path: FilePath) -> Any:
        """The content of a text that stands in `path`. Raises UserError as `read` does."""
        path = os.fspath(path)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.what} {path} is not JSON ({error}): {self.mend}") from None
        if not isinstance(content, dict):
            raise UserError(
                f"{path} holds {WORDS.get(type(content), 'a number')} where a {self.what} is an "
                f"object: {self.mend}"
            )
        said = content.get("schema"), content.get("version", None if self.schema else 1)
        if self.version is not None and said != (self.schema, self.version):
            here, wanted = (
                " ".join([f"schema {schema!r}"] * bool(self.schema) + [f"version {version!r}"])
                for schema, version in (said, (self.schema, self.version))
            )
            raise UserError(
                f"{path} has {here} where {wanted} is read: use the code that wrote it, or "
                f"{self.mend}"
            )
        if wrong := mismatch(content, self.content):
            raise UserError(f"{self.what} {path}: {wrong}: {self.mend}")
        return content


def write(
    path: FilePath, content: Mapping, indent: int = 2, sort_keys: bool = True
) -> None:
    """Writes a document, whole or not at all.

    Raises:
      ValueError: a number that is not finite, named by its place.
      UserError: the place cannot be written to.
    """
    write_text(path, json.dumps(
        plain(content), indent=indent, sort_keys=sort_keys, ensure_ascii=False) + "\n")


def plain(value: Any, place: str = "") -> Any:
    """Only dict, list, str, bool, int, finite float and None, from anything that means these.

    Args:
      value: mappings (a ConfigDict too), sequences, arrays and scalars of NumPy and JAX, nested;
        anything else becomes its string.
      place: what to call `value` in a complaint.

    Raises:
      ValueError: a number that is not finite, named by its place.
    """
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(k): plain(v, f"{place}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist(), place)
    if isinstance(value, list | tuple):
        return [plain(v, f"{place}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}: only finite numbers are written")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def mismatch(value: Any, kind: Any, place: str = "") -> str:
    """What is not of its type in a decoded JSON value, in words; nothing where all is well.

    Args:
      kind: a TypedDict, list[...], dict[str, ...], a union, a Literal, Any or a plain type. An int
        will do for a float.
      place: what to call `value`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return ""
    if origin in (typing.Union, types.UnionType):
        complaints = [mismatch(value, option, place) for option in arguments]
        return "" if "" in complaints else _wrong(place, value, kind)
    if origin is typing.Literal:
        return "" if value in arguments else _wrong(place, value, kind)
    if not _is_a(value, _plain_type(kind)):
        return _wrong(place, value, kind)
    dot = f"{place}." if place else ""
    if typing.is_typeddict(kind):
        absent = sorted(kind.__required_keys__ - value.keys())
        if absent:
            return f"{dot}{absent[0]} is missing"
        parts = [(value[name], part, f"{dot}{name}")
                 for name, part in typing.get_type_hints(kind).items() if name in value]
    elif origin is dict:
        parts = [(item, arguments[1], f"{dot}{name}") for name, item in value.items()]
    elif origin is list:
        parts = [(item, arguments[0], f"{place}[{i}]") for i, item in enumerate(value)]
    else:
        parts = []
    return next(filter(None, (mismatch(*part) for part in parts)), "")


def _plain_type(kind: type) -> type:
    """What `isinstance` can test: list[int] -> list, a TypedDict -> dict."""
    return dict if typing.is_typeddict(kind) else typing.get_origin(kind) or kind


def _is_a(value: Any, kind: type) -> bool:
    if kind in (int, float):
        fits = isinstance(value, int | kind) and not isinstance(value, bool)
        return fits and -LARGEST < value < LARGEST
    return isinstance(value, kind)


def _wrong(place: str, value: object, kind: type) -> str:
    # A container is named, not shown: it may be of any size and depth.
    text = WORDS[type(value)] if isinstance(value, list | dict) else json.dumps(value)
    short = text if len(text) <= 40 else text[:37] + "..."
    return f"{place} is {short} but must be {_words(kind)}"


def _words(kind: type) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    words = WORDS[_plain_type(kind)]
    each = {list: "entry", dict: "value"}.get(origin)
    return f"{words}, each {each} {_words(arguments[-1])}" if each else words
