"""Files that are complete or absent (written aside, synced, renamed), what a path names, and the cache folder."""

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
    """Yield a path to write to. On success that file atomically replaces `path`; on failure it is removed.

    A process killed at any moment leaves either the old file or the new one, never a part of it. Missing parent
    folders are created.

    Args:
        path: the file to write.
        within: a folder that must exist; if it was removed meanwhile it is not created again.

    Raises:
        UserError: if the disk is full or the folder cannot be written to; the old content of `path` is kept.
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
        put_in_place(aside, path)
    except OSError as error:
        kept = "; the file that was there is kept" if os.path.exists(path) else ""
        raise UserError(f"cannot write {path}: {reason(error)}{kept}") from error
    finally:
        with suppress(OSError):  # usually it is gone; if it cannot be removed, the error above has said why
            aside.unlink()


ABANDONED_SECONDS = 3600.0
"""Age in seconds after which an unfinished file counts as abandoned: nothing takes this long to write."""


def remove_abandoned(folder: Path, *also: str) -> None:
    """Remove unfinished files of processes that were killed.

    Args:
        folder: the folder to search.
        also: patterns of further names besides those of `written_aside`, for folders that only we write to.
    """
    for left in [left for pattern in (".*.[0-9]*.part", *also) for left in folder.glob(pattern)]:
        with suppress(OSError):  # another process may have removed it
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()


def put_in_place(aside: Path, path: Path) -> None:
    """Give a file that was written aside, in the same folder, its final name; a power failure cannot leave a part.

    Raises:
        OSError: if the system cannot do it.
    """
    with aside.open("rb+") as file:
        os.fsync(file.fileno())
    aside.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming survive a power failure, if the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_file(path: Path) -> bool:
    """Return whether there is a file, or a link to one, at this path.

    Raises:
        UserError: if the system cannot tell: no permission, a name that is too long, a link to itself.
    """
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Return whether there is a folder at this path; errors are those of `is_file`."""
    return stat.S_ISDIR(_mode(path))


def exists(path: Path) -> bool:
    """Return whether there is anything at this path; errors are those of `is_file`."""
    return _mode(path) != 0


def _mode(path: Path) -> int:
    """Return `st_mode` of a path; 0 if there is nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise system_error(error) from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{path}: {reason(error)}") from error


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's content, in hexadecimal digits; SHA-256 unless another algorithm is named."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it cannot be read, is not JSON, is nested too deeply, or has numbers that are too long.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def cache_folder() -> Path | None:
    """Return this package's cache folder; None if there is no home.

    It is the folder that VERYDEEP_CACHE names, or `verydeep` in the user's cache (XDG base directories).
    """
    if own := os.environ.get("VERYDEEP_CACHE", ""):
        return Path(own).absolute()
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The specification says to ignore a relative path.
        return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "verydeep"
    except RuntimeError:
        return None
