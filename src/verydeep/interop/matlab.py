"""Read MATLAB files of level 5 as arrays, strings, lists (cells) and dicts (structs).

SciPy reads them, too, but a damaged file can crash the process. Here every length is checked against the bytes
left, a compressed variable may inflate to at most a few times the size of the file, and the number and nesting of
values are limited.
"""

import zlib
from math import prod
from typing import Any, TypeAlias

import numpy as np

from verydeep.errors import UserError

Value: TypeAlias = np.ndarray | str | list[Any] | dict[str, Any]
"""Lists and dicts contain such values, too."""

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_GROWTH, _SLACK = 4, 2**20
"""Weights hardly compress, so content that inflates more than this is not a net."""
_MOST_VALUES, _DEEPEST = 100_000, 12

_STORED = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
"""NumPy types of stored numbers, by element type."""
_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
"""NumPy types of arrays, by array class; their numbers may be stored in a smaller type."""
_CELL, _STRUCT, _TEXT = 1, 2, 4
_COMPLEX = 8
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
"""Encodings of text, by element type."""


def variables(content: memoryview) -> dict[str, Value]:
    """Return the variables of a file by name.

    Raises:
        UserError: if it is not such a file, is truncated or damaged, or inflates to far more than its size.
    """
    if bytes(content[126:128]) != b"IM":
        raise UserError("it is not a MATLAB file of level 5 with little-endian numbers")
    reader, found, at = _Reader(), {}, _HEADER
    left = _GROWTH * len(content) + _SLACK
    while at < len(content):
        kind, data, at = _element(content, at)
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(data, left + 1)
            left -= len(inflated)
            if left < 0:
                raise UserError("its content inflates to far more than the size of the file, which weights do not")
            if not inflater.eof:
                raise UserError("a compressed variable is truncated")
            kind, data, _ = _element(memoryview(inflated), 0)
        if kind == _MATRIX:
            name, value = reader.matrix(data, 0)
            found[name] = value
    return found


def _element(content: memoryview, at: int) -> tuple[int, memoryview, int]:
    """Return the type and data of an element, and the position of the next one."""
    if at + 8 > len(content):
        raise UserError("an element is truncated")
    kind, length = (int(word) for word in np.frombuffer(content[at : at + 8], "<u4"))
    if kind >> 16:  # a small element: the upper half of the first word is its length, the second word its data
        kind, length, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
    else:
        start = at + 8
        end = start + length + (0 if kind == _COMPRESSED else -length % 8)
    if start + length > len(content) or (start == at + 4 and length > 4):
        raise UserError(
            f"an element of {length} bytes goes beyond its container; the file is truncated or damaged"
        )
    return kind, content[start : start + length], end


class _Reader:
    """Reads arrays, and counts them to limit their number."""

    def __init__(self) -> None:
        self.count = 0

    def matrix(self, data: memoryview, depth: int) -> tuple[str, Value]:
        """Return name and value of an array; all MATLAB values are arrays."""
        self.count += 1
        if self.count > _MOST_VALUES or depth > _DEEPEST:
            raise UserError(f"it has more than {_MOST_VALUES} values, or values nested more than {_DEEPEST} deep")
        if not data:
            return "", np.zeros((0, 0))
        flags, at = self._numbers(data, 0)
        sizes, at = self._numbers(data, at)
        _, name, at = _element(data, at)
        if not flags.size or not sizes.size or sizes.size > 8 or sizes.min() < 0:
            raise UserError("an array has no sizes; the file is damaged")
        kind, shape = int(flags[0]) & 0xFF, tuple(int(size) for size in sizes)
        if int(flags[0]) >> 8 & _COMPLEX:
            raise UserError("an array has complex numbers; real ones are expected")
        return bytes(name).decode("latin-1"), self._value(kind, shape, data, at, depth)

    def _value(self, kind: int, shape: tuple[int, ...], data: memoryview, at: int, depth: int) -> Value:
        if kind == _CELL:
            return self._matrices(data, at, prod(shape), depth)
        if kind == _STRUCT:
            length, at = self._numbers(data, at)
            _, names, at = _element(data, at)
            step = int(length[0]) if length.size else 0
            if step < 1 or prod(shape) != 1:
                raise UserError(f"a struct array has shape {shape}; 1 x 1 is expected")
            fields = [
                bytes(names[i : i + step]).split(b"\0")[0].decode("latin-1") for i in range(0, len(names), step)
            ]
            return dict(zip(fields, self._matrices(data, at, len(fields), depth), strict=True))
        if kind == _TEXT:
            stored, text, _ = _element(data, at)
            return bytes(text).decode(_TEXTS.get(stored, "latin-1"), "replace")
        if kind not in _CLASSES:
            raise UserError(f"a value is of MATLAB's class {kind}; a number, text, cell or struct is expected")
        numbers, _ = self._numbers(data, at)
        if numbers.size != prod(shape):
            raise UserError(
                f"an array of shape {shape} contains {numbers.size} numbers; the file is truncated or damaged"
            )
        return numbers.astype(_CLASSES[kind], copy=False).reshape(shape, order="F")

    def _matrices(self, data: memoryview, at: int, number: int, depth: int) -> list[Value]:
        """Return a number of consecutive arrays."""
        found: list[Value] = []
        while len(found) < number:
            kind, inner, at = _element(data, at)
            if kind != _MATRIX:
                raise UserError(f"there is an element of type {kind} where an array is expected")
            found.append(self.matrix(inner, depth + 1)[1])
        return found

    @staticmethod
    def _numbers(data: memoryview, at: int) -> tuple[np.ndarray, int]:
        """Return the numbers of an element, and the position of the next one."""
        kind, numbers, at = _element(data, at)
        if kind not in _STORED or len(numbers) % np.dtype(_STORED[kind]).itemsize:
            raise UserError(
                f"there is an element of type {kind} and {len(numbers)} bytes where numbers are expected"
            )
        return np.frombuffer(numbers, _STORED[kind]), at
