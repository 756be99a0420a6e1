"""A limit on what all threads of a process take at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Allowance:
    """So much of something, such as bytes of memory, from which threads take a part while they need it."""

    def __init__(self, whole: int) -> None:
        self._whole = self._left = whole
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Wait until so much is left, and keep it for the block; more than the whole counts as the whole."""
        part = min(amount, self._whole)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= part)
            self._left -= part
        try:
            yield
        finally:
            with self._changed:
                self._left += part
                self._changed.notify_all()
