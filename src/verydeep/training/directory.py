"""A run directory while a training works in it: locked, and compared before each write.

The lock is of a file, and files are written to paths: a directory that was removed or moved, and perhaps made anew
for another run, must not be written to by the training that had it before.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verydeep.errors import UserError, reason
from verydeep.files import written_aside
from verydeep.training.start import Start

LOCK = ".lock"


@dataclass(frozen=True)
class Entered:
    """A run directory that a training has entered."""

    path: Path
    start: Start
    identity: dict[str, Any] = field(default_factory=dict)
    """What tells its checkpoints from those of other runs; see `run.identity`."""
    lock: int | None = None
    """Descriptor of the locked file; None in ranks other than the first, which do not write."""

    def check(self) -> None:
        """Refuse to write into a directory that is not the one that was entered.

        Raises:
            UserError: if it was removed, moved, or replaced by another.
        """
        if self.lock is not None and not _is_at(self.lock, self.path / LOCK):
            raise UserError(
                f"{self.path} was moved, removed or replaced while a training worked in it; the training stops "
                "and writes nothing more there"
            )

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """`written_aside` for a file of the run; the directory is compared before and after the writing.

        Raises:
            UserError: if it is not the one that was entered, or the file cannot be written.
        """
        self.check()
        with written_aside(self.path / name, within=self.path) as aside:
            yield aside
            self.check()


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """Hold a directory's lock; the system lets go of it when the process ends, however it ends.

    Yields:
        The descriptor of the locked file; None on a system without such locks.

    Raises:
        UserError: if another process holds it, or it cannot be locked.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield None
        return
    try:
        file = (path / LOCK).open("w")
    except OSError as error:
        raise UserError(f"cannot write in the run directory {path}: {reason(error)}") from error
    with file:
        try:
            # A record lock: one of flock would live on in the reading processes of a training that was killed. It
            # is lost as soon as this process closes the file anywhere: nothing else may open it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"another process is training in {path}; wait for it or name another with --out"
            ) from error
        except OSError as error:  # some network drives have no locks
            raise UserError(f"cannot lock {path}: {reason(error)}; name a directory on another disk") from error
        if not _is_at(file.fileno(), path / LOCK):
            raise UserError(f"{path} was removed while this training started in it; start again")
        yield file.fileno()


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that a path leads to; its number is not used again while it is open."""
    held = os.fstat(descriptor)
    try:
        there = path.stat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
