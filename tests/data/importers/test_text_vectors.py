"""Class text vectors from files, given to classes by name."""

import os

import numpy as np
import pytest

from avdiff_jax.data import class_text
from avdiff_jax.data.importers.text_vectors import read_text, write_text
from avdiff_jax.errors import UserError
from tests.data.samples import VECTORS, Calls, text_file


@pytest.mark.parametrize("kind", [".npy", ".npz", ".csv"])
def test_text_by_name(tmp_path, kind):
    vectors = read_text(text_file(tmp_path, kind))
    assert list(vectors) == ["dog", "Cat"]
    for name, vector in vectors.items():
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, VECTORS[name])


def test_text_of_other_shapes(tmp_path):
    np.savez(tmp_path / "members.npz", **VECTORS)
    assert set(read_text(tmp_path / "members.npz")) == {"dog", "Cat"}
    np.savez(tmp_path / "keys.npz", w=np.eye(2), n=["x", "y"], emb=np.ones((2, 2)))
    np.testing.assert_array_equal(read_text(tmp_path / "keys.npz", "w", "n")["y"], [0, 1])
    (tmp_path / "bare.csv").write_text("dog,1,2\n\nCat,3,4\n")
    assert len(read_text(tmp_path / "bare.csv")) == 2


def test_text_goes_to_classes_by_name_never_by_position(tmp_path):
    path = text_file(tmp_path, ".npz")
    vectors = read_text(path)
    for order in (["dog", "cat"], ["cat", "dog"]):
        rows = class_text.match_text(order, vectors, path)
        np.testing.assert_array_equal(
            rows, [VECTORS["dog" if name == "dog" else "Cat"] for name in order])
    spelled = class_text.match_text(["Hound"], vectors, path, {"hound": "dog"})
    np.testing.assert_array_equal(spelled, [[1, 2]])


def test_case_alone_does_not_decide_between_two():
    find = class_text.NameMatcher(["a", "A", "b"])
    assert (find("a"), find("A"), find("B"), find("c")) == ("a", "A", "b", None)
    assert class_text.NameMatcher(["ab", "AB"])("Ab") is None
    composed, apart = "caf\u00e9", "cafe\u0301"
    for name, known in ((composed, apart), (apart, composed), (composed.upper(), apart)):
        assert class_text.NameMatcher([known, "cafe"])(name) == known
        assert class_text.near(name, [known]) == [known]
    find = class_text.NameMatcher([composed, apart, "CAF\u00c9"])
    assert find(apart) == apart and find(composed) == composed
    assert class_text.NameMatcher([apart, "CAF\u00c9"])(composed) == apart


@pytest.mark.parametrize("make, sentence", [
    (lambda p: np.save(p / "t.npy", np.eye(3)), "t.npy is an array of shape \\(3, 3\\) without na"),
    (lambda p: np.save(p / "t.npy", np.array([1, "a"], object)), "holds a list"),
    (lambda p: np.save(p / "t.npy", {"a": np.eye(2)}), "shape \\(2, 2\\).*for 'a'"),
    (lambda p: np.save(p / "t.npy", {"a": np.ones(2), "b": np.ones(3)}), "3 dimensions for 'b'"),
    (lambda p: np.save(p / "t.npy", {}), "0 vectors"),
    (lambda p: (p / "t.npy").write_bytes(b"\x93NUMPY"), "no .npy array or is truncated"),
    (lambda p: np.savez(p / "t.npz", emb=np.eye(2), names=["a"]), "shape \\(1,\\).*--text-names"),
    (lambda p: np.savez(p / "t.npz", emb=np.eye(2), classes=["a", "b"]),
     "shape \\(2, 2\\).*for 'emb' .* read are an .npz with one vector a class name, or with emb"),
    (lambda p: np.savez(p / "t.npz", emb=np.eye(2), names=["a", "a"]), "names 'a' twice"),
    (lambda p: (p / "t.npz").write_bytes(b"PK"), "no .npz file"),
    (lambda p: (p / "t.csv").write_text("a,1\nb,x\n"), "line 2, has a cell that is no number"),
    (lambda p: (p / "t.csv").write_text("a,1\nb,2,3\n"), "2 dimensions for 'b' and 1 for 'a'"),
    (lambda p: (p / "t.txt").write_text("a,1\n"), "'.txt' and not in"),
    (lambda p: os.symlink("nowhere", p / "t.npy"), "text file .* cannot be read"),
])
def test_unfit_text_files(tmp_path, make, sentence):
    make(tmp_path)
    path = next(tmp_path.iterdir())
    with pytest.raises(UserError, match=sentence) as error:
        read_text(path)
    assert path.name in str(error.value)


def test_classes_without_text_vector_are_all_named(tmp_path):
    with pytest.raises(UserError, match=r"t.npz has no text vector for 1 of 2 classes: 'cow': add"):
        class_text.match_text(["dog", "cow"], VECTORS, "t.npz")
    with pytest.raises(UserError, match=r"3 of 3 .* 'Doge' \(close to 'dog'\), 'c', 'CATS' \(clo"):
        class_text.match_text(["Doge", "c", "CATS"], VECTORS, "t.npz")
    with pytest.raises(UserError, match=r"'c19' and 5 more: add"):
        class_text.match_text([f"c{number}" for number in range(25)], VECTORS, "t.npz")


def test_unit_length_and_classes_that_text_cannot_tell_apart():
    tiny = class_text.unit(np.array([[3e-30, 4e-30], [0, -2]], np.float32))
    np.testing.assert_allclose(tiny, [[0.6, 0.8], [0, -1]], rtol=1e-6)
    assert class_text.find_twins(["a", "b"], np.array([[0.0, 1], [1, 0]])) is None
    remark = class_text.find_twins(["a", "b", "c"], np.eye(3)[[0, 1, 0]])
    assert "'a' and 'c' have the same" in remark
    assert class_text.find_twins(["a", "b"], np.array([[0.0, 1], [-0.0, 1]])) is not None


def test_written_text_is_read_again(tmp_path):
    write_text(tmp_path / "new" / "t.npz", VECTORS)
    vectors = read_text(tmp_path / "new" / "t.npz")
    assert list(vectors) == list(VECTORS)
    np.testing.assert_array_equal(vectors["Cat"], VECTORS["Cat"])


def test_hostile_text_file(tmp_path):
    sentinel = tmp_path / "sentinel"
    np.save(tmp_path / "t.npy", {"dog": Calls(os.system, f"touch {sentinel}")})
    with pytest.raises(UserError, match=r"posix.system"):
        read_text(tmp_path / "t.npy")
    assert not sentinel.exists()


def test_published_word_vectors(shared):
    for name, classes in (("UCF/word_embeddings_ucf_normed.npy", 101),
                          ("ActivityNet/word_embeddings_activity_normed.npy", 200)):
        vectors = read_text(shared / "lists" / name)
        assert len(vectors) == classes
        norms = np.linalg.norm(np.stack(list(vectors.values())), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)
