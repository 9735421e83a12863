import pytest

from avdiff_jax.runtime.progress import Progress, clock_text


class Screen:
    def __init__(self, terminal):
        self.text, self.terminal = "", terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("terminal, least, most", [(True, 36, 42), (False, 0, 1)])
def test_progress_draws_a_few_times_a_second(terminal, least, most):
    screen, clock = Screen(terminal), Clock()
    with Progress(1000, "work", screen, clock) as progress:
        for _ in range(1000):
            clock.now += 0.01  # ten seconds in all
            progress.step(note="loss 0.3")
    lines = screen.text.count("\r") if terminal else screen.text.count("\n")
    assert least <= lines <= most
    if terminal:
        assert "1000/1000" in screen.text and "loss 0.3" in screen.text
        assert screen.text.endswith("\n")


def test_progress_in_a_log_and_the_time_left():
    screen, clock = Screen(False), Clock()
    with Progress(100, "work", screen, clock) as progress:
        clock.now = 31
        progress.step(25)
        assert " 25 %  25/100  0:31  left 1:33" in screen.text
        clock.now = 40
        progress.step(75)
    assert screen.text.splitlines()[-1].endswith("100/100  0:40")


def test_progress_survives_a_closed_stream(tmp_path):
    with open(tmp_path / "log", "w") as stream:
        pass
    clock = Clock()
    with Progress(None, "work", stream, clock) as progress:
        clock.now = 60
        progress.step(3)
    assert progress.done == 3


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (11109, "3:05:09")])
def test_clock_text(seconds, text):
    assert clock_text(seconds) == text
