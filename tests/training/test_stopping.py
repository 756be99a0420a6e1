"""Signals that come where Python drops what is raised."""

import signal
import sys
import weakref

from verydeep.training.stopping import Stopped, signals_noted


class Thing:
    pass


def signalled(*_):
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("the handler did not run")


class Finalised:
    __del__ = signalled


def interrupted(code):
    """Return what happens to code that a signal may end, and after which a line is to come."""
    done = []
    with signals_noted() as signals:
        try:
            with signals.interrupting():
                code()
                done.append("went on")
        except Stopped as stopped:
            done.append(stopped.number)
    return done


def test_a_signal_in_a_finaliser_ends_the_code_when_it_is_done(capsys):
    assert interrupted(Finalised) == ["went on", signal.SIGTERM]
    assert capsys.readouterr().err == ""


def test_a_signal_in_the_callback_of_a_weak_reference_does(capsys):
    references = []

    def drop():
        thing = Thing()
        references.append(weakref.ref(thing, signalled))

    assert interrupted(drop) == ["went on", signal.SIGTERM]
    assert capsys.readouterr().err == ""


def test_other_errors_in_finalisers_are_reported_as_before(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: reported.append(dropped.exc_type))

    class Failing:
        def __del__(self):
            raise ValueError

    with signals_noted():
        Failing()
    Failing()
    assert reported == [ValueError, ValueError]
