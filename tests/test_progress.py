"""Progress: plain lines, a bar on a terminal, and a remaining time that ignores the work of earlier processes."""

import io
import os
import sys
from contextlib import contextmanager, nullcontext, suppress

import pytest

from verydeep import progress
from verydeep.progress import Meter, say, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
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


def test_the_unit_of_what_is_counted_is_named(clock, capsys):
    with Meter("training", total=100, unit="mini-batches") as meter:
        clock[0] += 20
        meter.advance(20, "epoch 1 of 2")
    assert capsys.readouterr().err == "training: 20/100 mini-batches, 80 s left epoch 1 of 2\n"


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
    """Return all that was written to a terminal whose other end is closed; one read may return only a part."""
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
        with Meter("training A", total=4, unit="mini-batches") as meter:
            meter.advance(3, "loss 2.3")
            meter.say("a line above the bar")
    shown = everything(ours)
    assert "training A" in shown
    assert "3/4" in shown
    assert "mini-batches" in shown
    assert "loss 2.3" in shown
    assert "a line above the bar" in shown


@contextmanager
def stream_on(descriptor):
    """A text stream that may fail to flush when it is closed."""
    stream = os.fdopen(descriptor, "w")
    try:
        yield stream
    finally:
        with suppress(OSError):
            stream.close()


def closed():
    stream = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    stream.close()
    return nullcontext(stream)


def without_reader():
    ours, theirs = os.pipe()
    os.close(ours)
    return stream_on(theirs)


def full():
    return stream_on(os.open("/dev/full", os.O_WRONLY)) if os.path.exists("/dev/full") else without_reader()


@pytest.mark.parametrize("stream", [closed, without_reader, full, nullcontext])
def test_work_goes_on_when_nobody_can_be_told(monkeypatch, clock, stream):
    with stream() as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", nobody)
        for _ in track(range(3), "reading", 3):
            clock[0] += 20
            say("a line")
        with Meter("training", total=2) as meter:
            meter.say("epoch 1")


def test_work_goes_on_when_the_terminal_is_gone(monkeypatch):
    ours, theirs = os.openpty()
    with stream_on(theirs) as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm")
        with Meter("training A", total=2) as meter:
            os.close(ours)
            meter.advance(1)
            meter.say("a line")
            say("another line")


def test_names_are_shown_on_a_terminal_as_they_are(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "100")
        with Meter("Reading [old]:cat:", total=2) as meter:
            meter.advance(1, "[note]")
            meter.say("above [red]:cat:\x1b[2J")
            say("through [red]:cat:\x1b[2J")
    shown = everything(ours)
    for words in ("Reading [old]:cat:", "[note]", r"above [red]:cat:\x1b[2J", r"through [red]:cat:\x1b[2J"):
        assert words in shown


def test_a_line_is_written_in_the_encoding_that_is_there(monkeypatch):
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(held, "ascii"))
    say("写 \x1b[2J caf\udce9")
    assert held.getvalue() == rb"\u5199 \x1b[2J caf\xe9" + b"\n"
