"""One line on stderr that says how far a long piece of work is and when it ends."""

import sys
import time

REFRESH_SECONDS = 0.25  # on a terminal: about four updates a second, whatever the step rate
PLAIN_SECONDS = 30.0  # in a log file: a line now and then
BAR_WIDTH = 24  # characters


class Progress:
    """A progress bar with an estimate of the time left.

    `with Progress(total, label) as p: p.step(n, note="loss 0.31")`. On a terminal the line
    is redrawn in place; elsewhere (log file, CI) a plain line appears every half minute.
    `total` may be None where nobody knows it. Showing progress never fails the work: a
    closed stderr silences it, and so does `shown = False`, for processes that keep still.
    """

    shown = True

    def __init__(self, total, label, stream=None, clock=time.monotonic):
        self.total, self.label = total, label
        self.done, self.note = 0, ""
        stream = sys.stderr if stream is None else stream
        self._stream = stream if self.shown and not getattr(stream, "closed", False) else None
        self._clock = clock
        self._start = clock()
        self._terminal = bool(getattr(self._stream, "isatty", lambda: False)())
        self._last = self._start if not self._terminal else -float("inf")
        self._width = 0  # characters of the line on screen, to blank out a longer predecessor

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._terminal:
            self._write(self._line() + "\n", redraw=True)
        elif self._last > self._start:  # a log that saw the start also wants to see the end
            self._write(self._line() + "\n")

    def step(self, n=1, note=None):
        """Counts `n` more units of work; `note` (short text) stays until it is replaced."""
        self.done += n
        if note is not None:
            self.note = note
        now = self._clock()
        if now - self._last < (REFRESH_SECONDS if self._terminal else PLAIN_SECONDS):
            return
        self._last = now
        self._write(self._line() + ("" if self._terminal else "\n"), redraw=self._terminal)

    def _line(self):
        spent = self._clock() - self._start
        rate = self.done / spent if spent > 0 else 0.0
        parts = [self.label]
        if self.total:
            share = min(self.done / self.total, 1.0)
            filled = round(share * BAR_WIDTH)
            parts.append(f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {100 * share:3.0f} %")
            parts.append(f"{self.done}/{self.total}")
        else:
            parts.append(str(self.done))
        parts.append(clock_text(spent))
        if self.total and 0 < self.done < self.total and rate:
            parts.append(f"left {clock_text((self.total - self.done) / rate)}")
        if self.note:
            parts.append(self.note)
        return "  ".join(parts)

    def _write(self, text, redraw=False):
        if self._stream is None:
            return
        if redraw:
            body = text.rstrip("\n")
            padded = body.ljust(self._width)
            self._width = len(body)
            text = "\r" + padded + text[len(body):]
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # closed pipe or closed file
            self._stream = None


def clock_text(seconds):
    """Seconds -> "0:07", "12:30" or "3:05:09"."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
