"""Stop signals, obeyed where nothing is lost."""

import contextlib
import signal
from types import FrameType

from avdiff_jax.runtime import hosts


class Stopped(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """Whether SIGTERM or Ctrl-C has arrived; a second Ctrl-C ends the process at once."""

    def __init__(self):
        self.signal: int | None = None

    def agree(self, due: bool = False) -> bool:
        """Whether any process of the run has a signal, or says `due`; the same in each of them."""
        number, asked = hosts.agree(self.signal or 0, int(due))
        self.signal = number or None
        return bool(number or asked)

    def check(self) -> None:
        """Raises `Stopped` after a signal to any process of the run."""
        self.agree()
        if self.signal is not None:
            raise Stopped(self.signal)

    @contextlib.contextmanager
    def listening(self):
        """Takes the signals while the block runs."""

        def handle(number: int, frame: FrameType | None):
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
