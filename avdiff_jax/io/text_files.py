"""Small files of users, as lines or as rows of a CSV: what is wrong with one is a sentence."""

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Iterator

from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath

MAX_TABLE_BYTES = 1 << 30  # labels, names, text vectors: anything larger is a mistake or a bomb


@contextlib.contextmanager
def open_file(path: FilePath, what: str = "file") -> Iterator[io.BufferedReader]:
    """Opens a user's file for reading bytes; `what` it is goes into the UserError."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        # a pipe would be waited for, a device can be without end
        raise UserError(f"{what} {path} is a pipe or a device: name a file on disk")
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror or error}): name an "
                        f"existing one") from None


def text_of(path: FilePath, what: str = "file") -> str:
    """All of a UTF-8 file, of sensible size. Raises UserError."""
    with open_file(path, what) as file:
        content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise _too_large(path, what)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not UTF-8 text ({error}): save it as such") from None


def _too_large(path: FilePath, what: str) -> UserError:
    return UserError(f"{what} {path} is larger than {MAX_TABLE_BYTES} bytes, which makes no sense: "
                     f"name another one")


def check_text(word: FilePath, what: str) -> None:
    """Raises UserError where a word, such as the name of a file or folder, is not UTF-8."""
    try:
        os.fspath(word).encode()
    except UnicodeEncodeError:
        raise UserError(f"{what}, {os.fspath(word)!r}, is not UTF-8: rename it") from None


def lines(path: FilePath, what: str = "file") -> list[str]:
    """The lines of a text file, without blank ones and the space around them. Raises UserError."""
    return [line.strip() for line in text_of(path, what).splitlines() if line.strip()]


class Row(list[str]):
    """The cells of a row of a CSV, without the space around them.

    line: of the file, counted from 1, in which the row begins.
    """

    def __init__(self, cells: Iterable[str], line: int):
        super().__init__(cell.strip() for cell in cells)
        self.line = line


def iterate_rows(path: FilePath, what: str = "file") -> Iterator[Row]:
    """The rows of a CSV of any size, one by one, without those in which nothing stands, as a
    spreadsheet leaves them at the end. Raises UserError."""
    with open_file(path, what) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        reader, line = csv.reader(text, strict=True), 1
        try:
            for cells in reader:
                if any(row := Row(cells, line)):
                    yield row
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{what} {path} is not a CSV file ({error}): mend its quotes") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{what} {path} is not UTF-8 text ({error}): save it as such") from None


def rows(path: FilePath, what: str = "file") -> list[Row]:
    """All rows of a CSV of sensible size, as `iterate_rows` gives them. Raises UserError."""
    with open_file(path, what):
        if os.path.getsize(path) > MAX_TABLE_BYTES:
            raise _too_large(path, what)
    return list(iterate_rows(path, what))
