"""Class names to vectors by tiny files of word vectors, sound and unsound."""

import tracemalloc

import numpy as np
import pytest

from avdiff_jax.data.importers import word_vectors
from avdiff_jax.data.importers.word_vectors import name_vectors, words_of
from avdiff_jax.errors import UserError

LINES = ["hand 1 0 0", "stand 0 1 0", "pushups 0 0 1", "YoYo 9 9 9", "yo 2 2 2", "TV 1 2 3",
         "children's 4 4 4", "caf\u00e9 5 5 5"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name, expected", [
    ("HandstandPushups", ["Handstand", "Pushups"]),
    ("playing_the-lute, loudly", ["playing", "the", "lute", "loudly"]),
    ("YoYo", ["Yo", "Yo"]),
    ("TVShow on TV", ["TV", "Show", "on", "TV"]),
    ("children's choir", ["children's", "choir"]),
    ("cafe\u0301Noir", ["caf\u00e9", "Noir"]),
    ("Tai chi 24", ["Tai", "chi", "24"]),
    ("\u00dcberFahrt", ["\u00dcber", "Fahrt"]),
    ("--", []),
])
def test_words_of_a_name(name, expected):
    assert words_of(name) == expected


def test_a_name_is_the_mean_of_its_words(file):
    made = name_vectors(["HandStand_pushups", "yoYo", "Tv", "Children's TV", "CAF\u00c9"], file)
    np.testing.assert_allclose(
        made.vectors, [[1 / 3] * 3, [2, 2, 2], [1, 2, 3], [2.5, 3, 3.5], [5, 5, 5]], rtol=1e-6)
    assert made.vectors.dtype == np.float32 and made.notes == []


def test_lower_case_comes_before_other_spellings(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("POLISH 4\nPolish 1\npolish 2\npolish 3\n")
    assert name_vectors(["Polish"], path).vectors.tolist() == [[2]]


@pytest.mark.parametrize("layout", [
    "{n} {d}\n{lines}\n", "\ufeff{lines}", "{lines}\n\n", "{n} {d} \n{spaced}\n"])
def test_layouts(tmp_path, layout):
    """word2vec and fastText have a header line, GloVe has none; fastText ends lines in a space."""
    path = tmp_path / "v.vec"
    path.write_text(layout.format(n=len(LINES), d=3, lines="\n".join(LINES),
                                  spaced=" \n".join(LINES) + " "), encoding="utf-8")
    np.testing.assert_array_equal(name_vectors(["hand"], path).vectors, [[1, 0, 0]])
    path.write_text("\r\n".join(line.replace(" ", "\t") for line in LINES), encoding="utf-8")
    np.testing.assert_array_equal(name_vectors(["hand"], path).vectors, [[1, 0, 0]])


def test_words_with_spaces_and_strange_bytes_are_passed_over(tmp_path):
    path = tmp_path / "v.txt"
    path.write_bytes(b"hand 1 2\nat name@domain.com 3 4\n. . . 5 6\n\xff\xfe 7 8\nfoot 9 9\n")
    assert name_vectors(["foot"], path).vectors.tolist() == [[9, 9]]


@pytest.mark.parametrize("content", [
    b"4 2\nchannel 4 3 4\nhand 1 2\nfoot 9 9\nroute 66 5 6\n",  # line 1 says how many numbers
    b"channel 4 3 4\nhand 1 2\nfoot 9 9\nroute 66 5 6\ntoe 1 1\n",  # most lines do
    b". . 3 4\nhand 1 2\nfoot 9 9\n",
])
def test_a_word_of_two_parts(content, tmp_path):
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    assert name_vectors(["foot", "hand"], path).vectors.tolist() == [[9, 9], [1, 2]]


def test_a_word_whose_accents_are_signs_of_their_own(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("cafe\u0301 1 2\n", encoding="utf-8")
    assert name_vectors(["Caf\u00e9"], path).vectors.tolist() == [[1, 2]]


def test_missing_words_are_named_with_what_is_close(file):
    made = name_vectors(["hand stnd", "stand by me"], file)
    assert made.vectors.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert "class 'hand stnd' is averaged without 'stnd' (close to 'stand'), " in made.notes[0]
    assert "without 'by', 'me', for which" in made.notes[1]


def test_names_without_a_word_are_refused_by_name(file):
    with pytest.raises(UserError, match=r"no word of 3 of 4 classes: 'Pushup' \(close to 'pushups"
                                        r"'\), 'Zumba', '\?!': respell") as error:
        name_vectors(["hand", "Pushup", "Zumba", "?!"], file)
    assert "\n" not in str(error.value)
    made = name_vectors(["hand", "Pushup"], file, {"pushup": "push pushups"})
    assert made.vectors[1].tolist() == [0, 0, 1] and "without 'push'" in made.notes[0]


@pytest.mark.parametrize("content, sentence", [
    (b"", "hold 0 vectors"),
    (b"\n\n", "hold 0 vectors"),
    (b"2 3\n", "hold 0 vectors"),
    (b"hand 1 2 3\nfoot 1 2\n", "line 2, has 2 numbers after its word where line 1 has 3"),
    (b"hand 1 2 3\nfoot 1 2 3 4\n", "line 2, has 4 numbers after its word where line 1 has 3"),
    (b"2 300\nhand 1 2 3\n", "line 2, has 3 numbers after its word where line 1 states 300"),
    (b"hand 1 2 3\nfoot 1 2", "line 2, has 2 numbers"),
    (b"hand\nfoot\n", "line 1, has 0 numbers after its word where some are needed"),
    (b"foot 1 2\nhand 1 x\n", r"line 2, word 'hand', has a value that is no number"),
    (b"hand 1 1_0\n", r"word 'hand', has a value that is no number"),
    (b"hand 1 nan\n", r"word 'hand', has a value that is not finite"),
    (b"hand 1 -inf\n", r"not finite"),
    (b"hand 1 1e39\n", r"not finite"),
    (b"2 4\nhand " + np.ones(4, "<f4").tobytes(), "binary or packed, not text"),
    (b"\x1f\x8b\x08\x00", "binary or packed"),
    (b"PK\x03\x04", "binary or packed"),
    (b"hand 1\n" + b"x" * 5000, "line 2, has 0 numbers after its word where line 1 has 1"),
    (b"99 999999999\nhand 1 2\n", "line 2, has 2 numbers after its word where line 1 states 9999"),
    (b"9" * 9999 + b" 3\nhand 1 2\n", "line 2, has 2 numbers after its word where line 1 has 1"),
])
def test_unfit_files(tmp_path, content, sentence):
    path = tmp_path / "v.vec"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as error:
        name_vectors(["hand"], path)
    assert "v.vec" in str(error.value) and "\n" not in str(error.value)


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "MAX_LINE_BYTES", 64)
    path = tmp_path / "v.vec"
    path.write_bytes(b"hand 1 2\n" + b"x" * 4096)
    with pytest.raises(UserError, match="line 2, is longer than 64 bytes"):
        name_vectors(["hand"], path)
    with pytest.raises(UserError, match="cannot be read"):
        name_vectors(["hand"], tmp_path)


def test_streaming_keeps_only_what_is_asked_for(tmp_path):
    path = tmp_path / "big.vec"
    row = " ".join(["0.123"] * 50)
    with open(path, "w") as out:
        out.writelines(f"word{number} {row}\n" for number in range(4_000))
    tracemalloc.start()
    try:
        name_vectors(["word3999 zzz"], path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 1.2e6 and peak < 6e5
