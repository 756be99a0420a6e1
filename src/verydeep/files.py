"""Files that are whole or not there: written aside, synced, renamed; and the folder of what can be made again."""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from verydeep.errors import UserError, reason, system_error


@contextmanager
def written_aside(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to; on success it takes the place of `path` at once, on failure it is removed.

    A process killed at any moment leaves either the old file or the new one, never a part of it. Missing
    parent folders are made.

    Args:
        path: the file to write.
        within: a folder that must be there: one that was removed meanwhile is not made anew.

    Raises:
        UserError: if the disk is full or the folder cannot be written; what `path` held is still there.
    """
    if not path.name:
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if within is not None and not within.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"{within} is gone")
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = "; the file that was there is kept" if os.path.exists(path) else ""
        raise UserError(f"cannot write {path}: {reason(error)}{kept}") from error
    finally:
        with suppress(OSError):  # mostly it is gone; where it cannot be, there is nothing to say that was not said
            aside.unlink()


ABANDONED_SECONDS = 3600.0
"""A file that is being written is not left alone for so long."""


def remove_abandoned(folder: Path, *also: str) -> None:
    """Remove files that were being written aside when their process was killed.

    Args:
        folder: where to look.
        also: patterns of names besides those of `written_aside`, in folders that are ours alone.
    """
    for left in [left for pattern in (".*.[0-9]*.part", *also) for left in folder.glob(pattern)]:
        with suppress(OSError):  # another process may remove it, too
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself survive a power failure, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_file(path: Path) -> bool:
    """Whether there is a file of this name, also by a link.

    Raises:
        UserError: if the system refuses to say: no permission, a name that is too long, a link to itself.
    """
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name; raises as `is_file` does."""
    return stat.S_ISDIR(_mode(path))


def exists(path: Path) -> bool:
    """Whether there is anything of this name; raises as `is_file` does."""
    return _mode(path) != 0


def _mode(path: Path) -> int:
    """`st_mode` of what has this name; 0 if nothing has."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise system_error(error) from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{path}: {reason(error)}") from error


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: if it cannot be read, or its content is not JSON, too deep, or has numbers too long.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def cache_folder() -> Path | None:
    """The user's cache folder for what can be made again (XDG base directories); None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative path is to be ignored, the specification says.
        return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "verydeep"
    except RuntimeError:
        return None
