"""How the engine computes each layer of a net on this machine's CPU, and why."""

from dataclasses import dataclass

import torch

from verydeep.configurations import Architecture, output_sides, whole_number
from verydeep.engine.choice import Path, blocks, chosen, pairs
from verydeep.engine.native import VARIABLE, library
from verydeep.errors import UserError


@dataclass(frozen=True)
class Explanation:
    """How a convolutional or fully connected layer is computed."""

    layer: str
    inputs: int
    """Channels."""
    outputs: int
    side: int
    """Side of the output, in pixels."""
    path: Path
    tiles: int | None
    """Tiles per block, if the layer is computed by minimal filtering."""
    shared: bool
    """Whether all threads share a block, or each has its own."""
    reason: str


def explain(architecture: Architecture, images: int) -> list[Explanation]:
    """Say for each layer how the engine computes a mini-batch of crops.

    Args:
        architecture: the net.
        images: size of the mini-batch; in testing the engine takes fewer at a time through the first layers.

    Raises:
        UserError: if `images` is not a whole number, or is less than 1.
    """
    if whole_number("images", images) < 1:
        raise UserError(f"images is {images}; give a number of images, at least 1")
    layers, found = architecture.layers, []
    for number, (layer, side) in enumerate(zip(layers, output_sides(layers, architecture.crop), strict=True)):
        if layer.kind != "conv":
            continue
        after = layers[min(number + 2, len(layers) - 1)]
        paired = pairs(layer.kernel, layer.in_channels, layer.out_channels) and after.kernel == 3
        choice = chosen(layer.kernel, layer.in_channels, side, side, layer.fully_connected)
        path, reason = choice.path, choice.reason + f"; in testing fused with {after.name}" * paired
        if library() is None:
            path, reason = "torch", f"the engine is off ({VARIABLE}) or was not built"
        cut = blocks(layer.in_channels, layer.out_channels, images, side, side, torch.get_num_threads())
        tiles = cut.tiles if path == "winograd" else None
        found.append(
            Explanation(layer.name, layer.in_channels, layer.out_channels, side, path, tiles, cut.shared, reason)
        )
    return found
