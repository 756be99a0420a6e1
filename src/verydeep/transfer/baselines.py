"""What a trained net is compared with: the pixels themselves, without any net."""

import numpy as np
from PIL import Image

from verydeep.linear import Description
from verydeep.photographs.photograph import decode
from verydeep.progress import track
from verydeep.transfer.data import TransferData
from verydeep.transfer.describing import Described
from verydeep.transfer.vectors import normalised

SIDE = 32
"""Side of the squares that photographs are squashed to, in pixels."""


def raw_pixels(data: TransferData, progress: bool = True) -> Described:
    """Describe photographs by their pixels, squashed to 32 x 32, minus the mean of each colour, of length 1.

    Raises:
        ImageError: if a photograph cannot be read.
    """
    found = np.zeros((len(data), SIDE * SIDE * 3), np.float32)
    for row, photograph in enumerate(track(data.photographs, "reading pixels", len(data), progress)):
        small = Image.fromarray(decode(photograph, SIDE)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, np.float32)
        found[row] = (pixels - pixels.mean((0, 1))).ravel()
    description = Description("pixels", (SIDE,), "average")
    return Described(data, normalised(found), ("none",), ("raw pixels",), (description,))
