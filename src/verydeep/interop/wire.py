"""Read protocol buffers in place: numbered fields, without copies.

The files are large and have few kinds of messages, so each reader picks the fields that it needs. No allocation
depends on sizes that a message claims, and nested messages are parsed only on request.
"""

import struct
from collections.abc import Iterator

import numpy as np

from verydeep.errors import UserError

MOST_FIELDS = 200_000
"""Limit per message. A VGG has some hundred layers, and its numbers are packed into one field per tensor."""

_FIXED = {1: 8, 5: 4}
"""Size of a value in bytes, by wire type."""

Value = int | memoryview
"""A varint, or the bytes of any other type."""


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field of a message.

    Raises:
        UserError: if the bytes are not a message, or have more than `MOST_FIELDS` fields.
    """
    at, count = 0, 0
    while at < len(message):
        count += 1
        if count > MOST_FIELDS:
            raise UserError(f"a message has more than {MOST_FIELDS} fields")
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise UserError(f"byte {at} is not the start of a field (wire type {kind}); the file is damaged")
        if length > len(message) - at:
            raise UserError(
                f"a field of {length} bytes goes beyond the end of its message; the file is truncated or damaged"
            )
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise UserError("a number goes beyond the end of its message; the file is truncated or damaged")


class Message:
    """The fields of a message, by number. Bytes are views of the file.

    Raises:
        UserError: if the bytes are not a message. Each method raises it if a field is of another type.
    """

    def __init__(self, content: Value) -> None:
        self._fields: dict[int, list[Value]] = {}
        for number, value in fields(_bytes(content)):
            self._fields.setdefault(number, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def messages(self, number: int) -> Iterator["Message"]:
        """Iterate over the messages of a repeated field, and parse each when it is reached."""
        return map(Message, self._fields.get(number, ()))

    def message(self, number: int) -> "Message":
        """Return a message; an empty one if the field is missing."""
        return Message(self._fields.get(number, [memoryview(b"")])[-1])

    def integer(self, number: int, default: int = 0) -> int:
        """Return an integer, as int64."""
        return self.integers(number)[-1] if number in self else default

    def integers(self, number: int) -> list[int]:
        """Return the integers of a repeated field, packed or not."""
        found = []
        for value in self._fields.get(number, ()):
            at = 0
            if isinstance(value, int):
                found.append(value)
            else:
                while at < len(value):
                    one, at = _varint(value, at)
                    found.append(one)
            if len(found) > MOST_FIELDS:
                raise UserError(f"a field has more than {MOST_FIELDS} numbers")
        return [value - 2**64 if value >= 2**63 else value for value in found]

    def text(self, number: int) -> str:
        """Return a string; empty if the field is missing."""
        texts = self.texts(number)
        return texts[-1] if texts else ""

    def texts(self, number: int) -> list[str]:
        """Return the strings of a repeated field."""
        return [bytes(_bytes(value)).decode("utf-8", "replace") for value in self._fields.get(number, ())]

    def content(self, number: int) -> memoryview:
        """Return the bytes of a field; empty if it is missing."""
        return _bytes(self._fields.get(number, [memoryview(b"")])[-1])

    def real(self, number: int, default: float) -> float:
        """Return a float32."""
        if number not in self:
            return default
        content = self.content(number)
        if len(content) != 4:
            raise UserError("a field is not a float32, as expected")
        value: float = struct.unpack("<f", content)[0]
        return value

    def array(self, number: int, dtype: str) -> np.ndarray:
        """Return the floats of a repeated field, packed or not; a view of the file if they are contiguous."""
        parts = [_bytes(value) for value in self._fields.get(number, ())]
        size = np.dtype(dtype).itemsize
        if any(len(part) % size for part in parts):
            raise UserError(f"a field is not a whole number of {size}-byte values")
        if len(parts) == 1:
            return np.frombuffer(parts[0], dtype)
        return np.frombuffer(b"".join(parts), dtype)


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise UserError("a field is a number where bytes are expected")
    return value
