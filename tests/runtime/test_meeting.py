"""Processes that wait for each other: who is missing is named, again and at the end."""

import re
import socket
import threading
import time

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.runtime import hosts, meeting


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(meeting, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(meeting, "WAIT_SECONDS", 20.0)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(meeting, "WAIT_SECONDS", 1.0)
    monkeypatch.setattr(meeting, "SAY_SECONDS", 0.3)


class Guest(threading.Thread):
    """Another process, as a thread; `error` is what it was told."""

    def __init__(self, *arguments):
        super().__init__(daemon=True)
        self.arguments, self.error = arguments, None
        self.start()

    def run(self):
        try:
            meeting.meet(*self.arguments)
        except UserError as error:
            self.error = str(error)


def test_all_come(address):
    guests = [Guest(address, 3, i) for i in (1, 2)]
    meeting.meet(address, 3, 0)
    for guest in guests:
        guest.join(10)
        assert not guest.is_alive() and guest.error is None
    meeting.meet(address, 1, 0)  # the address is free again


def test_the_first_says_who_is_missing(address, impatient, capsys):
    guests = []
    threading.Timer(0.1, lambda: guests.append(Guest(address, 4, 2))).start()
    with pytest.raises(UserError, match=r"waited 1 s for processes 1, 3 of 4 at --coordinator"):
        meeting.meet(address, 4, 0)
    lines = re.findall("waiting for processes 1, 3 of 4 at", capsys.readouterr().err)
    assert len(lines) >= 2
    guests[0].join(10)
    assert re.search("for (process 0|the other processes) of 4", guests[0].error)


def test_the_others_say_that_the_first_is_missing(address, impatient, capsys):
    with pytest.raises(UserError, match="waited 1 s for process 0 of 2"):
        hosts.start(address, 2, 1)
    assert "waiting for process 0 of 2 at" in capsys.readouterr().err


def test_strangers_and_those_who_leave_do_not_count(address):
    host, port = address.split(":")
    first = Guest(address, 3, 0)
    for word in (b"GET / HTTP/1.1\r\n\r\n", b"avdiff_jax x y\n", b"avdiff_jax 1 3\n"):
        while True:
            try:
                with socket.create_connection((host, int(port))) as stranger:
                    stranger.sendall(word)
                    break
            except ConnectionRefusedError:
                time.sleep(0.02)
    time.sleep(0.3)
    assert first.is_alive()
    other = Guest(address, 3, 2)
    meeting.meet(address, 3, 1)
    for one in (first, other):
        one.join(10)
        assert not one.is_alive() and one.error is None


@pytest.mark.parametrize("processes, process", [(3, 1), (2, 1)])
def test_numbers_that_contradict_each_other(processes, process, address):
    first, guests = Guest(address, 3, 0), [Guest(address, 3, 1)]
    time.sleep(0.3)
    guests.append(Guest(address, processes, process))
    for one in (first, *guests):
        one.join(10)
        assert f"process {process} of {processes} came to" in one.error


@pytest.mark.parametrize("word", ["here", "here:", ":7", "here:x", "here:70000"])
def test_no_address(word):
    with pytest.raises(UserError, match="is not of the form HOST:PORT"):
        meeting.meet(word, 2, 0)


def test_a_port_that_is_taken(address):
    taken = socket.create_server(("", int(address.split(":")[1])))
    with taken, pytest.raises(UserError, match="process 0 cannot listen at"):
        meeting.meet(address, 2, 0)
