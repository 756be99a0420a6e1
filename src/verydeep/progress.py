"""Progress and remaining time of long work: a live bar on a terminal, plain lines elsewhere.

All of this is for people and goes to standard error. If that is closed, its reader gone or its disk full, the work
still continues.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Protocol, TypeVar, cast, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from verydeep.printable import printable

T = TypeVar("T")

LINE_SECONDS = 15.0
"""Seconds between plain lines if there is no terminal; shorter work stays silent."""


def say(line: str) -> None:
    """Write a line for people to standard error, if possible; standard output is for results."""
    if sys.stderr is not None:  # it is None if the process was started with it closed
        stream = _Listener(sys.stderr)
        stream.write(f"{printable(line)}\n")
        stream.flush()


@runtime_checkable
class _Stream(Protocol):
    """What lines are written to: standard error, or an object that a user has put in its place."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class _Listener:
    """A stream that accepts everything, and drops what cannot be written."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with suppress(OSError, ValueError):  # ValueError: this process has closed it
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Meter:
    """Counts `total` things, of which an earlier process has `done` some; a context manager.

    It writes to standard error: a bar with the remaining time on a terminal, else a line every `LINE_SECONDS`.
    """

    def __init__(
        self, description: str, total: int, enabled: bool = True, done: int = 0, *, unit: str = ""
    ) -> None:
        """Start to count.

        Args:
            description: of the work.
            total: how many things there are.
            enabled: whether to show anything.
            done: how many of them are done already.
            unit: what they are, such as "images".
        """
        self.description, self.total, self.done, self._before = printable(description), total, done, done
        self._unit = f" {unit}" if unit else ""
        self._started = self._spoke = time.monotonic()
        terminal = _terminal()
        self._lines = enabled and terminal is None
        self._bar: Progress | None = None
        if enabled and terminal is not None:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                *([TextColumn(unit, markup=False)] if unit else []),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=cast(IO[str], terminal)),
                transient=True,
            )
            self._task = self._bar.add_task(self.description, total=total, completed=done, note="")

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` things as done; `note` is shown next to the bar."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, note=printable(note))
        now = time.monotonic()
        if self._lines and now - self._spoke >= LINE_SECONDS:
            self._spoke = now
            left = (now - self._started) / max(self.done - self._before, 1) * (self.total - self.done)
            text = f"{self.description}: {self.done}/{self.total}{self._unit}, {left:.0f} s left"
            say(f"{text} {note}".rstrip())

    def say(self, line: str) -> None:
        """Write a line that stays; on a terminal, above the bar."""
        if self._bar is None:
            say(line)
        else:
            self._bar.console.print(Text(printable(line)))


def _terminal() -> _Listener | None:
    """Return standard error as a stream that never fails, if it is a terminal."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None and sys.stderr.isatty():
            return _Listener(sys.stderr)
    return None


def track(
    items: Iterable[T], description: str, total: int, enabled: bool = True, *, unit: str = ""
) -> Iterator[T]:
    """Yield the items while a `Meter` counts them."""
    with Meter(description, total, enabled, unit=unit) as meter:
        for item in items:
            yield item
            meter.advance()
