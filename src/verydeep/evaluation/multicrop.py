"""Sect. 3.2: many crops of one image, on a regular grid."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from verydeep.images import grid_offsets
from verydeep.network import ConvNet

GRID = 5
"""5 x 5 crops and their mirror images: 50 an image and scale, 150 over three scales."""


def grid_crops(image: UInt8[np.ndarray, "H W 3"], crop: int, grid: int) -> UInt8[np.ndarray, "M crop crop 3"]:
    """Square crops, grid x grid of them equally spaced from border to border, row by row; 1 is the centre crop."""
    height, width = image.shape[:2]
    return np.stack(
        [
            image[top : top + crop, left : left + crop]
            for top in grid_offsets(height, crop, grid)
            for left in grid_offsets(width, crop, grid)
        ]
    )


def crop_posteriors(
    net: ConvNet, crops: UInt8[Tensor, "N M 3 crop crop"], flip: bool = True
) -> Float[Tensor, "N K"]:
    """Soft-max posteriors of N images, averaged over their M crops and, with `flip`, those mirrored."""
    count, each = crops.shape[:2]
    flat = crops.flatten(0, 1)
    posteriors = net(flat).float().softmax(1)
    if flip:
        posteriors = (posteriors + net(flat.flip(3)).float().softmax(1)) / 2
    return torch.unflatten(posteriors, 0, (count, each)).mean(1)
