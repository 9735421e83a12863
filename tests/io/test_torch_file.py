"""Files of torch.save without PyTorch: both forms, and what is refused.

The files are written here in the published forms; the older one is also what the packaged
EfficientNet has (tests/extract/test_networks.py).
"""

import collections
import io
import os
import zipfile

import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.io.safe_pickle import read_pickle
from avdiff_jax.io.torch_file import read_state
from tests.data.samples import Calls
from tests.io.torch_files import Parameter, Sparse, Tensor, write


def state():
    matrix = np.arange(6.0).reshape(2, 3)
    content = collections.OrderedDict(
        weight=Tensor(matrix, key="0"),
        turned=Tensor(matrix, key="0", size=(3, 2), stride=(1, 3)),
        part=Tensor(matrix, key="0", offset=3, size=(3,), stride=(1,)),
        count=Tensor(7, "LongStorage", key="1"),
        half=Tensor([0.5, 2.0], "HalfStorage", key="2"),
        empty=Tensor(np.zeros((0, 4)), key="3"),
        brain=Tensor([1.5, -3.0], "BFloat16Storage", key="4"),
        trained=Parameter(Tensor([4.0, 5.0], key="5")),
    )
    content._metadata = {"": {"version": 1}}
    return content, dict(
        weight=matrix, turned=matrix.T, part=matrix[1], count=np.array(7),
        half=np.array([0.5, 2.0]), empty=np.zeros((0, 4)), brain=np.array([1.5, -3.0]),
        trained=np.array([4.0, 5.0]))


@pytest.mark.parametrize("form", ["zip", "older"])
@pytest.mark.parametrize("under", [None, "state_dict", "model"])
def test_both_forms(form, under, tmp_path):
    content, wanted = state()
    path = write(tmp_path / "net.pth", {under: content, "epoch": 3} if under else content, form)
    arrays = read_state(path)
    assert arrays.keys() == wanted.keys()
    for name, values in wanted.items():
        assert arrays[name].shape == values.shape
        np.testing.assert_array_equal(arrays[name], values)
    assert arrays["brain"].dtype == np.float32
    assert arrays["half"].dtype == np.float16 and arrays["count"].dtype == np.int64


@pytest.mark.parametrize("form", ["zip", "older"])
@pytest.mark.parametrize("bad, complaint", [
    (dict(offset=4), "reaches to 9 of 6"),
    (dict(size=(2, 3), stride=(4, 1)), "reaches to 6 of 6"),
    (dict(size=(2, 3), stride=(-3, 1)), "with strides"),
    (dict(size=(10**9, 10**9), stride=(0, 0)), "from 6 numbers"),
])
def test_a_view_beyond_its_numbers(form, bad, complaint, tmp_path):
    path = write(tmp_path / "net.pth", {"w": Tensor(np.arange(6.0).reshape(2, 3), **bad)}, form)
    with pytest.raises(UserError, match=complaint):
        read_state(path)


@pytest.mark.parametrize("form", ["zip", "older"])
def test_nothing_of_a_hostile_file_is_run(form, tmp_path):
    mark = tmp_path / "mark"
    path = write(tmp_path / "net.pth", {"w": Calls(os.system, f"touch {mark}")}, form)
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        read_state(path)
    assert not mark.exists()


def test_cut_off_at_every_place(tmp_path):
    whole = write(tmp_path / "net.pth", state()[0], "older").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_state(tmp_path / "cut.pth")


@pytest.mark.parametrize("changes, complaint", [
    (dict(pack=zipfile.ZIP_DEFLATED), "is packed"),
    (dict(order="big"), "big-endian"),
])
def test_unusual_archives(changes, complaint, tmp_path):
    path = write(tmp_path / "net.pth", state()[0], "zip", **changes)
    with pytest.raises(UserError, match=complaint):
        read_state(path)


def test_a_sparse_tensor_is_named(tmp_path):
    path = write(tmp_path / "net.pth", {"w": Sparse()})
    with pytest.raises(UserError, match=r"asks for torch\._utils\._rebuild_sparse_tensor"):
        read_state(path)


@pytest.mark.parametrize("content", [{}, [1, 2], 5, {"model": [1, 2]}])
def test_no_state(content, tmp_path):
    path = write(tmp_path / "net.pth", content, "zip")
    with pytest.raises(UserError, match="without named tensors"):
        read_state(path)


def test_ids_stay_refused_elsewhere(tmp_path):
    with pytest.raises(UserError, match="persistent id"):
        read_pickle(io.BytesIO(b"Pname\n."), "some.pkl")
