"""Download published weights into the cache folder: resumed, verified, and by one process at a time.

pooch transfers the bytes. What this module adds is that a partial file is resumed and that nothing gets its final
name before its digest is that of the registry. No network is used unless a file is missing from the cache.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from verydeep.errors import UserError, reason
from verydeep.files import cache_folder, digest, is_file, put_in_place, written_aside
from verydeep.progress import Meter, say
from verydeep.published.registry import Entry, entry, matches

ATTEMPTS = 20
"""How often an interrupted transfer is resumed, as long as each attempt brings some bytes."""

TIMEOUTS = (10, 60)
"""Seconds to wait for a connection, and then for each piece of data."""

CHUNK = 2**16
"""Bytes that are transferred at a time; of a chunk that is cut off, nothing is kept."""


def download(name: str, source: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of published weights in the cache folder; download them if they are not there.

    An interrupted download resumes. A file is only ever returned if its digest is that of the registry. Other
    processes that want the same file wait.

    Args:
        name: a name of the registry, such as torchvision/vgg16.
        source: where to get the file instead of from its publisher: a local file, or the URL of a mirror.

    Raises:
        UserError: if there is no such name, the file cannot be downloaded or written, or it is another file.
    """
    return fetched(entry(name), None if source is None else os.fspath(source))


def fetched(of: Entry, source: str | None = None) -> Path:
    """Return the path of an entry's file; arguments and errors are those of `download`."""
    path = place(of)
    if present(of):
        return path
    with _one_process(path, of):
        if present(of):  # another process has downloaded it
            return path
        if is_file(path):
            say(f"{path} is not {of.name}: it has {_found(path, of)}; getting it again")
        if source is not None and not _is_url(source):
            _copy(Path(source), path, of)
        else:
            _download(source or of.address, path, of)
    return path


def place(of: Entry) -> Path:
    """Return the path of an entry's file in the cache folder, whether it is there or not.

    Raises:
        UserError: if there is no cache folder.
    """
    folder = cache_folder()
    if folder is None:
        raise UserError("there is no home folder to keep downloads in; set VERYDEEP_CACHE to a folder")
    return folder / "published" / of.name / of.file_name


