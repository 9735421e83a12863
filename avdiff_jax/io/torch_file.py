"""Files of torch.save, read without PyTorch and without trust.

Both forms are read: the zip archive of today, and the older one in which pickles and raw numbers
follow each other. Only plain tensors count; the pickles go through `safe_pickle`.
"""

import io
import math
import os
import zipfile
from types import MappingProxyType
from typing import Any, BinaryIO

import jax.dtypes
import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.safe_pickle import read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # opens a file of the older form
MAX_BYTES = 8 << 30  # of one storage; more is a mistake
BFLOAT16 = "bfloat16"  # which NumPy does not know by itself
STORAGES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": BFLOAT16, "Long": "i8", "Int": "i4",
    "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}
TENSOR = "tensor"  # marks what a tensor is spelled with


def _rebuild(storage, offset, size, stride, *_):
    return TENSOR, storage, offset, size, stride


def _rebuild_parameter(tensor, *_):
    return tensor


_NAMES = MappingProxyType({
    **{f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()},
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.Size": tuple,
    "torch.device": lambda *words: list(words),
})


def read_state(path: FilePath) -> dict[str, np.ndarray]:
    """The named tensors of a saved state_dict, at its top or under "state_dict" or "model"; those
    of bfloat16 as float32.

    Raises:
      UserError: the file cannot be read, is none of torch.save, asks for more than plain tensors,
        or contradicts itself.
    """
    path = os.fspath(path)
    with text_files.open_file(path, "weight file") as file:
        try:
            read = _read_archive if zipfile.is_zipfile(file) else _read_sequence
            content, storages = read(file, path)
            for key in ("state_dict", "model"):
                if isinstance(content, dict) and isinstance(content.get(key), dict):
                    content = content[key]
            state = {
                _name(key): _array(value, storages)
                for key, value in (content.items() if isinstance(content, dict) else ())
                if isinstance(value, tuple) and value[:1] == (TENSOR,)
            }
            if not state:
                raise ValueError(f"a {type(content).__name__} without named tensors")
            return state
        except UserError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, EOFError,
                OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"weight file {path} is no state_dict of torch.save or is damaged "
                            f"({reason}): copy it again") from None


def _name(key: str | bytes) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _read_archive(file: BinaryIO, path: str) -> tuple[Any, dict[str, bytes]]:
    """(content, key -> raw numbers) of the zip form."""
    file.seek(0)
    archive = zipfile.ZipFile(file)
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}

    def read(name: str) -> bytes:
        # A packed member could unfold to any size, and torch.save packs none.
        if members[name].compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is packed")
        return archive.read(members[name])

    class Storages(dict):
        def __missing__(self, key: str) -> bytes:
            self[key] = read(f"data/{key}")
            return self[key]

    if "byteorder" in members and read("byteorder") != b"little":
        raise ValueError("numbers in big-endian order")
    return read_pickle(io.BytesIO(read("data.pkl")), path, _NAMES, keep_ids=True), Storages()


def _read_sequence(file: BinaryIO, path: str) -> tuple[Any, dict[str, bytes]]:
    """(content, key -> raw numbers) of the older form."""
    file.seek(0)
    if read_pickle(file, path) != MAGIC:
        raise ValueError("it does not begin as such files do")
    read_pickle(file, path)  # version of the form
    read_pickle(file, path)  # sizes of numbers on the machine that wrote it
    content = read_pickle(file, path, _NAMES, keep_ids=True)
    widths = {}
    _collect_widths(content, widths)
    storages = {}
    for key in read_pickle(file, path):
        count = int.from_bytes(_read_exactly(file, 8), "little")
        storages[_name(key)] = _read_exactly(file, count * widths[_name(key)])
    return content, storages


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    there = file.read(min(size, MAX_BYTES))
    if len(there) != size:
        raise ValueError(f"{size} bytes stated and {len(there)} there")
    return there


def _collect_widths(value: Any, widths: dict[str, int]) -> None:
    """Storage key -> bytes of one of its numbers, from the tensors in nested containers."""
    if isinstance(value, dict):
        for part in value.values():
            _collect_widths(part, widths)
    elif isinstance(value, tuple) and value[:1] == (TENSOR,):
        _, dtype, key, *_ = value[1]
        widths[_name(key)] = _numpy(dtype).itemsize
    elif isinstance(value, (list, tuple)):
        for part in value:
            _collect_widths(part, widths)


def _array(tensor: tuple, storages: dict[str, bytes]) -> np.ndarray:
    """One tensor as a contiguous array; its reach is checked against what is there."""
    _, (_, dtype, key, *_), offset, size, stride = tensor
    values = np.frombuffer(storages[_name(key)], _numpy(dtype))
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"a tensor of shape {size} with strides {stride}")
    if math.prod(size) > len(values):  # a view that repeats numbers could unfold to any size
        raise ValueError(f"a tensor of shape {size} from {len(values)} numbers")
    if 0 in size:
        return np.zeros(size, values.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(values):
        raise ValueError(f"a tensor that reaches to {last} of {len(values)} numbers")
    view = np.lib.stride_tricks.as_strided(
        values[offset:], size, [step * values.itemsize for step in stride], writeable=False)
    return view.astype(np.float32) if dtype == BFLOAT16 else view.copy()


def _numpy(dtype: str) -> np.dtype:
    return np.dtype(jax.dtypes.bfloat16 if dtype == BFLOAT16 else dtype)
