"""Class text vectors from class names: word vectors in text form, averaged over a name's words.

One word a line, then its numbers, as word2vec, GloVe and fastText (.vec) write them; a first line
with the number of words and of dimensions may be there. Such files have gigabytes and millions of
words, so they are streamed and only the words asked for are kept.
"""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from avdiff_jax.data.class_text import list_names, near, respell
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.runtime.progress import Progress

MAX_LINE_BYTES = 1 << 20  # a word and some ten thousand numbers; anything longer is no such file
SAMPLE_BYTES = 1 << 18  # from which the dimension is told where line 1 does not state it
LIKE_BYTES = 2  # words that could be near matches start with the same bytes
MAX_LIKE = 5_000  # words with the same start that are looked at; the frequent ones come first


class NamedVectors(NamedTuple):
    """What the words of class names come to."""

    vectors: np.ndarray  # [C, D] float32, means over the words that were found
    notes: list[str]  # words that were not


def words_of(name: str) -> list[str]:
    """"HandstandPushups", "handstand_pushups" -> two words; an apostrophe parts no word."""
    name = unicodedata.normalize("NFC", name)
    parted = ""
    for before, letter, after in zip(" " + name, name, name[1:] + " ", strict=False):
        # an upper-case letter begins a word after a lower-case one, or before one: TVShow
        if letter.isupper() and (before.islower() or (before.isupper() and after.islower())):
            parted += " "
        parted += letter
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", parted)


def name_vectors(
    class_names: Sequence[str], path: FilePath, manual: Mapping[str, str] | None = None,
    progress: Progress | None = None
) -> NamedVectors:
    """A vector for each class: the mean over the words of its name.

    Args:
      path: word vectors as text.
      manual: class name -> words to take instead.
      progress: an `runtime.progress.Progress` that is told the MiB to read and the MiB read.

    Raises:
      UserError: an unfit file; or it has no word of a class, each of which is named.
    """
    words = [words_of(name) for name in respell(class_names, manual)]
    wanted = {word for part in words for word in part}
    known = _vectors(path, wanted, progress)
    lacking = wanted - set(known)
    close_to = _like(path, lacking)
    notes, without = [], {}
    for class_name, part in zip(class_names, words, strict=True):
        close = {word: close_to[word] for word in part if word in lacking}
        if len(close) == len(set(part)):
            without[class_name] = [match for matches in close.values() for match in matches]
        elif close:
            notes.append(f"class {class_name!r} is averaged without {list_names(close)}, for which "
                         f"{path} has no vector")
    if without:
        raise UserError(f"{path} has no word of {len(without)} of {len(class_names)} classes: "
                        f"{list_names(without)}: respell them with --text-map or name another file")
    means = [np.mean([known[word] for word in part if word in known], axis=0) for part in words]
    return NamedVectors(np.stack(means).astype(np.float32), notes)


def _forms(word: str) -> Iterator[bytes]:
    """How a file may spell a word, the likeliest first: in most files lower case is the rule."""
    for form in (word.lower(), word, word.capitalize(), word.upper()):
        for accents in ("NFC", "NFD"):
            yield unicodedata.normalize(accents, form).encode("utf-8", "replace")


def _vectors(
    path: FilePath, words: Iterable[str], progress: Progress | None
) -> dict[str, np.ndarray]:
    """Word -> [D] float64 of the first of its forms that the file has."""
    ranks: dict[bytes, list[tuple[int, str]]] = {}
    for word in words:
        for rank, form in enumerate(_forms(word)):
            ranks.setdefault(form, []).append((rank, word))
    best: dict[str, tuple[int, np.ndarray]] = {}
    dim = None
    for number, head, values in _lines(path, progress):
        if head not in ranks:
            continue
        vector = _numbers(path, number, head, values)
        dim = dim or len(vector)
        if len(vector) != dim or not dim:  # other space than " " and tabs parts numbers too
            raise UserError(f"word vectors {path}, line {number}, word {_said(head)}, has "
                            f"{len(vector)} numbers where others have {dim or 'some'}: copy or "
                            f"make the file again")
        for rank, word in ranks[head]:
            if word not in best or rank < best[word][0]:
                best[word] = rank, vector
    return {word: vector for word, (_, vector) in best.items()}


