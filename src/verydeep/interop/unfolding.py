"""The inverse of folding a standard deviation into conv1_1, exact in float32.

`Convention.folded` divides the kernel by the standard deviation and rounds to float32, which is not one to one: of
torchvision's kernels, one in eight has a neighbour that is folded to the same number. So the rounding is recorded
when a kernel is folded, and used when it is unfolded.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from verydeep.interop.conventions import Convention

Kernel = Float32[np.ndarray, "O 3 k k"]

Rounding = dict[str, list[int]]
"""Differences between float32 numbers in units of the last place: for each, its places in the flattened kernel."""


def unfolded(convention: Convention, weight: Kernel) -> Kernel:
    """Return a kernel for RGB input in a convention that is folded to this one; if there is none, the nearest."""
    with np.errstate(over="ignore"):  # values that are not finite are refused later
        found: Kernel = (weight * np.asarray(convention.std)[:, None, None]).astype(np.float32)
        for limit in (np.inf, -np.inf):  # the nearest may be wrong at powers of two, where the spacing changes
            other = np.nextafter(found, np.float32(limit))
            better = (convention.folded(other) == weight) & (convention.folded(found) != weight)
            found = np.where(better, other, found)
    return found


def rounding(convention: Convention, weight: Kernel) -> Rounding:
    """Return how a kernel for RGB input in a convention differs from what `unfolded` makes of its folded form."""
    weight = np.ascontiguousarray(weight)
    found = unfolded(convention, convention.folded(weight))
    steps = (weight.view(np.int32).astype(np.int64) - found.view(np.int32)).ravel()
    return {str(step): np.flatnonzero(steps == step).tolist() for step in np.unique(steps) if step}


def restored(convention: Convention, weight: Kernel, recorded: Any) -> Kernel:
    """Return the kernel that was folded to this one, bit for bit.

    Args:
        convention: the convention that was folded in.
        weight: the folded kernel.
        recorded: the result of `rounding`, as it was read from a card. Entries that are invalid, or do not belong
            to this kernel, are ignored, since the weights may have changed.
    """
    found = unfolded(convention, weight)
    steps = np.zeros(found.size, np.int32)
    for step, places in recorded.items() if isinstance(recorded, Mapping) else ():
        if isinstance(places, list) and re.fullmatch("-?[0-9]{1,3}", str(step)):
            steps[[place for place in places if type(place) is int and 0 <= place < found.size]] = int(step)
    other = (found.view(np.int32) + steps.reshape(found.shape)).view(np.float32)
    return np.where(convention.folded(other) == weight, other, found)
