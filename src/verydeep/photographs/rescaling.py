"""Rescale and crop photographs for a net (Sect. 3.1 and 3.2). Nothing else touches pixels.

Training takes one random crop of a photograph rescaled to a shortest side S. Testing takes the whole photograph
rescaled to a shortest side Q, or a regular grid of crops of it. Sizes are (width, height), arrays are
height x width x RGB in 0..255.
"""

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from verydeep.card import Rescaling
from verydeep.errors import UserError
from verydeep.photographs.photograph import MAX_PIXELS, ImageError, Photograph, read

FILTERS: dict[Rescaling, tuple[Image.Resampling, float]] = {
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "bicubic": (Image.Resampling.BICUBIC, 2.0),
}
"""Pillow's filters, which widen with the scale for antialiasing, and the reach of each, in pixels of the
photograph or of the result, whichever are larger."""


def rescaled_size(width: int, height: int, shortest: int) -> tuple[int, int]:
    """Return the (width, height) of a photograph isotropically rescaled to a shortest side (Sect. 3.1).

    The short side is exactly `shortest`; the long side is rounded half up. Raises `UserError` if a size is below
    1.
    """
    if min(width, height, shortest) < 1:
        raise UserError(
            f"cannot rescale {width} x {height} pixels to a shortest side of {shortest}: give sizes of 1 or more"
        )
    short = min(width, height)
    long = (2 * max(width, height) * shortest + short) // (2 * short)
    return (shortest, long) if width <= height else (long, shortest)


def too_elongated(width: int, height: int, shortest: int) -> str:
    """Return why a photograph cannot be rescaled as a whole to a shortest side; empty if it can.

    The limit is `MAX_PIXELS`, which no photograph of ordinary shape exceeds at sides below 7,000 pixels.
    """
    across, down = rescaled_size(width, height, shortest)
    if across * down <= MAX_PIXELS:
        return ""
    return (
        f"{width} x {height} pixels would become {across} x {down} at a shortest side of {shortest}, more than "
        f"the {MAX_PIXELS} pixels allowed: use a smaller scale, or crop the photograph"
    )


def rescale(
    photograph: Photograph, shortest: int, rescaling: Rescaling = "bilinear"
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the whole photograph rescaled to a shortest side (Q in Sect. 3.2), with antialiasing.

    `rescaled_size` gives its new size; a photograph that has that size already is returned unchanged. Raises
    `ImageError` as `decode` does, and if the photograph is so elongated that the result would have more than
    `MAX_PIXELS` pixels.
    """
    pixels, (width, height) = read(photograph, shortest)
    if reason := too_elongated(width, height, shortest):
        raise ImageError(photograph if isinstance(photograph, Path) else None, reason)
    size = rescaled_size(width, height, shortest)
    if pixels.shape[1::-1] == size:
        return pixels.copy() if pixels is photograph else pixels
    return np.array(_resized(Image.fromarray(pixels), size, rescaling))


def rescale_and_crop(
    photograph: Photograph,
    shortest: int,
    crop: int,
    place: tuple[float, float],
    mirror: bool = False,
    rescaling: Rescaling = "bilinear",
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Return a square crop of the photograph rescaled to a shortest side (S in Sect. 3.1), crop x crop x 3.

    `place` is the position of the crop, (across, down), each in [0, 1): drawn uniformly, it makes every offset
    equally likely. `mirror` flips the crop left to right.

    Only the pixels that the crop needs are resampled. If the file allows it, rows below them are not even decoded,
    so that damage to those rows goes unnoticed here. The result agrees with the same part of `rescale` to within
    one grey level, except for a few values that differ by two: one in 100,000 for photographs, one in 400 for
    noise rescaled by 3/2, which has many ties. Pillow rounds after each side and keeps the position of a crop in
    single precision, which decides ties. Both results are within one grey level of the exact filter.

    Raises `ImageError` as `decode` does, and `UserError` if the crop is larger than `shortest` or `place` is out
    of range.
    """
    if not 1 <= crop <= shortest:
        raise UserError(f"cannot crop {crop} pixels from a shortest side of {shortest}: crop at most {shortest}")
    if not (0 <= place[0] < 1 and 0 <= place[1] < 1):
        raise UserError(f"a crop cannot be at place {place}: both numbers must be in [0, 1)")

    reach = FILTERS[rescaling][1]

    def needed_rows(width: int, height: int) -> int:
        rescaled = rescaled_size(width, height, shortest)[1]
        return _needed(height, rescaled, crop, math.floor(place[1] * (rescaled - crop + 1)), reach)[1]

    pixels, (own_width, own_height) = read(photograph, shortest, needed_rows)
    width, height = rescaled_size(own_width, own_height, shortest)
    rows, columns, _ = pixels.shape
    if columns == own_width:  # not shrunk while decoding: only rows below the crop can be missing
        rows = own_height
    left, right, x0, x1 = _needed(columns, width, crop, math.floor(place[0] * (width - crop + 1)), reach)
    top, bottom, y0, y1 = _needed(rows, height, crop, math.floor(place[1] * (height - crop + 1)), reach)
    # The smaller the coordinates of the box, the less they lose to Pillow's single precision.
    piece = Image.fromarray(pixels[top:bottom, left:right])
    result = _resized(piece, (crop, crop), rescaling, (x0, y0, x1, y1))
    if mirror:
        result = result.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(result)


def grid_offsets(size: int, crop: int, points: int) -> list[int]:
    """Return `points` equally spaced offsets of a crop along a side, from 0 to size - crop (Sect. 3.2).

    Offsets are rounded half up. The grid spans the whole side, so that the 5 x 5 grid of the paper covers all of
    an image that is not square. A single point is the centre. Raises `UserError` if the crop is larger than the
    side or `points` is below 1.
    """
    if points < 1 or not 1 <= crop <= size:
        raise UserError(
            f"cannot place {points} crops of {crop} pixels along a side of {size}: use 1 crop or more, "
            f"of 1 to {size} pixels"
        )
    last = size - crop
    if points == 1:
        return [(last + 1) // 2]
    return [(2 * i * last + points - 1) // (2 * (points - 1)) for i in range(points)]


def _resized(
    image: Image.Image,
    size: tuple[int, int],
    rescaling: Rescaling,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Return an image resized to `size`, or the part of it in `box`.

    Pillow starts with the side that saves most work, which may differ between a crop and the whole. A bicubic
    filter overshoots, and what is clipped to 0 and 255 between the two sides depends on their order (up to 18
    levels in noise). The order is therefore fixed for bicubic: across, then down.
    """
    resampling, _ = FILTERS[rescaling]
    if rescaling == "bilinear":
        return image.resize(size, resampling, box)
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    across = image.resize((size[0], image.height), resampling, (left, 0, right, image.height))
    return across.resize(size, resampling, (0, top, size[0], bottom))


def _needed(source: int, rescaled: int, crop: int, offset: int, reach: float) -> tuple[int, int, float, float]:
    """Return which pixels of a side a crop is made from, and where in them it begins and ends.

    The result is (first, last + 1, begin, end): `source` pixels are rescaled to `rescaled`, of which the crop
    takes [offset, offset + crop). The margin is the reach of the filter plus one pixel for rounding.
    """
    scale = source / rescaled
    begin, end = offset * scale, min((offset + crop) * scale, float(source))
    margin = 0.0 if source == rescaled else reach * max(scale, 1.0) + 1
    first, last = max(0, math.floor(begin - margin)), min(source, math.ceil(end + margin))
    return first, last, begin - first, end - first