def present(of: Entry) -> bool:
    """Return whether an entry's file is in the cache folder, with the right digest.

    Raises:
        UserError: if the system cannot tell.
    """
    path = place(of)
    if not is_file(path):
        return False
    try:
        status = path.stat()
        return _verified(path, of.name, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error


@lru_cache(maxsize=64)
def _verified(path: Path, name: str, size: int, modified: int) -> bool:
    """Whether a file is the one of an entry; computed once per process, unless the file changes."""
    return matches(path, entry(name))


@contextmanager
def _one_process(path: Path, of: Entry) -> Iterator[None]:
    """Let one process at a time write a file; the others wait.

    Raises:
        UserError: if the folder cannot be written to.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is downloading {of.name}; waiting for it")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"cannot write to {path.parent}: {reason(error)}; set VERYDEEP_CACHE to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _is_url(source: str) -> bool:
    return bool(re.match(r"https?://", source, re.IGNORECASE))


def _copy(source: Path, path: Path, of: Entry) -> None:
    if not is_file(source):
        raise UserError(
            f"{source} is not a file; pass {of.file_name}, or the URL of a mirror (http:// or https://)"
        )
    try:
        size = source.stat().st_size
        if not matches(source, of):
            raise UserError(f"{source} is not {of.name}: it has {_found(source, of)}; {_expected(of)} is expected")
    except OSError as error:
        raise UserError(f"cannot read {source}: {reason(error)}") from error
    _check_room(path, size, kept=False)
    with written_aside(path) as aside:
        try:
            shutil.copyfile(source, aside)
        except OSError as error:
            raise _no_room(path, size, False, error) from error
        if not matches(aside, of):
            raise UserError(f"{source} was replaced while it was copied; start again")


def _download(url: str, path: Path, of: Entry) -> None:
    part = path.with_name(f"{path.name}.part")
    with _Transfer(url, path, part, of) as transfer:
        transfer.run()
    if matches(part, of):
        try:
            put_in_place(part, path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {reason(error)}") from error
        return
    found = _found(part, of)
    part.unlink()
    raise UserError(
        f"{url} is not {of.name}: it has {found}; {_expected(of)} is expected (source: {of.hash_source}); what "
        "was downloaded is removed; try again, or use another mirror"
    )


class _Refused(Exception):
    """The server does not continue where the partial file ends; it has been emptied."""


class _Transfer:
    """The transfer of a file, in as many attempts as it takes; also the file that pooch writes to."""

    def __init__(self, url: str, path: Path, part: Path, of: Entry) -> None:
        self._url, self._path, self._part, self._of = url, path, part, of
        self._total = of.bytes
        self._meter: Meter | None = None
        self._file: IO[bytes] | None = None
        self._response: Any = None
        """The response of requests whose content is being read."""
        self._size = 0
        """Bytes of the partial file."""
        self._shown = 0
        """Megabytes that the meter shows."""
        self._open = ExitStack()

    def __enter__(self) -> "_Transfer":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self) -> None:
        """Transfer the file to the partial file, from where that ends.

        Raises:
            UserError: if the server cannot be reached, has another file, or there is no space on the disk.
        """
        for attempt in range(ATTEMPTS):
            self._size = self._part.stat().st_size if self._part.exists() else 0
            if self._of.bytes is not None and self._size > self._of.bytes:
                self._part.unlink()
                self._size = 0
            if self._size == self._of.bytes:
                return
            before = self._size
            try:
                self._attempt()
                if self._total is None or self._size >= self._total:
                    return
                why = "the connection was closed"
            except _Refused:
                continue
            except OSError as error:  # all exceptions of requests are OSErrors
                why = _why(error)
            if self._size == before or attempt == ATTEMPTS - 1:
                raise self._unreachable(why)
        raise self._unreachable("the server sends other parts of the file than it is asked for")

    def _attempt(self) -> None:
        """Transfer what the server sends in one response."""
        try:
            import pooch
        except ImportError as error:
            raise UserError(
                f"downloading needs pooch; run pip install pooch, or get {self._url} and put it at {self._path}"
            ) from error
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={self._size}-"} if self._size else {})
        fetch = pooch.HTTPDownloader(
            chunk_size=CHUNK, timeout=TIMEOUTS, headers=headers, hooks={"response": self._answered}
        )
        try:
            with self._part.open("ab") as self._file:
                fetch(self._url, self, None)
        finally:
            if self._response is not None:
                self._response.close()

    def _answered(self, response: Any, **_: object) -> None:
        """Check the head of a response, before its content is read."""
        if response.is_redirect:
            return
        self._response = response
        status, headers = response.status_code, response.headers
        sent = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
        if status == 416 or (status == 206 and not (sent and int(sent[1]) == self._size)):
            self._empty()
            raise _Refused
        if status >= 400:
            return  # pooch raises
        if status != 206 and self._size:  # the server ignores ranges
            self._empty()
        length = headers.get("Content-Length", "")
        if length.isdecimal():
            self._total = self._size + int(length)
            if self._of.bytes not in (None, self._total):
                raise UserError(
                    f"{self._url} has {self._total:,} bytes, but {self._of.name} has {self._of.bytes:,}; use "
                    "another mirror"
                )
            _check_room(self._path, int(length), self._size > 0)
        if self._meter is None:
            megabytes = round(self._total / 1e6) if self._total else self._of.megabytes or 0
            self._shown = self._size // 10**6
            meter = Meter(f"downloading {self._of.name}", megabytes, done=self._shown, unit="MB")
            self._meter = self._open.enter_context(meter)

    def _empty(self) -> None:
        assert self._file is not None
        self._file.truncate(0)
        self._size = 0

    def write(self, chunk: bytes) -> int:
        """Write a chunk to the partial file.

        Raises:
            UserError: if the disk is full.
        """
        assert self._file is not None
        assert self._meter is not None
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            raise _no_room(self._path, (self._total or 0) - self._size, self._size > 0, error) from error
        self._size += len(chunk)
        self._meter.advance(self._size // 10**6 - self._shown)
        self._shown = self._size // 10**6
        return len(chunk)

    def flush(self) -> None:
        """Do nothing: `write` has flushed."""

    def _unreachable(self, why: str) -> UserError:
        kept = (
            f"; the first {self._size / 1e6:.0f} MB are kept, and the same command resumes" if self._size else ""
        )
        return UserError(
            f"cannot download {self._of.name} from {self._url} ({why}){kept}; get that file in another way and "
            f"put it at {self._path}, or pass it to verydeep weights {self._of.name} --from"
        )


_WORDS = {
    "ChunkedEncodingError": "the connection was closed",
    "ConnectTimeout": f"no connection within {TIMEOUTS[0]} s",
    "ReadTimeout": f"no data for {TIMEOUTS[1]} s",
}
"""Words for exceptions of requests that have no error of the system as their cause."""


def _why(error: BaseException) -> str:
    """Return the reason of an exception of requests: the system's words, or the status of HTTP."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"HTTP status {status}"
    words = _WORDS.get(type(error).__name__, type(error).__name__)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return words


def _found(path: Path, of: Entry) -> str:
    """Return what a file has instead of what it should have: its digest, or its size if that differs."""
    size = path.stat().st_size
    if of.bytes not in (None, size):
        return f"{size:,} bytes"
    return f"{of.digest_words.partition(' ')[0]} {digest(path, of.algorithm)}"


def _expected(of: Entry) -> str:
    return of.digest_words + (f" with {of.bytes:,} bytes" if of.bytes is not None else "")


def _check_room(path: Path, needed: int, kept: bool) -> None:
    """Refuse a file for which the disk has not enough space."""
    if shutil.disk_usage(path.parent).free < needed:
        raise _no_room(path, needed, kept)


def _no_room(path: Path, needed: int, kept: bool, error: OSError | None = None) -> UserError:
    """Return the error of a full disk.

    Args:
        path: the file to write.
        needed: bytes that are still missing.
        kept: whether the beginning of the file is kept.
        error: what the system has said; None if it was not tried.
    """
    free = shutil.disk_usage(path.parent).free
    why = "not enough space on the disk" if error is None else reason(error)
    resumes = "; what was downloaded is kept, and the same command resumes" if kept else ""
    return UserError(
        f"cannot write {path}: {why}; it needs {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free; make "
        f"room, or set VERYDEEP_CACHE to a folder on another disk{resumes}"
    )
