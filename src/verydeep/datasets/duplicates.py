"""Photographs that two data sets share: an image that a net was trained on does not measure generalisation."""

import hashlib
import os
from collections.abc import Callable, Hashable
from pathlib import Path

from verydeep.datasets.dataset import Dataset
from verydeep.files import digest
from verydeep.photographs.photograph import Photograph

_TAIL = 4096
"""How many bytes at the end of a file are compared first: they mostly tell files of equal length apart."""


def same_content(one: Dataset, other: Dataset) -> tuple[tuple[int, int], ...]:
    """Find the photographs of `other` with the same content, byte for byte, as one of `one`.

    Returns:
        One pair per photograph found, in order: the row of the first match in `one`, and its own row.

    Only files with equal lengths and equal ends are read whole; unreadable ones are skipped.
    """
    ours, theirs = list(range(len(one))), list(range(len(other)))
    found: dict[Hashable, int] = {}
    keys: dict[int, Hashable] = {}
    for key_of in (_length, _tail, _digest):
        first = _keys(one, ours, key_of)
        keys = _keys(other, theirs, key_of)
        common = set(first.values()) & set(keys.values())
        ours = [row for row in ours if first.get(row) in common]
        theirs = [row for row in theirs if keys.get(row) in common]
        found = {first[row]: row for row in reversed(ours)}
    return tuple((found[keys[row]], row) for row in theirs)


def _keys(dataset: Dataset, rows: list[int], key_of: Callable[[Photograph], Hashable]) -> dict[int, Hashable]:
    keys = {}
    for row in rows:
        try:
            keys[row] = key_of(dataset.photographs[row])
        except OSError:
            continue
    return keys


def _length(photograph: Photograph) -> Hashable:
    return os.stat(photograph).st_size if isinstance(photograph, Path) else photograph.shape


def _tail(photograph: Photograph) -> Hashable:
    if not isinstance(photograph, Path):
        return photograph.tobytes()[-_TAIL:]
    with photograph.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _TAIL))
        return length, file.read(_TAIL)


def _digest(photograph: Photograph) -> Hashable:
    if isinstance(photograph, Path):
        return digest(photograph)
    return photograph.shape, hashlib.sha256(photograph.tobytes()).digest()
