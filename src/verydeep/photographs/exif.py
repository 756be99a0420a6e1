"""The orientation of a photograph, from its EXIF."""

import struct
from collections.abc import Iterable
from itertools import islice

UPRIGHT = 1
"""The orientation of a photograph that is stored as it is viewed; 2 to 8 are rotated or mirrored."""

_ORIENTATION = 0x0112
_BYTE, _SHORT, _LONG = 1, 3, 4
_PREFIX = b"Exif\0\0"
_TRIED = 8
"""How many pieces of EXIF are examined; a photograph has one, and some programs leave an empty one before it."""


def orientation(pieces: Iterable[bytes]) -> int:
    """Return the orientation, 1 to 8, from the first piece of EXIF that states one; upright if none does.

    A piece is a TIFF structure, with or without `Exif` before it. Damaged metadata does not make a photograph
    unreadable: a piece that makes no sense is skipped.
    """
    stated = (_stated(piece) for piece in islice(pieces, _TRIED))
    return next((value for value in stated if value is not None), UPRIGHT)


def _stated(exif: bytes) -> int | None:
    tiff = exif
    while tiff.startswith(_PREFIX):
        tiff = tiff[len(_PREFIX) :]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return None
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory) if directory + 2 <= len(tiff) else (0,)
    whole = min(entries, max(0, len(tiff) - directory - 2) // 12)
    for at in range(directory + 2, directory + 2 + 12 * whole, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, at)
        if tag == _ORIENTATION and count == 1 and kind in (_BYTE, _SHORT, _LONG):
            code = {_BYTE: "B", _SHORT: "H", _LONG: "I"}[kind]
            (value,) = struct.unpack_from(f"{order}{code}", tiff, at + 8)
            if UPRIGHT <= value <= 8:
                return int(value)
    return None
