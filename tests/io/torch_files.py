"""Files of torch.save, written in the published forms without PyTorch."""

import collections
import contextlib
import io
import pickle
import sys
import types
import zipfile
from unittest import mock

import jax.dtypes
import numpy as np

from avdiff_jax.io.torch_file import MAGIC

DTYPES = {"FloatStorage": "f4", "LongStorage": "i8", "HalfStorage": "f2",
          "BFloat16Storage": jax.dtypes.bfloat16}


class Tensor:
    """A tensor as torch pickles it: a view of a storage."""

    def __init__(self, values, storage="FloatStorage", key="0", offset=0, size=None, stride=None):
        self.values = np.asarray(values, DTYPES[storage]).ravel()
        self.storage, self.key, self.offset = storage, key, offset
        self.size = np.shape(values) if size is None else size
        self.stride = np.zeros(self.size, "i1").strides if stride is None else stride

    def __reduce__(self):
        torch = sys.modules["torch"]
        return torch._utils._rebuild_tensor_v2, (
            Storage(self), self.offset, tuple(self.size), tuple(self.stride), False,
            collections.OrderedDict())


class Storage:
    def __init__(self, tensor):
        self.tensor = tensor


class Parameter:
    """A parameter as torch pickles it: a tensor, and whether it is trained."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        torch = sys.modules["torch"]
        return torch._utils._rebuild_parameter, (self.tensor, True, collections.OrderedDict())


class Sparse:
    """A sparse tensor as torch pickles it."""

    def __reduce__(self):
        return sys.modules["torch"]._utils._rebuild_sparse_tensor, ()


@contextlib.contextmanager
def torch_names():
    """Modules with the names that such a pickle mentions."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch._utils = inner
    for name in DTYPES:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_sparse_tensor"):
        def rebuild(*_):
            raise AssertionError("called")

        rebuild.__module__, rebuild.__qualname__ = "torch._utils", name
        setattr(inner, name, rebuild)
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": inner}):
        yield


def pickled(content, old):
    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            kind = getattr(sys.modules["torch"], obj.tensor.storage)
            pid = ("storage", kind, obj.tensor.key, "cpu", len(obj.tensor.values))
            return (*pid, None) if old else pid

    out = io.BytesIO()
    Pickler(out, protocol=2).dump(content)
    return out.getvalue()


def tensors_of(content):
    if isinstance(content, Parameter):
        yield content.tensor
    elif isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for part in content.values():
            yield from tensors_of(part)


def write(path, content, form="zip", **changes):
    """Writes `content`, with its tensors, to a file of one of the two forms."""
    with torch_names():
        return _write(path, content, form, **changes)


def _write(path, content, form, **changes):
    storages = {tensor.key: tensor.values for tensor in tensors_of(content)}
    if form == "zip":
        with zipfile.ZipFile(path, "w", changes.get("pack", zipfile.ZIP_STORED)) as archive:
            archive.writestr("net/data.pkl", pickled(content, old=False))
            archive.writestr("net/byteorder", changes.get("order", "little"))
            for key, values in storages.items():
                archive.writestr(f"net/data/{key}", values.tobytes())
        return path
    with open(path, "wb") as file:
        for part in (MAGIC, 1001, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        file.write(pickled(content, old=True))
        pickle.dump(list(storages), file, protocol=2)
        for values in storages.values():
            file.write(len(values).to_bytes(8, "little") + values.tobytes())
    return path
