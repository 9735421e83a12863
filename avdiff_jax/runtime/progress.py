"""How far a long piece of work is: a bar on a terminal, a widget in a notebook, lines in a log."""

import sys
from types import TracebackType
from typing import IO, Any

from tqdm import auto, std

# Of the name of tqdm's class for notebooks its types know nothing.
IN_NOTEBOOK = vars(auto)["notebook_tqdm"] is not std.tqdm
REFRESH_SECONDS = 0.25  # on a terminal: about four updates a second, whatever the step rate
LOG_SECONDS = 30.0  # in a log file: a line now and then, none for what is over before
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
COUNT = "{desc}: {n_fmt} [{elapsed}{postfix}]"  # where there is no total


class Progress(auto.tqdm):
    """A progress bar with an estimate of the time left.

    `with Progress(total, label) as p: p.step(n, note="loss 0.31")`. `total` may be None where
    nobody knows it, and be set later. A block that ends well ends at 100 %, early or not. Showing
    progress never fails the work: a closed stderr silences it, and so does `shown = False`, for
    processes that keep still.
    """

    shown = True
    monitor_interval = 0  # no thread of tqdm's

    def __init__(self, total: int | None, label: str, stream: IO[str] | None = None):
        lines = _Lines(sys.stderr if stream is None else stream)
        self.logged = not lines.isatty() and not IN_NOTEBOOK
        super().__init__(
            total=total, desc=label, file=lines, disable=not self.shown,
            mininterval=LOG_SECONDS if self.logged else REFRESH_SECONDS,
            delay=LOG_SECONDS if self.logged else 0, miniters=0, smoothing=0.1, dynamic_ncols=True,
        )

    @property
    def format_dict(self) -> dict:
        """What tqdm formats a line from."""
        return {**super().format_dict, "bar_format": BAR if self.total else COUNT}

    def step(self, n: int = 1, note: str | None = None) -> None:
        """Counts `n` more units of work; `note` (short text) stays until it is replaced."""
        if note is not None:
            self.set_postfix_str(note, refresh=False)
        self.update(n)

    def tell(self, text: str) -> None:
        """Prints a line of its own, at once: above the bar, or into the log."""
        if self.disable:
            return
        if self.logged:
            self.fp.write(text)
        else:
            self.write(text, file=self.fp)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self.total and self.n:
            self.total = self.n
            if IN_NOTEBOOK and not self.disable:
                widget: Any = self.container  # pyright: ignore[reportAttributeAccessIssue]
                widget.children[1].max = self.n
        super().__exit__(kind, error, trace)


def announce(text: str) -> None:
    """Prints what comes next, in the process that shows progress."""
    if Progress.shown:
        print(text, flush=True)


class _Lines:
    """What tqdm writes to: a terminal as it is, or anything else in whole lines. A stream that is
    not there, is closed or fails is left alone."""

    def __init__(self, stream: IO[str] | None):
        self._stream: Any = stream
        self._last = ""  # how far the last line was

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return bool(self._stream.isatty())
        except (AttributeError, ValueError):  # none, or a closed one
            return False

    def write(self, text: str) -> None:
        """Writes one state of the bar."""
        if not self.isatty():
            text = text.strip("\r\n ")
            how_far, bracket, _ = text.partition(" [")
            if bracket and how_far == self._last:
                return  # tqdm says once more at the end what it has just said
            self._last = how_far if bracket else self._last
            text += "\n" if text else ""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (AttributeError, OSError, ValueError):
            self._stream = None

    def flush(self) -> None:
        """Nothing: `write` has done it."""

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
