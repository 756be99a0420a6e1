"""Read JPEG, PNG and WebP files as the RGB that a person sees, within limits of size and memory.

Sizes are (width, height), arrays are height x width x RGB in 0..255. Colour profiles are ignored, as in all
published results.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from verydeep.errors import UserError, reason
from verydeep.photographs import headers
from verydeep.photographs.allowance import Allowance
from verydeep.photographs.decoding import Bottom, dct_factor, memory_of, pixels_of
from verydeep.photographs.headers import Header, Jpeg, Png
from verydeep.printable import printable

MAX_PIXELS = 100_000_000
"""The most pixels of a photograph, before it is rescaled as a whole and after."""

MAX_BYTES = 500_000_000
"""The most bytes of a file; MAX_PIXELS of uncompressed RGB are 300,000,000 bytes."""

MAX_SCANS = 100
"""The most scans of a JPEG; a progressive one has about ten."""

MAX_SCANNED_PIXELS = 20 * MAX_PIXELS
"""The most pixels that the scans of a JPEG cover in total, about 2 s of work."""

DECODING_BYTES = 2_000_000_000
"""Roughly the most memory that all threads of a process decode in at once; each waits until enough is left."""

Photograph: TypeAlias = Path | UInt8[np.ndarray, "_ _ 3"]
"""A file (JPEG, PNG or WebP), or RGB pixels that are already in memory."""

_READ = ("JPEG", "PNG", "WebP")
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WebP"}
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}

_files, _decoding = Allowance(2 * MAX_BYTES), Allowance(DECODING_BYTES)

Decoded: TypeAlias = tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]
"""Pixels, possibly at a DCT scale, and the full width and height of the upright photograph."""


class ImageError(UserError):
    """A photograph that cannot be used: its `path` (None for pixels in memory) and the `reason`, in one line."""

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(path, reason)  # both arguments, so that it can be pickled on its way from a worker
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        name = "pixels in memory" if self.path is None else self.path
        return printable(f"{name}: {self.reason}")


def decode(photograph: Photograph, shortest: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Return the RGB that a person sees, h x w x 3 in 0..255.

    Grey, palette, 16-bit and CMYK images become 8-bit RGB, transparent parts are laid over white, and a photograph
    with an EXIF orientation is put upright. Of an animation, the first frame is returned; pixels in memory are
    returned unchanged.

    `shortest` is the smallest shortest side that the caller will rescale to. A JPEG is then decoded at the
    smallest of the scales 1, 1/2, 1/4 and 1/8 that leaves a short side of at least 2 * shortest; its cosine
    transform gives these scales almost for free. The antialiasing filter that follows still averages at least two
    pixels per side, so the coarser filter of the transform hardly shows.

    Raises `ImageError` if it is not a readable JPEG, PNG or WebP within the limits above.
    """
    return read(photograph, shortest)[0]


def read(photograph: Photograph, shortest: int | None = None, bottom: Bottom | None = None) -> Decoded:
    """Return the pixels as `decode` does, and the full (width, height) of the upright photograph.

    With `bottom`, the rows of the upright photograph from `bottom(width, height)` on may be missing.
    """
    _check_shortest(shortest)
    if not isinstance(photograph, Path):
        return _in_memory(photograph)
    with _opened(photograph) as data:
        header = _header(photograph, data)
        return _decoded(photograph, data, header, shortest, bottom)[0]


def examine(photograph: Photograph, shortest: int | None = None) -> tuple[Decoded, str]:
    """Return the result of `read`, and a reason to doubt the pixels; empty if there is none.

    Decoders accept a JPEG that was cut in the middle and a PNG with only half of its rows: the rest is grey, black
    or transparent.
    """
    _check_shortest(shortest)
    if not isinstance(photograph, Path):
        return _in_memory(photograph), ""
    with _opened(photograph) as data:
        header = _header(photograph, data)
        decoded, warning = _decoded(photograph, data, header, shortest, None)
        if isinstance(header, Png):
            if headers.wrong_png_checksum(data, header):
                warning = "its pixels do not match their checksums"
            elif _has_plain_border(decoded[0]) and headers.missing_png_rows(data, header):
                warning = "its last rows are missing"
        return decoded, warning


def photograph_size(photograph: Photograph) -> tuple[int, int]:
    """Return the (width, height) of a photograph as a person sees it, from its header alone.

    Raises `ImageError` if the header cannot be read. The pixels may still be damaged.
    """
    if not isinstance(photograph, Path):
        return photograph.shape[1], photograph.shape[0]
    with _opened(photograph) as data:
        return _upright_size(_header(photograph, data))


def _check_shortest(shortest: int | None) -> None:
    if shortest is not None and shortest < 1:
        raise UserError(f"the shortest side cannot be {shortest}; it must be 1 or more")


def _in_memory(pixels: UInt8[np.ndarray, "_ _ 3"]) -> Decoded:
    if pixels.size == 0:
        raise ImageError(None, f"an array of shape {pixels.shape} has no pixels")
    return pixels, (pixels.shape[1], pixels.shape[0])


# Files


