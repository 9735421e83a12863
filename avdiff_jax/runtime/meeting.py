"""Processes that wait for each other before they begin, and say whom they wait for.

The first one listens at the address where jax's coordinator will listen afterwards; each of the
others says its number and waits for the word to go on.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator

from avdiff_jax.errors import UserError

WAIT_SECONDS = 300.0  # as long as jax waits
SAY_SECONDS = 20.0  # between two lines about who is not there
TRY_SECONDS = 0.5  # between two attempts to reach the first process
WORD, GO = "avdiff_jax", "go"


def meet(address: str, processes: int, process: int) -> None:
    """Returns when all processes are there.

    Args:
      address: HOST:PORT of the first one.
      processes: how many there are; process: the number of this one, from 0.

    Raises:
      UserError: no such address, some do not come in `WAIT_SECONDS`, or two contradict each other.
    """
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UserError(f"--coordinator={address} is not of the form HOST:PORT: change it")
    if process:
        _join((host.strip("[]"), int(port)), address, processes, process)
    else:
        _gather(int(port), address, processes)


class _Patience:
    """Ends the waiting, and says now and then whom it is for."""

    def __init__(self, address: str):
        self.address, self.begun, self.said = address, time.monotonic(), time.monotonic()

    def check(self, missing: str) -> None:
        """Raises UserError after `WAIT_SECONDS`."""
        now = time.monotonic()
        if now - self.begun >= WAIT_SECONDS:
            raise UserError(
                f"waited {now - self.begun:.0f} s for {missing} at --coordinator={self.address}: "
                "start all of them, with the same address, within that time"
            )
        if now - self.said >= SAY_SECONDS:
            self.said = now
            print(f"waiting for {missing} at {self.address}, {now - self.begun:.0f} s so far",
                  file=sys.stderr, flush=True)


def _gather(port: int, address: str, processes: int) -> None:
    """The first process: lets the others go on when all of them have come."""
    patience = _Patience(address)
    with _listening(port, address) as door, contextlib.ExitStack() as guests:
        come: dict[int, socket.socket] = {}
        while missing := sorted({*range(1, processes)} - {*come}):
            names = ", ".join(map(str, missing))
            patience.check(f"process{'es' * (len(missing) > 1)} {names} of {processes}")
            with contextlib.suppress(TimeoutError):
                guest = guests.enter_context(door.accept()[0])
                number, total = _hear_number(guest)
                if number is None:
                    continue  # someone else who knocked at this port
                if total != processes or number in come or not 0 < number < processes:
                    complaint = (
                        f"process {number} of {total} came to --coordinator={address}, where "
                        f"{processes} are expected, each once: give all the same --processes and "
                        "each a --process of its own"
                    )
                    for other in (guest, *come.values()):
                        _say(other, complaint)
                    raise UserError(complaint)
                come[number] = guest
            come = {number: guest for number, guest in come.items() if not _has_left(guest)}
        for guest in come.values():
            _say(guest, GO)
        for guest in come.values():
            # They leave first, so that the address is free for jax at once.
            with contextlib.suppress(OSError):
                guest.recv(1)


def _join(place: tuple[str, int], address: str, processes: int, process: int) -> None:
    """The others: come to the first process and wait for its word."""
    patience = _Patience(address)
    while True:
        patience.check(f"process 0 of {processes}")
        try:
            with socket.create_connection(place, timeout=TRY_SECONDS) as first:
                _say(first, f"{WORD} {process} {processes}")
                word = ""
                while not word.endswith("\n"):
                    patience.check(f"the other processes of {processes}")
                    with contextlib.suppress(TimeoutError):
                        part = first.recv(4096).decode("utf-8", "replace")
                        if not part:
                            raise ConnectionError
                        word += part
        except socket.gaierror as error:
            raise UserError(
                f"--coordinator={address} is no address that is known here ({error.strerror}): "
                "name the machine of process 0"
            ) from None
        except OSError:  # nobody listens there yet, or the first one has gone
            time.sleep(TRY_SECONDS)
            continue
        if word.strip() != GO:
            raise UserError(word.strip())
        return


@contextlib.contextmanager
def _listening(port: int, address: str) -> Iterator[socket.socket]:
    try:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        door = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at --coordinator={address} ({error.strerror}): name a free "
            "port of this machine"
        ) from None
    with door:
        door.settimeout(TRY_SECONDS)
        yield door


def _has_left(guest: socket.socket) -> bool:
    """Whether a process that had come is gone, so that one may come in its place."""
    try:
        return not guest.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        return True


def _hear_number(guest: socket.socket) -> tuple[int | None, int]:
    """The number of a process and how many it thinks there are; None for anyone else."""
    guest.settimeout(TRY_SECONDS)
    word, number, total, *_ = *_hear(guest).split(), "", "", ""
    if word != WORD or not (number.isdigit() and total.isdigit()):
        return None, 0
    return int(number), int(total)


def _hear(guest: socket.socket) -> str:
    """A line of at most 100 bytes; nothing where none comes."""
    line = b""
    with contextlib.suppress(OSError):
        while len(line) < 100 and not line.endswith(b"\n"):
            part = guest.recv(100 - len(line))
            if not part:
                break
            line += part
    return line.decode("ascii", "replace")


def _say(guest: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):
        guest.sendall(f"{line}\n".encode())
