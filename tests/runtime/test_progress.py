"""Bars on terminals, lines in logs, silence where nobody listens."""

import io

import pytest

from avdiff_jax.runtime.progress import Progress


class Screen(io.StringIO):
    """A terminal that keeps what it was shown."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A function that lets so many seconds pass."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


@pytest.mark.parametrize("stream, least, most", [(Screen, 36, 44), (io.StringIO, 0, 0)])
def test_a_few_times_a_second_on_a_terminal_and_nothing_short_in_a_log(stream, least, most, clock):
    screen = stream()
    with Progress(1000, "work", screen) as progress:
        for _ in range(1000):
            clock(0.01)  # ten seconds in all
            progress.step(note="loss 0.3")
    assert least <= screen.getvalue().count("\r") <= most
    if least:
        assert screen.getvalue().endswith("| 1000/1000 [00:09<00:00, loss 0.3]\n")
    else:
        assert not screen.getvalue()


def test_lines_in_a_log_and_the_time_left(clock):
    log = io.StringIO()
    with Progress(100, "work", log) as progress:
        for _ in range(30):
            clock(2)
            progress.step(1, "loss 0.3")
        first, second = log.getvalue().splitlines()
        assert first.startswith("work:  15%|") and "15/100 [00:30<02:50, loss 0.3]" in first
        assert "30/100 [01:00<02:20, loss 0.3]" in second
        clock(1)
        progress.step(70)
        clock(40)
        progress.step(0, "done")
    assert "\r" not in log.getvalue()
    *_, before, last = log.getvalue().splitlines()
    assert last.startswith("work: 100%|") and not before.startswith("work: 100%|")


def test_a_phase_that_ends_early_ends_at_100_percent(clock):
    log = io.StringIO()
    with Progress(100, "work", log) as progress:
        clock(31)
        progress.step(40)
    assert log.getvalue().splitlines()[-1].startswith("work: 100%|")
    assert "40/40" in log.getvalue().splitlines()[-1]


def test_a_phase_that_fails_stays_where_it_was(clock):
    log = io.StringIO()
    with pytest.raises(RuntimeError), Progress(100, "work", log) as progress:
        clock(31)
        progress.step(40)
        raise RuntimeError
    assert log.getvalue().splitlines()[-1].startswith("work:  40%|")


def test_a_total_that_comes_later(clock):
    log = io.StringIO()
    with Progress(None, "work", log) as progress:
        clock(31)
        progress.step(3, "MiB")
        assert log.getvalue() == "work: 3 [00:31, MiB]\n"
        progress.total = 12
        clock(31)
        progress.step(3)
        assert "work:  50%|" in log.getvalue()


@pytest.mark.parametrize("stream", [Screen, io.StringIO])
def test_a_line_of_its_own_comes_at_once(stream, clock):
    screen = stream()
    with Progress(10, "work", screen) as progress:
        progress.tell("begins")
        assert "begins\n" in screen.getvalue()
        progress.step(10)
    assert screen.getvalue().count("begins") == 1
    if stream is io.StringIO:
        assert screen.getvalue() == "begins\n"


class Broken(Screen):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", ["closed", "none", "broken"])
def test_a_stream_that_fails_does_not_fail_the_work(stream, clock, monkeypatch):
    closed = io.StringIO()
    closed.close()
    streams = {"closed": closed, "none": None, "broken": Broken()}
    monkeypatch.setattr("sys.stderr", streams[stream])
    with Progress(3, "work") as progress:
        for _ in range(3):
            clock(60)
            progress.step(1, "note")
    assert progress.n == 3


def test_other_processes_keep_still(clock, monkeypatch):
    monkeypatch.setattr(Progress, "shown", False)
    screen = Screen()
    with Progress(3, "work", screen) as progress:
        clock(60)
        progress.step(3, "note")
    assert not screen.getvalue()
