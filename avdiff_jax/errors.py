"""What a user sees when something that they can put right goes wrong, and what they should know
where nothing does."""

import codecs
import contextlib
import errno
import io
import os
import re
import sys
import warnings


class UserError(ValueError):
    """A failure that the user caused and can mend.

    The message is one sentence that names the file or flag, the two values that
    disagree and what to change. Names in it may come from hostile files: what is not
    printable, line ends too, is shown escaped.
    """

    def __str__(self):
        return escape(super().__str__())


class Note(UserWarning):
    """Something that a user should know of work that goes on: commands print it as a line, in
    Python it is a warning."""

    def __str__(self):
        return escape(super().__str__())


def note(text: str) -> None:
    """Says something that a user should know; a command says the same thing once."""
    warnings.warn(Note(text), stacklevel=3)


def escape(text: str) -> str:
    """The text with all that is not printable escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# What jaxlib calls it, on a CPU and on a GPU: allocations of its own, of CUDA and of its libraries.
EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED|OUT_OF_MEMORY|ALLOC_FAILED|[Oo]ut of memory")
SIZE = re.compile(r"(\d+) bytes|([\d.]+ ?[KMGTPE]i?B)")


def tell_count(number: int, noun: str) -> str:
    """"1 class", "2 classes", for messages."""
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{plural}"


def tell_clips(clips: int, classes: int, kind: str) -> str:
    """"5 clips of 1 novel class", for messages."""
    return f"{tell_count(clips, 'clip')} of {tell_count(classes, f'{kind} class')}"


def describe_exhaustion(error: BaseException) -> str | None:
    """Says in a sentence that the memory is full, where that is what an error of NumPy, jaxlib or
    the system means; None for any other."""
    text = str(error)
    full = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if not full and not (isinstance(error, RuntimeError) and EXHAUSTED.search(text)):
        return None
    more = ""
    if size := SIZE.search(text):
        more = f" ({size[2] or f'{int(size[1]) / 2**30:.3g} GiB'} more were asked for)"
    return (
        f"out of memory{more}: take smaller batches (--config.train.batch, --config.eval.batch), "
        "cut long clips (--config.data.train_max_video, test_max_video and those of audio), or end "
        "what else takes memory"
    )


# What a terminal that knows ASCII alone gets in the place of our own signs.
PLAIN = {"±": "+-", "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">="}


def show_plainly(error: UnicodeError) -> tuple[str, int]:
    """Replaces what a stream cannot encode, for `codecs.register_error`: signs by what is like
    them, all else by its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    shown = (PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in unknown)
    return "".join(shown), error.end


codecs.register_error("avdiff_jax.plain", show_plainly)


@contextlib.contextmanager
def one_sentence():
    """Turns a `UserError`, and memory that is full, into one line on stderr and exit code 2, and a
    `Note` into a line there.

    Anything else is a defect of ours and keeps its traceback. Whatever the terminal cannot show is
    printed in another way, instead of ending the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="avdiff_jax.plain")
    try:
        with _noting():
            yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except BrokenPipeError:  # of `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (MemoryError, OSError, RuntimeError) as error:
        sentence = describe_exhaustion(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


@contextlib.contextmanager
def _noting():
    """Prints each `Note` as a line, the same one once."""
    said = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        usual = warnings.showwarning

        def show(message, category, *place, **more):
            if not issubclass(category, Note):
                usual(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                print(f"note: {message}", file=sys.stderr, flush=True)

        warnings.showwarning = show
        yield
