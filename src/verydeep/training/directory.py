"""A run directory while a training works in it: locked, and checked before each write.

The lock belongs to a file, but files are written to paths. If the directory has been removed or moved, and perhaps
made again for another run, the first training must not write to it.
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
    """Tells its checkpoints from those of other runs; see `run.identity`."""
    lock: int | None = None
    """Descriptor of the locked file; None in all ranks but the first, which do not write."""

    def check(self) -> None:
        """Refuse to write into a directory that is not the one that was entered.

        Raises:
            UserError: if it was removed, moved, or replaced by another.
        """
        if self.lock is not None and not _is_at(self.lock, self.path / LOCK):
            raise UserError(
                f"{self.path} was moved, removed or replaced while a training worked in it; the training stops "
                "and writes nothing more to it"
            )

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """Write a file of the run as `written_aside` does; check the directory before and after.

        Yields:
            The path to write to.

        Raises:
            UserError: if the directory is not the one that was entered, or the file cannot be written.
        """
        self.check()
        with written_aside(self.path / name, within=self.path) as aside:
            yield aside
            self.check()


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """Hold the lock of a directory; the system releases it when the process ends, however it ends.

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
            # A record lock: a lock by flock would outlive a killed training in its workers. A record lock is lost
            # as soon as this process closes the file anywhere, so nothing else may open it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"another process is training in {path}; wait for it, or name another directory with --out"
            ) from error
        except OSError as error:  # some network drives have no locks
            raise UserError(f"cannot lock {path}: {reason(error)}; name a directory on another disk") from error
        if not _is_at(file.fileno(), path / LOCK):
            raise UserError(f"{path} was removed while this training started in it; start again")
        yield file.fileno()


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path; its inode number is not reused while it is open."""
    held = os.fstat(descriptor)
    try:
        there = path.stat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
