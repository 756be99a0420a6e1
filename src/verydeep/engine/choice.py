"""How a layer is computed, depending on its shape: rules found by measurement, as data."""

from dataclasses import dataclass
from typing import Literal

Path = Literal["winograd", "direct", "rows", "torch"]


@dataclass(frozen=True)
class Blocks:
    """How a convolution is divided into blocks."""

    tiles: int
    """Tiles per block: how many 4 x 4 squares of outputs are transformed and multiplied together."""
    shared: bool
    """Whether all threads work on one block, each on some output channels, or each on a block of its own."""


@dataclass(frozen=True)
class Choice:
    """How a layer is computed, and why."""

    path: Path
    reason: str


DIRECT_BELOW = 8
"""Number of input channels below which the transforms cost more than they save: conv1_1."""

FEW_WEIGHTS = 128 * 128
"""Largest inputs x outputs whose transformed weights fit in or near a core's own cache, with a small block."""

SMALL_BLOCK, LARGE_BLOCK = 28, 98
"""Tiles per block for few weights, and for so many that they come from memory and each has to be used often."""

SHARED_BLOCK = 392
"""Tiles per block that all threads share."""

ROWS = 512
"""Positions of a map that a fully connected layer computes per pass over its weights."""

SMALL_GRADIENT_BLOCK, LARGE_GRADIENT_BLOCK = 256, 512
"""Tiles per block of the weights' gradient. Larger blocks make longer sums, but the summands have to stay in a
cache. This never depends on the number of threads, since blocks decide the order of additions."""


def chosen(kernel: int, inputs: int, height: int, width: int, fully_connected: bool = False) -> Choice:
    """Choose how to compute a convolution with stride 1 on the CPU.

    Args:
        kernel: side of the kernel.
        inputs: number of input channels.
        height: height of the output in pixels.
        width: width of the output in pixels.
        fully_connected: whether the layer is fc6, fc7 or fc8.
    """
    if fully_connected:
        return Choice("rows", "weights are read once for many positions; torch if a gradient is needed")
    if kernel != 3:
        return Choice("torch", f"{kernel}x{kernel}: the engine is for 3x3")
    if direct(inputs):
        return Choice("direct", f"{inputs} input channels are too few for transforms to pay off")
    if not faster(inputs, height, width):
        return Choice("torch", f"a map of {height} x {width} leaves most of a tile empty")
    return Choice("winograd", "3x3: F(4x4, 3x3) needs a quarter of the multiplications")


def faster(inputs: int, height: int, width: int) -> bool:
    """Return whether the engine computes a 3x3 layer faster than torch does.

    For a map of one pixel a tile needs 16 multiplications instead of 9; for two or more pixels it needs at most
    8 per pixel.
    """
    return direct(inputs) or height * width > 1


def direct(inputs: int) -> bool:
    """Return whether a 3x3 layer with this many input channels is computed directly, without transforms."""
    return inputs < DIRECT_BELOW


def tiles(height: int, width: int) -> int:
    """Return the number of tiles of 4 x 4 outputs in a map."""
    return -(-height // 4) * -(-width // 4)


def block_of_a_thread(inputs: int, outputs: int) -> int:
    """Return the largest number of tiles in a block that belongs to one thread."""
    return SMALL_BLOCK if inputs * outputs <= FEW_WEIGHTS else LARGE_BLOCK


def gradient_block(inputs: int, outputs: int) -> int:
    """Return the number of tiles per block of the weights' gradient."""
    return SMALL_GRADIENT_BLOCK if inputs * outputs <= 2 * FEW_WEIGHTS else LARGE_GRADIENT_BLOCK


def pairs(kernel: int, inputs: int, between: int) -> bool:
    """Return whether a layer is fused with the next 3x3 layer, so that the map between them is never complete.

    Args:
        kernel: side of the layer's kernel.
        inputs: its input channels.
        between: its output channels.
    """
    return kernel == 3 and direct(inputs) and not direct(between)


def blocks(inputs: int, outputs: int, images: int, height: int, width: int, threads: int) -> Blocks:
    """Divide a convolution with these channels into blocks, for a mini-batch of images of this size in pixels."""
    count = images * tiles(height, width)
    block = block_of_a_thread(inputs, outputs)
    if count <= threads * block:
        return Blocks(SHARED_BLOCK, True)
    rounds = -(-count // (threads * block))
    return Blocks(-(-count // (threads * rounds)), False)
