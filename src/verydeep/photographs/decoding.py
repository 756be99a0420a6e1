"""From the bytes of a JPEG, PNG or WebP to its RGB, by the fastest decoder that gives the right pixels.

A hostile file may raise anything here; `verydeep.photographs.photograph` turns it into an error that names
the file and the reason.
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
"""Gives, for a photograph's width and height, how many of its rows a crop needs."""

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
"""What puts a photograph upright, by the orientation that its EXIF states; 1 is upright already."""

_PIXEL_BYTES = {"PNG": 12, "WebP": 16}
"""Memory that decoding takes for each pixel, with the copies that conversion makes."""


def dct_factor(header: Header, shortest: int | None) -> int:
    """Return by how much a photograph may be shrunk while it is decoded; the decoder rounds its sides up."""
    if shortest is None or not isinstance(header, Jpeg):
        return 1
    short = min(header.width, header.height)
    return next((factor for factor in (8, 4, 2) if -(-short // factor) >= 2 * shortest), 1)


def memory_of(header: Header, factor: int) -> int:
    """Return about how many bytes it takes to decode a photograph."""
    pixels = header.width * header.height
    match header:
        case Jpeg():  # one that is not decoded in one pass keeps all coefficients
            return 8 * pixels // factor**2 + (0 if header.in_one_pass else 6 * pixels)
        case Png():
            return _PIXEL_BYTES["PNG"] * pixels
        case WebP():
            return _PIXEL_BYTES["WebP"] * pixels


def pixels_of(
    data: bytes, header: Header, factor: int, bottom: Bottom | None
) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Return the upright pixels of a file, and what the decoder warned of: a line, empty for nothing.

    Args:
        data: the file's content.
        header: what it says.
        factor: from `dct_factor`.
        bottom: where the rows end that are needed; None for all rows.
    """
    pixels, warning = None, ""
    if isinstance(header, Jpeg):
        pixels, warning = _fast_jpeg(data, header, factor, bottom)
    if pixels is None:
        pixels = _pillow(data, header, factor)
    return _turned(pixels, header.orientation), warning


def from_pillow(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return what `decode` gives for a photograph, from one that Pillow has opened or made.

    Raises what Pillow raises where it cannot be loaded.
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
    """Return a JPEG's pixels as it stores them; or None, which leaves it to Pillow, and what libjpeg warned of.

    The pixels are those that Pillow gives, bit for bit: both are libjpeg-turbo with its accurate transform
    and smooth chroma. Strict, because here libjpeg's warnings cannot be told apart by what they mean: whether a
    file with one is read is for Pillow to say.
    """
    try:
        if factor == 1 and bottom is not None and header.orientation == UPRIGHT and header.colours in (1, 3):
            part = upper_part(data, header, bottom(header.width, header.height))
            if part is not None:
                # Not strict: libjpeg warns of the data that it meets where it takes the image to end.
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
        # As Pillow does: levels of ink are stored inverted.
        ink = 255 - simplejpeg.decode_jpeg(data, "CMYK", **smallest)
        return np.array(Image.frombytes("CMYK", ink.shape[1::-1], ink).convert("RGB")), ""
    except Exception as error:
        found = str(error)
        return None, f"libjpeg says: {found}" if any(words in found for words in _LOSSES) else ""


_LOSSES = ("Corrupt JPEG data", "Premature end")
"""How libjpeg begins its warnings about data that are not there, or are not what they should be."""


def upper_part(data: bytes, header: Jpeg, rows: int) -> bytes | None:
    """Return a JPEG that decodes to the upper rows of this one, at least `rows`; None where that spares nothing.

    Most of the time that a crop takes is spent on decoding, and a third of the rows lie below the crop. The
    height in the header is what the decoder stops at, so a lower one is written there: the next multiple of the
    coded blocks' height, and one block more, as smooth chroma looks a row ahead. This holds for one sequential
    scan only. A file that does not end with the end marker may be truncated: it is decoded whole, and refused.
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
    """Return the pixels of a file as it stores them; of an animation, of its first frame.

    Pillow is given nothing but what decides the pixels, so that no text, profile or EXIF can spoil them. The
    reader is called by name, not through Image.open, which would try its own, lower limit of pixels.
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
    if image.size != (header.width, header.height):  # it was another size that the limits allowed
        raise Damaged("two different sizes in it")
    return image


def _key_to_white(bare: bytes, header: Png, image: ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of a PNG, those of its transparent colour white.

    The key is compared with the levels that are stored, of 1 to 16 bits, and not with what Pillow makes of them.
    """
    assert header.key is not None
    key = np.array(header.key)
    if header.bits == 16 and header.colour == 2:  # of which Pillow keeps the upper byte, or what it takes for it
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
    """Put stored pixels upright."""
    return np.array(Image.fromarray(pixels).transpose(_TURNS[way])) if way in _TURNS else pixels


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
    return image if image.mode == "RGB" else image.convert("RGB")
