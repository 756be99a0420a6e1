"""Placement of weights in memory."""

import torch
from torch import Tensor

from verydeep.engine.native import library


def in_large_pages(weights: Tensor) -> Tensor:
    """Return a contiguous copy of weights, in huge pages if the system offers them.

    fc6 takes 411 MB: a hundred thousand ordinary pages to look up in each pass.

    Args:
        weights: a tensor of any shape and type, on any device.
    """
    copy = torch.empty_like(weights, memory_format=torch.contiguous_format)
    if type(copy) is Tensor and copy.device.type == "cpu" and (native := library()) is not None:
        native.use_large_pages(copy)
    return copy.copy_(weights)