def _numbers(path: FilePath, number: int, head: bytes, values: bytes):
    try:
        # float() would also take 1_000
        vector = np.array([float(value) for value in values.replace(b"_", b"?").split()])
    except ValueError as error:
        raise UserError(f"word vectors {path}, line {number}, word {_said(head)}, has a value that "
                        f"is no number ({error}): copy or make the file again") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():  # NaN is not either
        raise UserError(f"word vectors {path}, line {number}, word {_said(head)}, has a value that "
                        f"is not finite: copy or make the file again")
    return vector


def _like(path: FilePath, words: set[str]) -> dict[str, list[str]]:
    """Word -> words of the file that are close to it; read again only where some are lacking."""
    if not words:
        return {}
    starts: dict[bytes, list[str]] = {_start(word.encode("utf-8", "replace")): [] for word in words}
    longest = max(map(len, words)) + 2
    for _, head, _ in _lines(path):
        same = starts.get(_start(head))
        if same is not None and len(same) < MAX_LIKE and len(head) <= 4 * longest:
            same.append(head.decode("utf-8", "replace"))
    return {word: near(word, starts[_start(word.encode("utf-8", "replace"))], 2) for word in words}


def _start(word: bytes) -> bytes:
    return word[:LIKE_BYTES].lower()


def _lines(path: FilePath, progress: Progress | None = None) -> Iterator[tuple[int, bytes, bytes]]:
    """(line number, word, its numbers) of every word without spaces; each line is checked."""
    with text_files.open_file(path, "word vectors") as file:
        if re.search(rb"[\x00-\x08\x0e-\x1f]", file.read(1 << 12)):
            raise UserError(f"word vectors {path} are binary or packed, not text: unpack them, or "
                            f"save word2vec's .bin in its text format")
        file.seek(0)
        usual, certain = _usual_dim(file.read(SAMPLE_BYTES))
        file.seek(0)
        if progress is not None:
            progress.total = -(-os.path.getsize(path) >> 20)
        read, dim, stated = 0, None, ""
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if progress is not None:
                before, read = read, read + len(line)
                if read >> 20 > before >> 20:
                    progress.step((read >> 20) - (before >> 20), "MiB")
            if len(line) > MAX_LINE_BYTES:
                raise UserError(f"word vectors {path}, line {number}, is longer than "
                                f"{MAX_LINE_BYTES} bytes: one word and its numbers a line are "
                                f"needed")
            line = line.replace(b"\t", b" ").rstrip()
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
                if re.fullmatch(rb"\d{1,12} +\d{1,9}", line):
                    dim, stated, certain = int(line.split()[1]), "line 1 states", True
                    continue
            if not line:
                continue
            if dim is None:
                own = len(line.split()) - 1
                dim, stated = (usual, "most lines have") if certain else (own, "line 1 has")
                stated = f"line {number} has" if dim == own else stated
            if line.count(b" ") != dim or dim < 1:
                line = _odd(path, number, line, dim, stated, certain)
            head, _, values = line.partition(b" ")
            if values:
                yield number, head, values
        if not dim or (number == 1 and stated == "line 1 states"):
            raise UserError(f"word vectors {path} hold 0 vectors: name another file")


def _usual_dim(sample: bytes) -> tuple[int, bool]:
    """How many numbers end most of the first lines of a file, and whether two and more than half of
    them agree: then a line with more fields is of a word that has spaces itself."""
    counts, lines = Counter(), sample.splitlines()
    for line in lines[:-1] if len(sample) == SAMPLE_BYTES else lines:
        fields = line.split()
        numbers = itertools.takewhile(_is_number, reversed(fields[1:]))
        counts[sum(1 for _ in numbers)] += 1
    dim, votes = counts.most_common(1)[0] if counts else (0, 0)
    return dim, votes > 1 and 2 * votes > counts.total() and dim > 0


def _odd(path: FilePath, number: int, line: bytes, dim: int, stated: str, certain: bool):
    """A line with more spaces than numbers, mended; b"" for a word that has spaces itself.

    Args:
      certain: whether `dim` is more than a guess.
    """
    fields = line.split()
    if len(fields) == dim + 1 > 1:
        return b" ".join(fields)
    if len(fields) > dim + 1 > 1 and (certain or not _is_number(fields[1])):
        return b""
    raise UserError(f"word vectors {path}, line {number}, has {max(len(fields) - 1, 0)} numbers "
                    f"after its word where {f'{stated} {dim}' if dim else 'some are needed'}: "
                    f"copy or make the file again, as text")


def _is_number(field: bytes):
    try:
        float(field)
    except ValueError:
        return False
    return True


def _said(head: bytes):
    return repr(head.decode("utf-8", "replace")[:80])
