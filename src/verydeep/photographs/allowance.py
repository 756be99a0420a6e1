"""A limit on how much all threads of a process hold at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Allowance:
    """A fixed amount of something, such as bytes of memory; each thread takes a part of it while it needs it."""

    def __init__(self, whole: int) -> None:
        self._whole = self._left = whole
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Wait until `amount` is left, and hold it for the block. More than the whole counts as the whole."""
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
