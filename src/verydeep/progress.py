"""Progress and remaining time of long work: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

LINE_SECONDS = 15.0
"""How often a plain line is written where there is no terminal; shorter work stays silent."""


def say(line: str) -> None:
    """Write a line for people, on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


class Meter:
    """Counts `total` things, of which an earlier process has `done` some.

    Used as a context manager. It speaks on standard error, so that standard output stays data: where that is no
    terminal, a line is written every `LINE_SECONDS`; on a terminal a bar is drawn that says how much time remains.
    """

    def __init__(self, description: str, total: int, enabled: bool = True, done: int = 0) -> None:
        self.description, self.total, self.done, self._before = description, total, done, done
        self._started = self._spoke = time.monotonic()
        self._lines = enabled and not sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not enabled or self._lines,
            transient=True,
        )
        self._task = self._bar.add_task(description, total=total, completed=done, note="")

    def __enter__(self) -> "Meter":
        self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` things as done; `note` is shown beside the bar."""
        self.done += count
        self._bar.update(self._task, advance=count, note=note)
        now = time.monotonic()
        if self._lines and now - self._spoke >= LINE_SECONDS:
            self._spoke = now
            left = (now - self._started) / max(self.done - self._before, 1) * (self.total - self.done)
            text = f"{self.description}: {self.done}/{self.total}, {left:.0f} s left"
            say(f"{text} {note}".rstrip())

    def say(self, line: str) -> None:
        """Write a line that stays: above the bar on a terminal."""
        if self._bar.disable:
            say(line)
        else:
            self._bar.console.print(line, markup=False, highlight=False)


def track(items: Iterable[T], description: str, total: int, enabled: bool = True) -> Iterator[T]:
    """Yield the items while a `Meter` counts them."""
    with Meter(description, total, enabled) as meter:
        for item in items:
            yield item
            meter.advance()
