"""What a user sees when something that they can put right goes wrong, and what they should know
where nothing does."""

import contextlib
import os
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


@contextlib.contextmanager
def one_sentence():
    """Turns a `UserError` into one line on stderr and exit code 2, and a `Note` into a line there.

    Anything else is a defect of ours and keeps its traceback.
    """
    try:
        with _noting():
            yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except BrokenPipeError:  # of `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
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
