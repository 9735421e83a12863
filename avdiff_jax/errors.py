"""What a user sees when something that they can put right goes wrong."""

import contextlib
import os
import sys


class UserError(ValueError):
    """A failure that the user caused and can mend.

    The message is one sentence that names the file or flag, the two values that
    disagree and what to change. Names in it may come from hostile files: what is not
    printable, line ends too, is shown escaped.
    """

    def __str__(self):
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


@contextlib.contextmanager
def one_sentence():
    """Turns a `UserError` into one line on stderr and exit code 2.

    Anything else is a defect of ours and keeps its traceback.
    """
    try:
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
