"""Pickles of plain data, read without trust: nothing that a file asks for is ever run.

The reader knows arrays, lists, dicts, tuples, strings and numbers only. What a pickle says of them
builds stand-ins first, which say for themselves what they hold.
"""

import math
import pickle
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath


class _Refused(Exception):
    """A pickle asks for something that is not data."""


class _Global:
    """Stands for the few names a pickle may mention. Calling it builds data, nothing else."""

    __slots__ = ("make",)

    def __init__(self, make: Callable):
        object.__setattr__(self, "make", make)

    def __call__(self, *args):
        return self.make(*args)

    def __setattr__(self, name: str, value: object):  # BUILD with a state must not change us
        raise _Refused(f"setting {name!r}")

    def __setstate__(self, state: Any):
        raise _Refused("setting the state of a global")


class _Dtype:
    """A dtype as a pickle spells it. Only plain numbers, strings and objects exist here.

    NumPy's own `dtype.__setstate__` would believe fields and flags from the file, and so
    could be told to take raw bytes for object pointers; it is therefore never called.
    """

    __slots__ = ("order", "spec")

    def __init__(self, spec: Any, *_):
        spec = _text(spec)
        if not re.fullmatch(r"[<>=|]?([biuf]\d{1,2}|[SU]\d{1,6}|O8?)", spec):
            raise _Refused(f"the NumPy type {spec!r}")
        self.order: Any = spec[0] if spec[0] in "<>" else "="
        self.spec = spec.lstrip("<>=|")

    def __setstate__(self, state: Any):
        if not isinstance(state, tuple) or len(state) < 5 or any(
                part is not None for part in state[2:5]):
            raise _Refused("a structured NumPy type")
        order = _text(state[1])
        self.order = order if order in ("<", ">") else "="

    @property
    def holds_objects(self):
        return self.spec.startswith("O")

    def numpy(self):
        return np.dtype(self.spec).newbyteorder(self.order)


class _Array:
    """An array as a pickle spells it: made empty, then given its state."""

    __slots__ = ("value",)

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state: Any):
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: object, shape: Any, order: str = "C") -> Any:
    """Bytes -> array; a list (object array) -> its list, or its one element for shape ()."""
    if not isinstance(dtype, _Dtype):
        raise ValueError("an array without a type")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    if dtype.holds_objects:
        if not isinstance(data, list) or len(data) != math.prod(shape) or len(shape) > 1:
            raise ValueError(f"an object array of shape {shape}")
        return data if shape else data[0]
    if isinstance(data, str):  # protocol 2 spells bytes as text
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError("an array without bytes")
    kind = dtype.numpy()
    if len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and type {kind}")
    if not data:
        return np.zeros(shape, kind)
    return np.frombuffer(data, kind).reshape(shape, order="F" if _text(order) == "F" else "C")


def _frombuffer(data: Any, dtype: object, shape: Any, order: str, *_):
    """Stands for NumPy's function by which protocol 5 spells an array."""
    array = _Array()
    array.value = _array(data, dtype, shape, order)
    return array


def _encode(text: str, encoding: str = "utf-8"):
    """Stands for `_codecs.encode`, by which protocol 2 spells bytes."""
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: object, data: Any = None):
    return _array(data, dtype, ()).item()


def _bytes(*args):
    """Stands for `bytes` and `bytearray`: empty, or a copy of bytes; never a size."""
    if args and isinstance(args[0], str) and len(args) == 2:
        return _encode(*args)
    if len(args) > 1 or (args and not isinstance(args[0], (bytes, bytearray))):
        raise _Refused("bytes() of something that is not bytes")
    return bytes(*args)


def _text(value: object):
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _OrderedDict(dict):
    """An ordered dict as a pickle spells it, without attributes."""

    def __setstate__(self, state):
        """PyTorch keeps versions of layers there."""


def _globals(more: Mapping[str, object]) -> dict[str, object]:
    """Dotted name -> stand-in; made anew for each pickle, so that none can spoil the next."""
    table = {
        "numpy.dtype": _Dtype, "_codecs.encode": _encode,
        "collections.OrderedDict": _OrderedDict,
        "numpy.ndarray": _Array,  # only ever an argument of _reconstruct
    }
    for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
        table[f"{core}.multiarray._reconstruct"] = _Array
        table[f"{core}.multiarray.scalar"] = _scalar
        table[f"{core}.numeric._frombuffer"] = _frombuffer
    for builtins in ("builtins", "__builtin__"):  # Python 3 and 2
        table[f"{builtins}.bytes"] = table[f"{builtins}.bytearray"] = _bytes
    table |= more
    return {name: _Global(make) if callable(make) else make for name, make in table.items()}


class _DataUnpickler(pickle.Unpickler):
    """Reads data; whatever else the file names is refused by that name."""

    def __init__(self, file: BinaryIO, more: Mapping[str, object], keep_ids: bool):
        super().__init__(file, encoding="bytes")  # Python 2 strings stay bytes, as array data
        self._known, self._keep_ids = _globals(more), keep_ids

    def find_class(self, module: str, name: str):
        dotted = f"{module}.{name}"
        if dotted not in self._known:
            raise _Refused(dotted)
        return self._known[dotted]

    def persistent_load(self, pid: object):
        if not self._keep_ids:
            raise _Refused(f"persistent id {pid!r}")
        return pid


def read_pickle(
    file: BinaryIO, path: FilePath, more: Mapping[str, object] = MappingProxyType({}),
    keep_ids: bool = False,
) -> Any:
    """Reads a pickle of plain data from an open binary file without running anything.

    Args:
      file: stands behind the pickle afterwards.
      path: for messages.
      more: dotted name -> what it becomes: a constant, or a function of plain data to plain data.
      keep_ids: persistent ids come back as what they are spelled with, instead of being refused.

    Returns dicts, lists, tuples, strings, numbers, None and numeric or string arrays; object
    arrays come back as lists. Raises UserError, naming `path` and whatever else was asked for.
    """
    try:
        return _plain(_DataUnpickler(file, more, keep_ids).load(), {}, 0)
    except _Refused as error:
        raise UserError(f"{path} is refused because its pickle asks for {error}, which is not "
                        f"plain data (arrays, lists, dicts, strings, numbers): save it as such"
                        ) from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError,
            KeyError, OverflowError, MemoryError, RecursionError, ImportError) as error:
        if isinstance(error, UserError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a readable pickle of plain data ({reason}): copy or make "
                        f"it again") from None


def _plain(value: Any, done: dict, depth: int):
    """Replaces stand-ins by what they hold; refuses types that are not data.

    `done` keeps shared parts shared: without it a small pickle could unfold without end.
    """
    if depth > 20:
        raise ValueError("containers nested more than 20 deep")
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if id(value) in done:
        if done[id(value)] is None:
            raise ValueError("a container that holds itself")
        return done[id(value)][0]
    done[id(value)] = None
    if type(value) is bytearray:
        result = bytes(value)
    elif type(value) is np.ndarray:
        result = value
    elif type(value) is _Array:
        result = value.value if value.value is None else _plain(value.value, done, depth + 1)
        if result is None:
            raise ValueError("an array without contents")
    elif type(value) in (list, tuple):
        result = type(value)(_plain(part, done, depth + 1) for part in value)
    elif type(value) in (dict, _OrderedDict):
        result = {
            _plain(key, done, depth + 1): _plain(part, done, depth + 1)
            for key, part in value.items()
        }
    else:
        raise _Refused(f"a {type(value).__name__.lstrip('_')}")
    done[id(value)] = (result, value)  # keeps `value` alive, so that its id stays its own
    return result
