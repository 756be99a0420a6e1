"""The cost of a step of the plan, calculated in advance: images and multiply-adds."""

from collections.abc import Iterable

from verydeep.configurations import Architecture, output_sides
from verydeep.evaluation.multicrop import window_count
from verydeep.evaluation.posteriors import Pass
from verydeep.photographs.rescaling import rescaled_size
from verydeep.recipe import Recipe

FORTH_AND_BACK = 3
"""A training step costs three passes: scores, gradients of the maps, gradients of the weights."""


def training_images(recipe: Recipe, images: int) -> int:
    """Return the number of images passed through the net in a training up to its limits."""
    return min(recipe.epochs * images, recipe.iterations * recipe.batch)


def training_multiply_adds(recipe: Recipe, classes: int, images: int) -> float:
    """Return the multiply-adds of a training up to its limit of epochs, on this number of training images.

    The backward pass stops at the lowest trained layer; frozen layers below it cost the forward pass only.
    """
    architecture = recipe.architecture(classes)
    whole = float(architecture.multiply_adds())
    each = FORTH_AND_BACK * whole
    if recipe.learns:
        sides = output_sides(architecture.layers, architecture.crop)
        costs = [layer.multiply_adds(side) for layer, side in zip(architecture.layers, sides, strict=True)]
        first = min(at for at, layer in enumerate(architecture.layers) if layer.name in recipe.learns)
        each = whole + (FORTH_AND_BACK - 1) * sum(costs[first:])
    return training_images(recipe, images) * each


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
