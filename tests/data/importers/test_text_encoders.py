"""Class names to vectors by WordLlama: a stand-in for the package, and the package where it is."""

import hashlib
import logging
import sys

import numpy as np
import pytest

from avdiff_jax.data.importers import text_encoders
from avdiff_jax.data.importers.text_encoders import encode_names, identify, phrase_of
from avdiff_jax.data.importers.text_vectors import class_text
from avdiff_jax.errors import UserError
from tests.data.samples import text_file

# It embeds a text as its length and its number of words.
PACKAGE = """
import logging
logging.basicConfig(level=logging.DEBUG, force=True)

class WordLlama:
    @classmethod
    def load(cls, cache_dir, disable_download):
        assert disable_download and (cache_dir / "tokenizers" / "one.json").exists(), "no tokenizer"
        return cls()

    def embed(self, texts):
        import numpy
        return numpy.array([[len(text), 1 + text.count(" ")] for text in texts], "float32")
"""


@pytest.fixture
def uninstalled(monkeypatch):
    """WordLlama is not there, whatever is installed here."""
    monkeypatch.setattr(text_encoders, "PACKAGE", "not_there")
    text_encoders.load_wordllama.cache_clear()
    yield
    text_encoders.load_wordllama.cache_clear()


@pytest.fixture
def installed(uninstalled, tmp_path, monkeypatch):
    """The stand-in is; returns its folder."""
    folder = tmp_path / "path" / "stand_in"
    for part in ("weights", "tokenizers"):
        (folder / part).mkdir(parents=True)
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / text_encoders.WEIGHTS).write_bytes(b"weights")
    (folder / "tokenizers" / "one.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setattr(text_encoders, "PACKAGE", "stand_in")
    yield folder
    sys.modules.pop("stand_in", None)


@pytest.mark.parametrize("name, phrase", [
    ("HandstandPushups", "handstand pushups"),
    ("playing_the-lute", "playing the lute"),
    ("TVShow2run", "tv show 2 run"),
    ("mp3", "mp 3"),
    ("1812 Overture", "1812 overture"),
    ("7", "7"),
    ("?!", "?!"),
])
def test_the_phrase_of_a_name(name, phrase):
    assert phrase_of(name) == phrase


def test_names_are_encoded(installed):
    vectors = encode_names(["ab", "cutInKitchen", "x"], {"x": "a b c"})
    wanted = np.array([[2, 1], [14, 3], [5, 3]], float)
    np.testing.assert_allclose(
        vectors, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-6)
    assert vectors.dtype == np.float32
    assert identify() == f"wordllama-{hashlib.sha256(b'weights').hexdigest()[:16]}"


def test_logging_stays_as_it_was(installed):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    encode_names(["a"])
    assert "stand_in" in sys.modules and (root.handlers[:], root.level) == before


def test_identity_is_of_the_weights(installed):
    first = identify()
    text_encoders._identify.cache_clear()
    (installed / text_encoders.WEIGHTS).write_bytes(b"other")
    assert identify() != first
    text_encoders._identify.cache_clear()


def test_text_comes_from_the_names_where_no_file_is_given(installed, tmp_path):
    text = class_text(["ab", "cd ef"])
    np.testing.assert_array_equal(text.vectors, encode_names(["ab", "cd ef"]))
    assert text.source == identify() and not text.notes
    text = class_text(["dog", "Cat"], text_file(tmp_path, ".csv"))
    assert text.vectors.tolist() == [[1, 2], [3, 4]] and text.source == "text.csv"
    with pytest.raises(UserError, match="the key 'emb' is of a text file and none is given"):
        class_text(["dog"], key="emb")


def test_without_the_package_there_is_no_text(uninstalled):
    text = class_text(["dog", "Cat"])
    assert text.vectors.shape == (2, 0) and text.source == "none"
    assert "no class text: give a text file, or install" in text.notes[0]
    assert not text_encoders.is_installed()
    with pytest.raises(UserError, match=r"WordLlama, .*, is not installed: run `make encoders`"):
        encode_names(["dog"])


def test_a_package_that_is_not_whole(installed):
    (installed / "tokenizers" / "one.json").unlink()
    with pytest.raises(UserError, match=r"WordLlama cannot be loaded \(no tokenizer\): install"):
        encode_names(["dog"])
    (installed / text_encoders.WEIGHTS).unlink()
    assert not text_encoders.is_installed()


def test_the_real_one_knows_what_words_mean():
    if not text_encoders.is_installed():
        pytest.skip("WordLlama is not installed: make encoders")
    violin, cello, dog = encode_names(["PlayingViolin", "playing_cello", "dog barking"])
    assert violin.shape == (256,)
    assert violin @ cello > 0.3 > 0.1 > violin @ dog
