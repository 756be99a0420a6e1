"""Progress: plain lines, a bar on a terminal, and remaining time that does not count an earlier process's work."""

import os
import sys

import pytest

from verydeep import progress
from verydeep.progress import Meter, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests wind."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_at_intervals_and_say_what_is_left(clock, capsys):
    with Meter("reading", total=100) as meter:
        meter.advance(10)
        clock[0] += 20
        meter.advance(10, "loss 2.3")
        clock[0] += 1
        meter.advance(10)
    assert capsys.readouterr().err == "reading: 20/100, 80 s left loss 2.3\n"


def test_work_of_an_earlier_process_does_not_count_for_the_speed(clock, capsys):
    with Meter("training", total=100, done=50) as meter:
        clock[0] += 20
        meter.advance(10)
    assert capsys.readouterr().err == "training: 60/100, 80 s left\n"


def test_a_disabled_meter_is_silent(clock, capsys):
    with Meter("reading", total=2, enabled=False) as meter:
        clock[0] += 100
        meter.advance()
    assert list(track([1, 2], "reading", 2, enabled=False)) == [1, 2]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_lines_that_are_said_stay(capsys):
    with Meter("training", total=2) as meter:
        meter.say("epoch 1: [bold] is no markup")
    assert capsys.readouterr().err == "epoch 1: [bold] is no markup\n"


def everything(terminal):
    """What was written to a terminal that is closed at its other end; one reading may give but a part of it."""
    read = b""
    try:
        while some := os.read(terminal, 100_000):
            read += some
    except OSError:  # Linux says that the other end is closed by an error
        pass
    finally:
        os.close(terminal)
    return read.decode()


def test_on_a_terminal_there_is_a_bar_with_the_remaining_time(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "100")
        with Meter("training A", total=4) as meter:
            meter.advance(3, "loss 2.3")
            meter.say("a line above the bar")
    shown = everything(ours)
    assert "training A" in shown
    assert "3/4" in shown
    assert "loss 2.3" in shown
    assert "a line above the bar" in shown
