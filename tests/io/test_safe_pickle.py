"""Pickles are data: hostile ones run nothing, broken ones are a sentence."""

import io
import os
import pickle
import struct

import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.io.safe_pickle import read_pickle
from tests.data.samples import Calls


def load(data):
    return read_pickle(io.BytesIO(data), "some.pkl")


def text_op(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def hostile(sentinel):
    """Pickles that would create `sentinel`, or open the way to it, and the name they are
    refused by."""
    command = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w').close()"
    touch = text_op(str(sentinel))
    array_global = b"cnumpy.core.multiarray\n_reconstruct\n"
    yield "os.system", pickle.dumps(Calls(os.system, command)), "posix.system"
    yield "eval", pickle.dumps(Calls(eval, code)), "builtins.eval"
    yield "exec", pickle.dumps(Calls(exec, code), protocol=0), "__builtin__.exec"
    yield "getattr", pickle.dumps(Calls(getattr, str, "join")), "builtins.getattr"
    yield "open", b"cbuiltins\nopen\n(" + touch + text_op("w") + b"tR.", "builtins.open"
    yield "io.open", b"cio\nopen\n(" + touch + text_op("w") + b"tR.", "io.open"
    yield "in an array", pickle.dumps(
        {"features": np.array([Calls(os.system, command)], dtype=object)}), "posix.system"
    yield "in a key", pickle.dumps((1, [{"a": Calls(os.system, command)}])), "posix.system"
    yield "instance", b"(S'" + command.encode() + b"'\nios\nsystem\n.", "os.system"
    yield "object", b"(cos\nsystem\nS'" + command.encode() + b"'\no.", "os.system"
    yield "runstring", b"cnumpy.testing._private.utils\nrunstring\n(" + text_op(code) + b"}tR.", (
        "numpy.testing._private.utils.runstring")
    yield "np.save", b"cnumpy\nsave\n(" + touch + b"K\x01tR.", "numpy.save"
    new_map = touch + text_op("u1") + text_op("w+") + b"K\x00K\x04"
    yield "np.memmap", b"cnumpy\nmemmap\n(" + new_map + b"tR.", "numpy.memmap"
    yield "np.load", b"cnumpy\nload\n(" + touch + b"tR.", "numpy.load"
    yield "tofile", b"cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"
    yield "dotted", b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "numpy.dtype.__init__"
    yield "copyreg", b"ccopyreg\n_reconstructor\n(tR.", "copyreg._reconstructor"
    yield "persistent", b"Pname\n.", "persistent id"
    yield "codec", b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "rot13"
    # Changing what is allowed: attributes of our own stand-ins.
    yield "global state", array_global + b"}" + text_op("make") + b"K\x01sb.", (
        "setting the state of a global")
    yield "global slots", array_global + b"N}" + text_op("make") + b"K\x01s\x86b.", "global"
    # Memory tricks: types whose fields NumPy would believe.
    yield "structured", pickle.dumps(np.zeros(2, [("a", "O"), ("b", "i8")])), "the NumPy type 'V16'"
    yield "fields", (b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8\x89\x88tR(K\x03X\x01\x00\x00\x00|N"
                     b"X\x01\x00\x00\x00a\x85}K\x08K\x01K\x3ftb."), "a structured NumPy type"
    yield "bytes of a size", b"cbuiltins\nbytearray\n(I99\ntR.", "bytes()"
    yield "set", pickle.dumps({1, 2}), "a set"
    yield "function", b"cnumpy\ndtype\n.", "a Global"
    yield "complex", pickle.dumps(1j), "builtins.complex"


@pytest.mark.parametrize("number", range(len(list(hostile("x")))),
                         ids=[name for name, *_ in hostile("x")])
def test_hostile_pickles_run_nothing(tmp_path, number):
    sentinel = tmp_path / "sentinel"
    _, data, name = list(hostile(sentinel))[number]
    with pytest.raises(UserError) as error:
        load(data)
    assert name in str(error.value) and "some.pkl is refused" in str(error.value)
    assert "\n" not in str(error.value)
    assert not sentinel.exists()


def test_the_hostile_pickles_are_real(tmp_path):
    """Otherwise the test above would prove nothing."""
    for name, data, _ in hostile(tmp_path / "sentinel"):
        if name in ("os.system", "eval", "exec", "open", "in an array", "instance",
                    "np.memmap"):
            (tmp_path / "sentinel").unlink(missing_ok=True)
            made = pickle.loads(data)  # the sentinel is all that it touches
            getattr(made, "close", int)()
            assert (tmp_path / "sentinel").exists(), name


def test_one_pickle_cannot_spoil_the_next():
    with pytest.raises(UserError):
        load(b"cnumpy\nndarray\nN}" + text_op("__setstate__") + b"K\x01s\x86b.")
    np.testing.assert_array_equal(load(pickle.dumps(np.arange(3))), np.arange(3))


@pytest.mark.parametrize("data", [
    b"", b"\x80", b"garbage", pickle.dumps(np.arange(99))[:-30], b"N", b"cnumpy\n",
    pickle.dumps([1])[:-1] + b"e.",
    b"]q\x00h\x00a.",  # a list that holds itself
    b"]" * 50 + b"a" * 49 + b".",  # nested
    b"cnumpy.core.multiarray\n_reconstruct\n(tR.",  # an array without contents
    # an array that claims far more than its bytes
    pickle.dumps(np.zeros(3, np.uint8), protocol=2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
])
def test_broken_pickles_are_one_sentence(data):
    with pytest.raises(UserError, match="not a readable pickle") as error:
        load(data)
    assert "\n" not in str(error.value)


def test_a_pickle_that_unfolds_without_end():
    """Lists of lists, each twice the last: small on disk, small in memory, never unfolded."""
    value = [1]
    for _ in range(15):
        value = [value] * 10
    loaded = load(pickle.dumps(value))
    assert loaded[0][3] is loaded[9][0]


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    np.arange(6, dtype=">i4").reshape(3, 2),
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2],
    np.array([True, False]),
    np.array(["ab", "c"]), np.array([b"ab", b"c"]), np.array(3.5, np.float16),
    np.zeros((0, 4), np.float32), np.zeros((3, 0), np.int64),
]


# The names of NumPy 1 are put in by text replacement; from protocol 4 on their lengths count too.
@pytest.mark.parametrize("protocol, numpy1", [
    *((protocol, False) for protocol in range(6)), *((protocol, True) for protocol in range(4))])
def test_plain_data_comes_through(protocol, numpy1):
    value = {"features": ARRAYS, "t": (1, -2.5, None, True, "ä", b"\xff", 2**70), b"k": [],
             "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("x")],
             "objects": np.array([ARRAYS[0], "s", None], dtype=object)}
    data = pickle.dumps(value, protocol=protocol)
    if numpy1:
        data = data.replace(b"numpy._core", b"numpy.core")
    loaded = load(data)
    for got, wanted in zip(loaded["features"], ARRAYS, strict=True):
        assert got.dtype == wanted.dtype and type(got) is np.ndarray
        np.testing.assert_array_equal(got, wanted)
    assert loaded["t"] == value["t"] and loaded[b"k"] == []
    assert loaded["scalars"] == [1.5, -3, True, "x"]
    assert isinstance(loaded["objects"], list) and loaded["objects"][1:] == ["s", None]
    np.testing.assert_array_equal(loaded["objects"][0], ARRAYS[0])


def test_python_2_pickles():
    """Protocol 2 with 8-bit strings, as Python 2 wrote them."""
    data = (b"\x80\x02}U\x08features]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
            b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
            + np.array([1, 2], "<f4").tobytes() + b"tbas.")
    np.testing.assert_array_equal(load(data)[b"features"][0], [1, 2])
