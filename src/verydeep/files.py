"""Files that are whole or not there: written aside, synced, renamed; and the folder of what can be made again."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from verydeep.errors import UserError, reason, system_error


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it takes the place of `path` at once, on failure it is removed.

    A process killed at any moment leaves either the old file or the new one, never a part of it. Missing
    parent folders are made.

    Raises:
        UserError: where the disk is full or the folder cannot be written; what `path` held is still there.
    """
    if not path.name:
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        rights = aside.stat().st_mode
        yield aside
        aside.chmod(rights)  # some libraries write a file of their own in its place, which only its owner may read
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


def cache_folder() -> Path | None:
    """The user's cache folder for what can be made again (XDG base directories); None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative path is to be ignored, the specification says.
        return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "verydeep"
    except RuntimeError:
        return None
