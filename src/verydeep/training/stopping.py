"""How a training is stopped: SIGTERM and Ctrl-C are noted, and acted on when everything can be saved."""

import signal as signals
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """A signal that came while nothing was being changed, so it can be acted on at once.

    Not an `Exception`: the interrupted code must not take it for an error of its own.

    Attributes:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """The signal that has come, if any."""

    def __init__(self) -> None:
        self.number = 0
        """Number of the signal, or 0."""
        self._interruptible = False

    def note(self, number: int) -> None:
        """Note a signal; called by the handler."""
        self.number = number
        if self._interruptible:
            raise Stopped(number)

    @contextmanager
    def interrupting(self, interruptible: bool = True) -> Iterator[None]:
        """Let a signal end the code inside; one that came before keeps it from starting.

        For code that may take long, or hang, and changes nothing: waiting for images, validation. Python drops
        exceptions in finalisers and in callbacks of weak references. After a signal in one of these, the code
        inside is finished, and `Stopped` is raised then.

        Raises:
            Stopped: if a signal has come.
        """
        self._interruptible = interruptible
        try:
            self._stop(interruptible)
            yield
            self._stop(interruptible)
        finally:
            self._interruptible = False

    def _stop(self, interruptible: bool) -> None:
        if interruptible and self.number:
            raise Stopped(self.number)


@contextmanager
def signals_noted() -> Iterator[Signals]:
    """Note SIGTERM and Ctrl-C instead of dying from them; a second one ends the process at once.

    Python would print a `Stopped` that it drops in a finaliser. Nothing is printed, since the signal is not lost.

    Only the main thread of a process gets signals; in another thread none is noted.
    """
    noted = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signals.getsignal(number) for number in (signals.SIGTERM, signals.SIGINT)}
    report = sys.unraisablehook

    def report_others(dropped: Any) -> None:
        if dropped.exc_type is not Stopped:
            report(dropped)

    def restore() -> None:
        for number, handler in before.items():
            signals.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        restore()
        noted.note(number)

    for number in before:
        signals.signal(number, note)
    sys.unraisablehook = report_others
    try:
        yield noted
    finally:
        sys.unraisablehook = report
        restore()
