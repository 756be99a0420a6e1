"""From a file to the RGB that a person would see: JPEG, PNG and WebP, and what of them is refused.

Sizes are (width, height), arrays are height x width x RGB in 0..255. Colour profiles are ignored, as in all
published results.
"""

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from verydeep.errors import UserError, reason
from verydeep.printable import printable

MAX_PIXELS = 100_000_000
"""A photograph of more pixels than this, before or after it is rescaled, is refused."""

Photograph: TypeAlias = Path | UInt8[np.ndarray, "_ _ 3"]
"""A file (JPEG, PNG or WebP), or RGB pixels that are already in memory."""

_READERS: dict[str, type[ImageFile]] = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WebP": WebPImageFile}
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

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a photograph upright, by the orientation that its EXIF states; 1 is upright already."""

Bottom: TypeAlias = Callable[[int, int], int]
"""Gives, for a photograph's width and height, how many of its rows a crop needs."""

Decoded: TypeAlias = tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]
"""Pixels, perhaps at a DCT scale, and the upright photograph's own width and height."""


class ImageError(UserError):
    """A photograph that cannot be used: `path` (None for pixels in memory) and, in one line, the `reason`."""

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(path, reason)  # the arguments themselves, so that it survives pickling between workers
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        name = "pixels in memory" if self.path is None else self.path
        return printable(f"{name}: {self.reason}")


def decode(photograph: Photograph, shortest: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Return the RGB that a person would see, h x w x 3 in 0..255.

    Grey, palette, 16-bit and CMYK become RGB of 8 bits, transparency is laid over white, a photograph that
    its EXIF says was taken turned is put upright, and of an animation the first frame is taken. Pixels in
    memory are returned as they are.

    `shortest` is the smallest side that the caller will rescale to. A JPEG is then decoded at the smallest
    of the scales 1, 1/2, 1/4 and 1/8, which its cosine transform gives almost for free, that leaves a short
    side of at least 2 * shortest: the antialiasing filter that follows still averages at least two pixels a
    side, so the coarser filter of the transform hardly shows.

    Raises `ImageError` for what is not a readable JPEG, PNG or WebP of at most `MAX_PIXELS` pixels.
    """
    return read(photograph, shortest)[0]


def read(photograph: Photograph, shortest: int | None = None, bottom: Bottom | None = None) -> Decoded:
    """Return what `decode` does, and the (width, height) of the upright photograph at full size.

    With `bottom`, rows of the upright photograph from `bottom(width, height)` on may be left out.
    """
    if shortest is not None and shortest < 1:
        raise UserError(f"the shortest side cannot be {shortest}: give 1 or more")
    if not isinstance(photograph, Path):
        if photograph.size == 0:
            raise ImageError(None, f"no pixels in an array of shape {photograph.shape}")
        return photograph, (photograph.shape[1], photograph.shape[0])
    data = _contents(photograph)
    kind = _kind(photograph, data)
    with _damage_named(photograph, data, kind):
        if kind == "JPEG" and (decoded := _decode_plain_jpeg(photograph, data, shortest, bottom)):
            return decoded
        return _decode_with_pillow(photograph, data, kind, shortest)


def photograph_size(photograph: Photograph) -> tuple[int, int]:
    """Return the (width, height) of a photograph as a person sees it, from its header alone.

    Raises `ImageError` where the header cannot be read; what comes after it may still be damaged.
    """
    if not isinstance(photograph, Path):
        return photograph.shape[1], photograph.shape[0]
    data = _contents(photograph)
    kind = _kind(photograph, data)
    with _damage_named(photograph, data, kind):
        with _silence():
            image = _READERS[kind](io.BytesIO(data))
        width, height = image.size
        _check_pixels(photograph, width, height)
        return _upright_size(width, height, _orientation(image.info.get("exif", b"")))


@contextmanager
def _damage_named(path: Path, data: bytes, kind: str) -> Iterator[None]:
    """Raise `ImageError` for whatever a decoder raises: it may be anything at all on a hostile file."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        detail = str(error) or type(error).__name__
        early = "truncat" in detail.lower() or (kind == "WebP" and len(data) < 8 + _riff_length(data))
        what = "ends early (truncated" if early else "is damaged ("
        raise ImageError(path, f"{what}{'' if early else detail}): fetch it again") from error


def _contents(path: Path) -> bytes:
    if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):  # a pipe might never end
        raise ImageError(path, "is no regular file: name an image file")
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except FileNotFoundError as error:
        raise ImageError(path, "no such file") from error
    except IsADirectoryError as error:
        raise ImageError(path, "is a directory: name an image file") from error
    except PermissionError as error:
        raise ImageError(path, "not permitted to read it: change its permissions") from error
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the name
        raise ImageError(path, f"cannot be read: {reason(error)}") from error
    if not data:
        raise ImageError(path, "is empty (0 bytes): fetch it again")
    return data


