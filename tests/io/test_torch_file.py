"""Files of torch.save without PyTorch: both forms, and what is refused.

The files are written here in the published forms; the older one is also what the packaged
EfficientNet has (tests/extract/test_networks.py).
"""

import collections
import io
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.io.safe_pickle import read_pickle
from avdiff_jax.io.torch_file import MAGIC, read_state
from tests.data.samples import Calls

DTYPES = {"FloatStorage": "f4", "LongStorage": "i8", "HalfStorage": "f2"}


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


@pytest.fixture
def torch_names(monkeypatch):
    """Modules with the names that such a pickle mentions; they are gone before it is read."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch._utils = inner
    for name in DTYPES:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_):
        raise AssertionError("called")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", (
        "_rebuild_tensor_v2")
    inner._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", inner)


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
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for part in content.values():
            yield from tensors_of(part)


def write(path, content, form, **changes):
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


def state():
    matrix = np.arange(6.0).reshape(2, 3)
    content = collections.OrderedDict(
        weight=Tensor(matrix, key="0"),
        turned=Tensor(matrix, key="0", size=(3, 2), stride=(1, 3)),
        part=Tensor(matrix, key="0", offset=3, size=(3,), stride=(1,)),
        count=Tensor(7, "LongStorage", key="1"),
        half=Tensor([0.5, 2.0], "HalfStorage", key="2"),
        empty=Tensor(np.zeros((0, 4)), key="3"),
    )
    content._metadata = {"": {"version": 1}}
    return content, dict(
        weight=matrix, turned=matrix.T, part=matrix[1], count=np.array(7),
        half=np.array([0.5, 2.0]), empty=np.zeros((0, 4)))


@pytest.mark.parametrize("form", ["zip", "older"])
@pytest.mark.parametrize("under", [None, "state_dict", "model"])
def test_both_forms(form, under, tmp_path, torch_names):
    content, wanted = state()
    path = write(tmp_path / "net.pth", {under: content, "epoch": 3} if under else content, form)
    arrays = read_state(path)
    assert arrays.keys() == wanted.keys()
    for name, values in wanted.items():
        assert arrays[name].shape == values.shape
        np.testing.assert_array_equal(arrays[name], values)
    assert arrays["half"].dtype == np.float16 and arrays["count"].dtype == np.int64


@pytest.mark.parametrize("form", ["zip", "older"])
@pytest.mark.parametrize("bad, complaint", [
    (dict(offset=4), "reaches to 9 of 6"),
    (dict(size=(2, 3), stride=(4, 1)), "reaches to 6 of 6"),
    (dict(size=(2, 3), stride=(-3, 1)), "with strides"),
    (dict(size=(10**9, 10**9), stride=(0, 0)), "from 6 numbers"),
])
def test_a_view_beyond_its_numbers(form, bad, complaint, tmp_path, torch_names):
    path = write(tmp_path / "net.pth", {"w": Tensor(np.arange(6.0).reshape(2, 3), **bad)}, form)
    with pytest.raises(UserError, match=complaint):
        read_state(path)


@pytest.mark.parametrize("form", ["zip", "older"])
def test_nothing_of_a_hostile_file_is_run(form, tmp_path, torch_names):
    mark = tmp_path / "mark"
    path = write(tmp_path / "net.pth", {"w": Calls(os.system, f"touch {mark}")}, form)
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        read_state(path)
    assert not mark.exists()


def test_cut_off_at_every_place(tmp_path, torch_names):
    whole = write(tmp_path / "net.pth", state()[0], "older").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_state(tmp_path / "cut.pth")


@pytest.mark.parametrize("changes, complaint", [
    (dict(pack=zipfile.ZIP_DEFLATED), "is packed"),
    (dict(order="big"), "big-endian"),
])
def test_unusual_archives(changes, complaint, tmp_path, torch_names):
    path = write(tmp_path / "net.pth", state()[0], "zip", **changes)
    with pytest.raises(UserError, match=complaint):
        read_state(path)


@pytest.mark.parametrize("content", [{}, [1, 2], 5])
def test_no_state(content, tmp_path, torch_names):
    path = write(tmp_path / "net.pth", content, "zip")
    with pytest.raises(UserError, match="without named tensors"):
        read_state(path)


def test_ids_stay_refused_elsewhere(tmp_path):
    with pytest.raises(UserError, match="persistent id"):
        read_pickle(io.BytesIO(b"Pname\n."), "some.pkl")
