"""Appendix A: boxes, and how they follow an image through rescaling, cropping and mirroring.

A box is (x0, y0, x1, y1): its left, top, right and bottom edge in pixels, measured from the upper left corner of
the image. Edges are real numbers. The right edge of an image of width W is W, so a box of one pixel has an area of
1.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Boxes: TypeAlias = Float[np.ndarray, "N 4"]
"""N boxes, float64."""


def area(boxes: Boxes) -> Float[np.ndarray, " N"]:
    """Return the areas of boxes in square pixels; 0 if an edge is beyond its opposite."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    found: np.ndarray = sides[:, 0] * sides[:, 1]
    return found


def intersection(boxes: Boxes, others: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Return the area that each box shares with each of the others, in square pixels."""
    begin = np.maximum(boxes[:, None, :2], others[None, :, :2])
    end = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(end - begin, 0)
    found: np.ndarray = sides[..., 0] * sides[..., 1]
    return found


def overlap(boxes: Boxes, others: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Return intersection over union of each box with each of the others, in [0, 1]; 0 for boxes of no area."""
    shared = intersection(boxes, others)
    union = area(boxes)[:, None] + area(others)[None] - shared
    found: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def rescaled(boxes: Boxes, before: tuple[int, int], after: tuple[int, int]) -> Boxes:
    """Return boxes of an image that was rescaled; sizes are (width, height) in pixels."""
    ratio = np.array([after[0] / before[0], after[1] / before[1]])
    found: Boxes = boxes * np.tile(ratio, 2)
    return found


def cropped(boxes: Boxes, left: int, top: int) -> Boxes:
    """Return boxes measured from the upper left corner of a crop. They may reach beyond the crop."""
    found: Boxes = boxes - np.array([left, top, left, top])
    return found


def mirrored(boxes: Boxes, width: int) -> Boxes:
    """Return boxes of an image of this width that was mirrored left to right."""
    x0, y0, x1, y1 = boxes.T
    return np.stack([width - x1, y0, width - x0, y1], axis=1)


def clipped(boxes: Boxes, width: int, height: int) -> Boxes:
    """Return the parts of boxes that lie inside an image; boxes outside it become boxes of no area at its edge."""
    found: Boxes = np.clip(boxes, 0, np.array([width, height, width, height]))
    return found


def visible(boxes: Boxes, width: int, height: int) -> Float[np.ndarray, " N"]:
    """Return the share of each box's area that lies inside an image, in [0, 1]; 0 for boxes of no area."""
    whole, inside = area(boxes), area(clipped(boxes, width, height))
    found: np.ndarray = np.divide(inside, whole, out=np.zeros_like(whole), where=whole > 0)
    return found


def regression_targets(boxes: Boxes, crop: int) -> Float[np.ndarray, "N 4"]:
    """Return what a net is trained to output for boxes: centre x, centre y, width and height (Appendix A).

    The unit is the side of the crop, which depends neither on S nor on the size of the photograph. The centre is
    measured from the centre of the crop, so all four outputs are of the order of 1 and the first two are 0 for a
    centred object.

    Args:
        boxes: in pixels of the rescaled image, measured from the upper left corner of a crop.
        crop: side of the crop in pixels.
    """
    x0, y0, x1, y1 = boxes.T / crop
    return np.stack([(x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5, x1 - x0, y1 - y0], axis=1)


def boxes_of(outputs: Float[np.ndarray, "N 4"], corners: Float[np.ndarray, "N 2"], crop: int) -> Boxes:
    """Return the boxes for the outputs of a net: the inverse of `regression_targets`.

    A negative width or height becomes 0.

    Args:
        outputs: centre x, centre y, width and height, in sides of the crop.
        corners: left and top edge of the window of each output, in pixels of the rescaled image.
        crop: side of the windows in pixels.

    Returns:
        Boxes in pixels of the rescaled image. They may reach beyond it.
    """
    centre = (outputs[:, :2] + 0.5) * crop + corners
    half = np.maximum(outputs[:, 2:], 0) * crop / 2
    return np.concatenate([centre - half, centre + half], axis=1)