def _kind(path: Path, data: bytes) -> str:
    """Return JPEG, PNG or WebP by the first bytes; raise where they say something else, or the name does."""
    kind = next((kind for beginning, kind in _BEGINNINGS.items() if data.startswith(beginning)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    elif data[4:8] == b"ftyp":
        kind = "HEIF, AVIF or video"
    if kind is None:
        raise ImageError(path, "is not an image: only JPEG, PNG and WebP are read")
    if kind not in _READERS:
        raise ImageError(path, f"holds {kind} data: only JPEG, PNG and WebP are read, so convert it")
    if _SUFFIXES.get(path.suffix.lower(), kind) != kind:
        raise ImageError(path, f"holds {kind} data though its name ends in {path.suffix}: rename it")
    return kind


def _riff_length(data: bytes) -> int:
    return int.from_bytes(data[4:8], "little")


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            path,
            f"{width} x {height} are {width * height} pixels by its header, more than the {MAX_PIXELS} allowed: "
            "shrink it or leave it out",
        )


def _dct_factor(short: int, shortest: int | None) -> int:
    """Return by how much a JPEG may be shrunk while it is decoded; the decoder rounds its sides up."""
    if shortest is None:
        return 1
    return next((factor for factor in (8, 4, 2) if -(-short // factor) >= 2 * shortest), 1)


def _decode_plain_jpeg(path: Path, data: bytes, shortest: int | None, bottom: Bottom | None) -> Decoded | None:
    """Decode an upright JPEG that is not CMYK, fast; None leaves it to Pillow, whose verdict is final.

    The pixels are those that Pillow gives, bit for bit: both are libjpeg-turbo with its accurate transform
    and smooth chroma. Strict, because here libjpeg's warnings cannot be told apart by what they mean.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("CMYK", "YCCK") or _orientation(_exif_of_jpeg(data)) != 1:
            return None
    except (ValueError, IndexError):
        return None
    _check_pixels(path, width, height)
    factor = _dct_factor(min(width, height), shortest)
    if factor == 1 and bottom is not None and (part := _upper_part(data, bottom(width, height))):
        # Not strict: libjpeg warns of the data that it meets where it takes the image to end.
        return simplejpeg.decode_jpeg(part, "RGB", strict=False), (width, height)
    smallest = {}
    if factor > 1:
        smallest = {
            "min_height": -(-height // factor),
            "min_width": -(-width // factor),
            "min_factor": factor,
        }
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **smallest), (width, height)
    except ValueError:
        return None


def _upper_part(data: bytes, rows: int) -> bytes | None:
    """Return a JPEG that decodes to the upper rows of this one, at least `rows`; None where that spares nothing.

    Most of the time that a crop takes is spent on decoding, and a third of the rows lie below the crop. The
    height in the header is what the decoder stops at, so a lower one is written there: the next multiple of the
    coded blocks' height, and one block more, as smooth chroma looks a row ahead. This holds for one sequential
    scan only. A file that does not end with the end marker may be truncated: it is decoded whole, and refused.
    """
    if not data.endswith(b"\xff\xd9"):
        return None
    frame, at = 0, 2
    while (marker := data[at + 1]) != 0xDA:
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in (0xC0, 0xC1):
            frame = at
        elif 0xC2 <= marker <= 0xCF and marker != 0xC4:  # progressive, lossless or arithmetic
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    if not frame or data[at + 4] != data[frame + 9]:  # a scan of its own for each colour
        return None
    block = 8 * max(data[frame + 11 + 3 * colour] & 15 for colour in range(data[frame + 9]))
    height = (-(-rows // block) + 1) * block
    if height >= int.from_bytes(data[frame + 5 : frame + 7]):
        return None
    return data[: frame + 5] + height.to_bytes(2) + data[frame + 7 :]


def _decode_with_pillow(path: Path, data: bytes, kind: str, shortest: int | None) -> Decoded:
    # The reader is called by name, not through Image.open, which would try its own, lower limit of pixels.
    with _silence():
        image = _READERS[kind](io.BytesIO(data))
    width, height = image.size
    _check_pixels(path, width, height)
    factor = _dct_factor(min(width, height), shortest)
    if kind == "JPEG" and factor > 1:
        image.draft(None, (width // factor, height // factor))
    image.load()
    orientation = _orientation(image.info.get("exif", b""))
    upright = _rgb(image)
    if orientation in _TURNS:
        upright = upright.transpose(_TURNS[orientation])
    return np.array(upright), _upright_size(width, height, orientation)


def _upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Orientations 5 to 8 exchange the sides."""
    return (width, height) if orientation < 5 else (height, width)


def _rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as RGB of 8 bits, over white where it is transparent."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's convert clips; colour of 16 bits it does scale
        grey = np.asarray(image)
        levels = np.where(grey == image.info.get("transparency", -1), 255, grey >> 8)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _exif_of_jpeg(data: bytes) -> bytes:
    """Return the EXIF segment of a JPEG, empty if there is none, by walking the segments before the image."""
    at = 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 4 : end]
        at = end
    return b""


def _orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, that EXIF states; 1, upright, where it states none that makes sense."""
    if not exif:
        return 1
    try:
        with _silence():
            tags = Image.Exif()
            tags.load(exif)
            stated = tags.get(_ORIENTATION)
    except Exception:  # damage to what is only written about a photograph does not spoil the photograph
        return 1
    return stated if stated in _TURNS else 1


_LOCK = threading.Lock()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Pillow's warnings about odd metadata to itself; locked, as Python's filters belong to all threads."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
