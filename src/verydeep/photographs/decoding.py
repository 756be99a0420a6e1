"""Decode the bytes of a JPEG, PNG or WebP to RGB with the fastest decoder that gives the right pixels.

A hostile file may raise anything here; `verydeep.photographs.photograph` turns it into an error that names the
file and the reason.
"""

import io
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from verydeep.photographs.exif import UPRIGHT, orientation
from verydeep.photographs.headers import Damaged, Header, Jpeg, Png, WebP, bare_jpeg, exif_of_text

Bottom: TypeAlias = Callable[[int, int], int]
"""A function from a photograph's width and height to the number of its upper rows that a crop needs."""

_READERS: dict[str, type[ImageFile]] = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WebP": WebPImageFile}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that puts a photograph upright, by its EXIF orientation; 1 is upright already."""

_PIXEL_BYTES = {"PNG": 12, "WebP": 16}
"""Bytes of memory that decoding takes per pixel, with the copies made by conversion."""


def dct_factor(header: Header, shortest: int | None) -> int:
    """Return the factor, 1 to 8, by which decoding shrinks a photograph; the decoder rounds its sides up."""
    if shortest is None or not isinstance(header, Jpeg):
        return 1
    short = min(header.width, header.height)
    return next((factor for factor in (8, 4, 2) if -(-short // factor) >= 2 * shortest), 1)


def memory_of(header: Header, factor: int) -> int:
    """Estimate how many bytes of memory decoding a photograph takes."""
    pixels = header.width * header.height
    match header:
        case Jpeg():  # if it takes several passes, the decoder keeps all coefficients
            return 8 * pixels // factor**2 + (0 if header.in_one_pass else 6 * pixels)
        case Png():
            return _PIXEL_BYTES["PNG"] * pixels
        case WebP():
            return _PIXEL_BYTES["WebP"] * pixels


def pixels_of(
    data: bytes, header: Header, factor: int, bottom: Bottom | None
) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Return the upright pixels of a file, and the decoder's warning: one line, empty if there is none.

    Args:
        data: the contents of the file.
        header: its header.
        factor: from `dct_factor`.
        bottom: how many of its upper rows are needed; None for all rows.
    """
    pixels, warning = None, ""
    if isinstance(header, Jpeg):
        pixels, warning = _fast_jpeg(data, header, factor, bottom)
    if pixels is None:
        pixels = _pillow(data, header, factor)
    return _turned(pixels, header.orientation), warning


def from_pillow(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an image that Pillow has opened or made, as `decode` returns those of a file.

    Raises whatever Pillow raises if the image cannot be loaded.
    """
    image.load()
    exif = image.info.get("exif", b"")
    profile = image.info.get("Raw profile type exif", "")
    pieces = (
        exif if isinstance(exif, bytes) else b"",
        exif_of_text(profile.encode("ascii", "replace")) if isinstance(profile, str) else b"",
    )
    return _turned(np.array(_rgb(image)), orientation(pieces))


def _fast_jpeg(
    data: bytes, header: Jpeg, factor: int, bottom: Bottom | None
) -> tuple[UInt8[np.ndarray, "h w 3"] | None, str]:
    """Return the stored pixels of a JPEG, or None to leave it to Pillow; and libjpeg's warning of lost data.

    The pixels are bit for bit those of Pillow: both use libjpeg-turbo with its accurate transform and smooth
    chroma. Decoding is strict, because libjpeg's warnings cannot be told apart here: Pillow decides whether a file
    with a warning is read.
    """
    try:
        if factor == 1 and bottom is not None and header.orientation == UPRIGHT and header.colours in (1, 3):
            part = upper_part(data, header, bottom(header.width, header.height))
            if part is not None:
                # Not strict: libjpeg warns of the data after the shortened image.
                return simplejpeg.decode_jpeg(part, "RGB", strict=False), ""
        smallest = {}
        if factor > 1:
            smallest = {
                "min_height": -(-header.height // factor),
                "min_width": -(-header.width // factor),
                "min_factor": factor,
            }
        if header.colours != 4:
            return simplejpeg.decode_jpeg(data, "RGB", **smallest), ""
        # As in Pillow: ink levels are stored inverted.
        ink = 255 - simplejpeg.decode_jpeg(data, "CMYK", **smallest)
        return np.array(Image.frombytes("CMYK", ink.shape[1::-1], ink).convert("RGB")), ""
    except Exception as error:
        found = str(error)
        return None, f"libjpeg warns: {found}" if any(words in found for words in _LOSSES) else ""


_LOSSES = ("Corrupt JPEG data", "Premature end")
"""How libjpeg's warnings about missing or corrupt data begin."""


def upper_part(data: bytes, header: Jpeg, rows: int) -> bytes | None:
    """Return a JPEG that decodes to at least the first `rows` rows of this one; None if that saves nothing.

    Decoding takes most of the time of a crop, and a third of the rows lie below the crop. The decoder stops at the
    height in the header, so a smaller height is written there: the next multiple of the block height, plus one
    block, as smooth chroma looks one row ahead. This works for a single sequential scan only. A file without the
    end marker at its end may be truncated: it is decoded whole, and refused.
    """
    if not header.in_one_pass or not data.endswith(b"\xff\xd9"):
        return None
    frame = header.frame
    block = 8 * max(data[frame + 11 + 3 * colour] & 15 for colour in range(header.colours))
    height = (-(-rows // block) + 1) * block
    if height >= header.height:
        return None
    return data[: frame + 5] + height.to_bytes(2) + data[frame + 7 :]


def _pillow(data: bytes, header: Header, factor: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the stored pixels of a file; of an animation, those of its first frame.

    Pillow gets only what determines the pixels, so that no text, profile or EXIF can make them unreadable. The
    reader is called by name, not through Image.open, which enforces a lower limit on pixels.
    """
    match header:
        case Jpeg():
            image = _reader("JPEG", bare_jpeg(data), header)
            if factor > 1:
                image.draft(None, (header.width // factor, header.height // factor))
        case Png():
            bare = b"".join(data[part] for part in header.needed)
            image = _reader("PNG", bare, header)
            if header.key is not None:
                return _key_to_white(bare, header, image)
        case WebP():
            image = _reader("WebP", data, header)
    image.load()
    return np.array(_rgb(image))


def _reader(kind: str, data: bytes, header: Header) -> ImageFile:
    image = _READERS[kind](io.BytesIO(data))
    if image.size != (header.width, header.height):  # the limits were checked against the other size
        raise Damaged("it states two different sizes")
    return image


def _key_to_white(bare: bytes, header: Png, image: ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of a PNG with those of its transparent colour set to white.

    The key is compared with the stored levels, of 1 to 16 bits, not with Pillow's conversion of them.
    """
    assert header.key is not None
    key = np.array(header.key)
    if header.bits == 16 and header.colour == 2:  # Pillow keeps only the upper bytes
        lower = _reader("PNG", bare, header)
        lower.tile = [(*tuple(lower.tile[0])[:3], "RGB;16L")]  # type: ignore[list-item]
        same = (np.asarray(lower) == key & 255) & (np.asarray(image) == key >> 8)
    elif header.bits == 16:
        same = np.asarray(image)[..., None] == key
    else:
        levels = np.asarray(image.convert("L") if header.colour == 0 else image)
        same = levels.reshape(*levels.shape[:2], -1) == key * (255 // ((1 << header.bits) - 1))
    pixels = np.array(_rgb(image))
    pixels[same.all(axis=2)] = 255
    return pixels


def _turned(pixels: UInt8[np.ndarray, "_ _ 3"], way: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return stored pixels put upright."""
    return np.array(Image.fromarray(pixels).transpose(_TURNS[way])) if way in _TURNS else pixels


def _rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as 8-bit RGB, with transparent parts over white."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's convert clips it, but scales 16-bit colour
        grey = np.asarray(image)
        levels = np.where(grey == image.info.get("transparency", -1), 255, grey >> 8)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")
