"""Files that contain the SHA-256 of their own content, so that a changed bit is found when they are read.

There are two kinds: arrays, in a safetensors file with the digest in its header; and anything else, with the
digest as its last line. Files from versions without digests are recognised, and are read without a check.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from verydeep.errors import UserError

SEAL = "sha256"
"""Name of the digest in a safetensors header's metadata."""

_OPENING = b'{"__metadata__":{"' + SEAL.encode() + b'":"'
_DIGITS = 64
_KINDS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint16": "U16",
    "uint8": "U8",
}
"""safetensors' names of numpy's types."""

_LAST = b"sha256:"
_BLOCK = 2**20


class Damaged(UserError):
    """The content of a file is not what was written."""


# Arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with the digest of all its bytes, in which the digest's own digits count as zeros.

    The header is written here and not by safetensors, which changes the order of metadata each time. So equal
    content gives equal bytes, and the digest can be found without parsing.

    Args:
        path: a file that nothing else reads yet.
        arrays: arrays by name, of the types in `_KINDS`.
        metadata: further metadata for the header.

    Raises:
        OSError: if the system cannot write it.
    """
    # Larger items first, so that each array begins at a multiple of its items' size.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    fields: dict[str, object] = {"__metadata__": {SEAL: "0" * _DIGITS, **(metadata or {})}}
    end = 0
    for name, array in ordered:
        offsets = [end, end + array.nbytes]
        fields[name] = {"dtype": _KINDS[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        end += array.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode()
    header = text + b" " * (-len(text) % 8)
    start = len(header).to_bytes(8, "little") + header
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for _, array in ordered]
    found = hashlib.sha256(start)
    for part in parts:
        found.update(part)
    at = 8 + len(_OPENING)
    with path.open("wb") as file:
        file.write(start[:at] + found.hexdigest().encode() + start[at + _DIGITS :])
        for part in parts:
            file.write(part)


def check_arrays(path: Path, known: Collection[str] = ()) -> dict[str, str]:
    """Check that the content of a safetensors file is what was written.

    Args:
        path: the file.
        known: metadata that a file without a digest may have. Any other name would be that of a damaged digest.

    Returns:
        The metadata of its header, without the digest.

    Raises:
        Damaged: if a bit has changed, or the file is not a whole safetensors file.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8 + len(_OPENING))
        sealed = start[8:] == _OPENING
        if sealed:
            told = file.read(_DIGITS)
            found = hashlib.sha256(start + b"0" * len(told))
            if hashlib.file_digest(file, lambda: found).hexdigest().encode() != told:
                raise Damaged(f"{path} is damaged: it is not what was written")
    try:
        with safe_open(path, framework="np") as opened:
            metadata = dict(opened.metadata() or {})
    except SafetensorError as error:
        raise Damaged(f"{path} is not a whole safetensors file: {error}") from error
    if sealed:
        del metadata[SEAL]
    elif strange := sorted(metadata.keys() - set(known)):
        if strange == [SEAL]:
            raise Damaged(f"{path} was rewritten by another program, so its digest ({SEAL}) is no longer valid")
        raise Damaged(f"{path} is damaged or not a file of verydeep: its header holds {strange[0]!r}")
    return metadata


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file without other metadata; errors are those of `check_arrays`."""
    check_arrays(path)
    return dict(load_file(path))


# Anything else


class SealingWriter:
    """Write to a file, then the digest of everything written as the last line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write some bytes."""
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Pass everything written on to the system."""
        self._file.flush()

    def seal(self) -> None:
        """Write the digest; nothing may be written after it."""
        self._file.write(_LAST + self._digest.hexdigest().encode() + b"\n")


def check_last_line(path: Path) -> bool:
    """Check that the digest in a file's last line is that of the content before it.

    Returns:
        Whether the last line is a digest.

    Raises:
        Damaged: if the content has changed since it was written.
        OSError: if it cannot be read.
    """
    length = len(_LAST) + _DIGITS + 1
    with path.open("rb") as file:
        left = file.seek(0, 2) - length
        file.seek(max(left, 0))
        last = file.read()
        if left < 0 or not last.startswith(_LAST):
            return False
        file.seek(0)
        found = hashlib.sha256()
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            found.update(block)
            left -= len(block)
    if last != _LAST + found.hexdigest().encode() + b"\n":
        raise Damaged(f"{path} is damaged: it is not what was written")
    return True
