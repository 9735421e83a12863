"""The one reader of JSON: types, schema, version, and a sentence for each thing that is wrong."""

from typing import Any, Literal, NotRequired, TypedDict

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import Document, mismatch, write


class Inner(TypedDict):
    kind: Literal["a", "b"]
    numbers: list[float]


class Outer(TypedDict):
    name: str
    count: int | None
    inner: dict[str, Inner]
    free: NotRequired[Any]


SOUND = {"name": "x", "count": 3, "inner": {"one": {"kind": "a", "numbers": [1, 2.5]}}}


@pytest.mark.parametrize("change, wrong", [
    ({}, ""), ({"count": None, "free": [object]}, ""), ({"later": 1}, ""),
    ({"name": 3}, "name is 3 but must be a text"),
    ({"name": "x", "count": True}, "count is true but must be a whole number or null"),
    ({"count": 1.5}, "count is 1.5 but must be a whole number or null"),
    ({"inner": []}, "inner is a list but must be an object, each value an object"),
    ({"inner": {"one": {"kind": "a"}}}, "inner.one.numbers is missing"),
    ({"inner": {"one": {"kind": "c", "numbers": []}}},
     'inner.one.kind is "c" but must be one of a, b'),
    ({"inner": {"one": {"kind": "a", "numbers": [1, float("nan")]}}},
     "inner.one.numbers[1] is NaN but must be a finite number"),
    ({"inner": {"one": {"kind": "a", "numbers": [False]}}},
     "inner.one.numbers[0] is false but must be a finite number"),
    ({"count": 10**400}, f"count is {'1' + '0' * 36}... but must be a whole number or null"),
])
def test_types(change, wrong):
    assert mismatch(SOUND | change, Outer) == wrong


PLAIN = Document("thing", Outer, "make it again")
NAMED = Document("thing", Outer, "make it again", "some.schema", 2)
NUMBERED = Document("thing", Outer, "make it again", version=1)


@pytest.mark.parametrize("document, head", [
    (PLAIN, {}), (PLAIN, {"version": 7}), (NAMED, {"schema": "some.schema", "version": 2}),
    (NUMBERED, {}), (NUMBERED, {"version": 1}),
])
def test_what_is_written_is_read(document, head, tmp_path):
    write(tmp_path / "a.json", SOUND | head)
    assert document.read(tmp_path / "a.json") == SOUND | head


@pytest.mark.parametrize("document, content, complaint", [
    (NAMED, None, r"thing .*a\.json does not exist: make it again$"),
    (NAMED, b"{", r"thing .*a\.json is not JSON \(.*\): make it again$"),
    (NAMED, b"[" * 100_000, r"is not JSON \(.*recursion.*\): make it again"),
    (NAMED, b"\xff", "is not UTF-8 text"),
    (NAMED, b"[1]", "holds a list where a thing is an object: make it again"),
    (NAMED, b"3", "holds a whole number where a thing is an object"),
    (NAMED, b"{}", "has schema None version None where schema 'some.schema' version 2 is read"),
    (NAMED, b'{"schema": "some.schema", "version": 1}', "version 1 where .* version 2 is read"),
    (NUMBERED, b'{"version": 2}', "has version 2 where version 1 is read: use the code that wrote"),
    (NUMBERED, b'{"version": [1]}', r"has version \[1\] where version 1 is read"),
    (PLAIN, b"{}", r"thing .*a\.json: count is missing: make it again$"),
])
def test_what_cannot_be_read_is_a_sentence(document, content, complaint, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        document.read(tmp_path / "a.json")
    assert str(caught.value).isprintable()


def test_only_finite_numbers_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"a\[1\] is nan"):
        write(tmp_path / "a.json", {"a": [1.0, float("nan")]})
    assert not list(tmp_path.iterdir())