@contextmanager
def _opened(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file, once all threads together hold few enough bytes."""
    with _files.taken(_size(path)):
        yield _contents(path)


def _size(path: Path) -> int:
    """Return the length of a file; raise if it must not be read whole."""
    with _refused(path):
        found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(path, "is a directory: name an image file")
    if not stat.S_ISREG(found.st_mode):  # a pipe might never end
        raise ImageError(path, "is not a regular file: name an image file")
    if found.st_size > MAX_BYTES:
        raise ImageError(
            path, f"is {found.st_size} bytes long, more than the {MAX_BYTES} allowed: shrink it or leave it out"
        )
    return found.st_size


def _contents(path: Path) -> bytes:
    with _refused(path), open(path, "rb", buffering=0) as file:
        data = file.readall()
    if not data:
        raise ImageError(path, "is empty (0 bytes): fetch it again")
    return data


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Raise `ImageError` if the system refuses a file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(path, "no such file") from error
    except PermissionError as error:
        raise ImageError(path, "permission denied: change its permissions") from error
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the name
        raise ImageError(path, f"cannot be read: {reason(error)}") from error


def _kind(path: Path, data: bytes) -> str:
    """Return JPEG, PNG or WebP by the first bytes; raise for another format or a name that contradicts it."""
    kind = next((kind for beginning, kind in _BEGINNINGS.items() if data.startswith(beginning)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    elif data[4:8] == b"ftyp":
        kind = "HEIF, AVIF or video"
    if kind is None:
        raise ImageError(path, "is not an image; only JPEG, PNG and WebP are supported")
    if kind not in _READ:
        raise ImageError(path, f"contains {kind} data; only JPEG, PNG and WebP are supported: convert it")
    if _SUFFIXES.get(path.suffix.lower(), kind) != kind:
        raise ImageError(path, f"contains {kind} data, but its name ends in {path.suffix}: rename it")
    return kind


def _header(path: Path, data: bytes) -> Header:
    """Return the header of a file; raise if the file is not supported or exceeds the limits."""
    kind = _kind(path, data)
    with _damage_named(path, data):
        header: Header
        match kind:
            case "JPEG":
                header = headers.read_jpeg(data)
            case "PNG":
                header = headers.read_png(data)
            case _:
                header = headers.read_webp(data)
    width, height = header.width, header.height
    if width * height > MAX_PIXELS:
        raise ImageError(
            path,
            f"its header says {width} x {height}, which is {width * height} pixels, more than the {MAX_PIXELS} "
            "allowed: shrink it or leave it out",
        )
    scans = header.scans if isinstance(header, Jpeg) else 1
    if scans > MAX_SCANS or (scans > 1 and scans * width * height > MAX_SCANNED_PIXELS):
        raise ImageError(
            path,
            f"its {width} x {height} pixels are coded in {scans} scans; at most {MAX_SCANS} scans are allowed, "
            f"and {MAX_SCANNED_PIXELS} pixels over all scans: convert it or leave it out",
        )
    return header


@contextmanager
def _damage_named(path: Path, data: bytes, header: Header | None = None) -> Iterator[None]:
    """Raise `ImageError` for whatever a decoder raises: on a hostile file it may be anything."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(path, "not enough memory to decode it: shrink it or leave it out") from error
    except Exception as error:
        detail = str(error) or type(error).__name__
        early = any(words in detail.lower() for words in _EARLY) or (
            data[:4] == b"RIFF" and len(data) < 8 + _riff_length(data)
        )
        if isinstance(header, Jpeg) and header.oddity and not early:  # fetching it again would not help
            raise ImageError(
                path, f"is a JPEG with {header.oddity}, which is not supported ({detail}): convert it"
            ) from error
        what = "ends early (truncated" if early else "is damaged ("
        raise ImageError(path, f"{what}{'' if early else detail}): fetch it again") from error


_EARLY = ("truncat", "unpack_from requires a buffer")
"""Words of a decoder's message if the data end before the image does."""


def _riff_length(data: bytes) -> int:
    return int.from_bytes(data[4:8], "little")


# Pixels


def _decoded(
    path: Path, data: bytes, header: Header, shortest: int | None, bottom: Bottom | None
) -> tuple[Decoded, str]:
    """Return the upright pixels and size, and the decoder's warning."""
    factor = dct_factor(header, shortest)
    with _damage_named(path, data, header), _decoding.taken(memory_of(header, factor)):
        pixels, warning = pixels_of(data, header, factor, bottom)
    return (pixels, _upright_size(header)), warning


def _has_plain_border(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether any side has a line of one colour among its outer two, as missing rows leave, turned or not."""
    lines = [pixels[at] for at in (0, 1, -1, -2) if -len(pixels) <= at < len(pixels)]
    lines += [pixels[:, at] for at in (0, 1, -1, -2) if -pixels.shape[1] <= at < pixels.shape[1]]
    return any((line == line[0]).all() for line in lines)


def _upright_size(header: Header) -> tuple[int, int]:
    """Return (width, height) upright: orientations 5 to 8 swap the sides."""
    return (header.width, header.height) if header.orientation < 5 else (header.height, header.width)
