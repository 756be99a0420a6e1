"""Where weights lie in memory."""

import torch
from torch import Tensor

from verydeep.engine.native import library


def in_large_pages(weights: Tensor) -> Tensor:
    """A contiguous copy of weights, in memory of large pages where the system has them.

    fc6 is 411 MB, or a hundred thousand small pages to look up in each pass.

    Args:
        weights: of any shape and type, on any device.
    """
    copy = torch.empty_like(weights, memory_format=torch.contiguous_format)
    if type(copy) is Tensor and copy.device.type == "cpu" and (native := library()) is not None:
        native.use_large_pages(copy)
    return copy.copy_(weights)
