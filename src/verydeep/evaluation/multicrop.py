"""Sect. 3.2: multi-crop testing, on a regular grid of crops."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from verydeep.configurations import STRIDE
from verydeep.network import ConvNet
from verydeep.photographs.rescaling import grid_offsets

GRID = 5
"""5 x 5 crops and their mirror images: 50 per image and scale, 150 per image over three scales."""


def grid_places(height: int, width: int, crop: int, grid: int) -> list[tuple[int, int]]:
    """Return (top, left) of grid x grid crops, equally spaced from border to border, row by row; 1: the centre."""
    return [(top, left) for top in grid_offsets(height, crop, grid) for left in grid_offsets(width, crop, grid)]


def grid_crops(image: UInt8[Tensor, "H W 3"], crop: int, grid: int) -> UInt8[Tensor, "M crop crop 3"]:
    """Cut the square crops of `grid_places`, on the device of the image."""
    return cut(image, grid_places(image.shape[0], image.shape[1], crop, grid), crop)


def cut(
    image: UInt8[Tensor, "H W 3"], places: Sequence[tuple[int, int]], crop: int
) -> UInt8[Tensor, "M crop crop 3"]:
    """Cut square crops at some places (top, left), on the device of the image."""
    return torch.stack([image[top : top + crop, left : left + crop] for top, left in places])


def crop_posteriors(
    net: ConvNet, crops: UInt8[Tensor, "N M 3 crop crop"], flip: bool = True
) -> Float[Tensor, "N K"]:
    """Return the soft-max posteriors of N images: means over M crops and, with `flip`, their mirror images."""
    count, each = crops.shape[:2]
    flat = crops.flatten(0, 1)
    posteriors = net(flat).float().softmax(1)
    if flip:
        posteriors = (posteriors + net(flat.flip(3)).float().softmax(1)) / 2
    return torch.unflatten(posteriors, 0, (count, each)).mean(1)


def windows(image: UInt8[Tensor, "H W 3"], crop: int, flip: bool) -> UInt8[Tensor, "M crop crop 3"]:
    """Cut the crops that the cells of a dense score map see: one every 32 pixels from the upper left, row by row.

    With `flip`, the crops of the mirror image follow. There is one difference from a score map: a crop is padded
    with zeros at its borders, as in training, whereas the image continues beyond what a cell sees.
    """
    height, width = image.shape[:2]
    places = [
        (top, left) for top in range(0, height - crop + 1, STRIDE) for left in range(0, width - crop + 1, STRIDE)
    ]
    whole = [image, image.flip(1)] if flip else [image]
    return torch.cat([cut(each, places, crop) for each in whole])


def window_count(width: int, height: int, crop: int) -> int:
    """Return how many windows an image of this size has, without those of its mirror image."""
    across, down = (int((side - crop) // STRIDE) + 1 for side in (width, height))
    return across * down


def window_posteriors(
    net: ConvNet, crops: UInt8[Tensor, "N M 3 crop crop"], flip: bool = True
) -> Float[Tensor, "N K"]:
    """Return the soft-max posteriors of N images from their windows.

    As in a score map, the scores are averaged before the soft-max.

    Args:
        net: the net, in evaluation mode.
        crops: from `windows`.
        flip: whether the second half of the crops is from the mirror image. If so, the posteriors of the two
            halves are averaged.
    """
    count, each = crops.shape[:2]
    scores = net(crops.flatten(0, 1)).float()
    images = 2 if flip else 1
    posteriors: Tensor = scores.view(count, images, each // images, -1).mean(2).softmax(2)
    return posteriors.mean(1)
