"""The cost of a training, calculated in advance: images and multiply-adds."""

from verydeep.configurations import output_sides
from verydeep.recipe import Recipe

FORTH_AND_BACK = 3
"""A training step costs three passes: scores, gradients of the maps, gradients of the weights."""


def training_images(recipe: Recipe, images: int) -> int:
    """Return the number of images passed through the net in a training up to its limits."""
    return min(recipe.epochs * images, recipe.iterations * recipe.batch)


def training_multiply_adds(recipe: Recipe, classes: int, images: int) -> float:
    """Return the multiply-adds of a training up to its limits, on this number of training images.

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
