"""The cost of a testing pass, calculated in advance: images and multiply-adds."""

from collections.abc import Iterable

from verydeep.configurations import Architecture
from verydeep.evaluation.multicrop import window_count
from verydeep.evaluation.protocols import Pass
from verydeep.photographs.rescaling import rescaled_size


def pass_images(one: Pass, sizes: Iterable[tuple[int, int]], crop: int) -> int:
    """Return the number of images or crops in a testing pass, including mirror images.

    Args:
        one: the pass.
        sizes: width and height of the tested photographs.
        crop: crop of the net.
    """
    match one.method:
        case "windows":
            each = sum(window_count(*rescaled_size(*size, one.scale), crop) for size in sizes)
        case "multi-crop":
            each = one.grid**2 * len(list(sizes))
        case _:
            each = len(list(sizes))
    return each * (2 if one.flip else 1)


def pass_multiply_adds(architecture: Architecture, one: Pass, sizes: Iterable[tuple[int, int]]) -> float:
    """Return the multiply-adds of a testing pass over photographs of these sizes (width, height)."""
    if one.method != "dense":
        return float(architecture.multiply_adds()) * pass_images(one, sizes, architecture.crop)
    counts: dict[tuple[int, int], int] = {}
    for size in sizes:
        rescaled = rescaled_size(*size, one.scale)
        counts[rescaled] = counts.get(rescaled, 0) + 1
    total = sum(count * dense_multiply_adds(architecture, *size) for size, count in counts.items())
    return float(total) * (2 if one.flip else 1)


def dense_multiply_adds(architecture: Architecture, width: int, height: int) -> int:
    """Return the multiply-adds of one dense pass over an image of this size."""
    total = 0
    for layer in architecture.layers:
        width, height = ((side + 2 * layer.padding - layer.kernel) // layer.stride + 1 for side in (width, height))
        if layer.kind == "conv":
            total += width * height * layer.kernel**2 * layer.in_channels * layer.out_channels
    return total
