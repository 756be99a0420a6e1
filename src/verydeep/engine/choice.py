"""Which path a layer takes, by its shape: a rule from measurements, as data."""

from dataclasses import dataclass
from typing import Literal

Path = Literal["winograd", "direct", "rows", "torch"]


@dataclass(frozen=True)
class Blocks:
    """How a convolution is cut."""

    tiles: int
    """Tiles of a block: how many 4 x 4 squares of outputs are transformed and multiplied together."""
    shared: bool
    """Whether threads share a block, each at some of its output channels, or each has a block of its own."""


@dataclass(frozen=True)
class Choice:
    """How a layer is computed, and why."""

    path: Path
    reason: str


DIRECT_BELOW = 8
"""Input channels below which transforms cost more than they save: conv1_1."""

FEW_WEIGHTS = 128 * 128
"""Inputs x outputs up to which the transformed weights stay near a core's own cache, beside a small block."""

SMALL_BLOCK, LARGE_BLOCK = 28, 98
"""Tiles of a block where weights are few, and where they come from afar and each has to be used often."""

SHARED_BLOCK = 392
"""Tiles of a block that all threads share."""

ROWS = 512
"""Positions of a map that a fully connected layer computes at once: each time its weights are read once."""

SMALL_GRADIENT_BLOCK, LARGE_GRADIENT_BLOCK = 256, 512
"""Tiles of a block of the weights' gradient: sums over a block are the longer the larger it is, but what is summed
has to stay in a cache. Never by the number of threads: blocks decide the order of additions."""


def chosen(kernel: int, inputs: int, height: int, width: int, fully_connected: bool = False) -> Choice:
    """The path of a convolution with stride 1 on the CPU.

    Args:
        kernel: side of its kernel.
        inputs: its input channels.
        height: of its output.
        width: of its output.
        fully_connected: whether it is fc6, fc7 or fc8.
    """
    if fully_connected:
        return Choice("rows", "weights are read once for many positions; torch where a gradient is needed")
    if kernel != 3:
        return Choice("torch", f"{kernel}x{kernel}: the engine is for 3x3")
    if direct(inputs):
        return Choice("direct", f"{inputs} input channels are too few for transforms to pay")
    if not faster(inputs, height, width):
        return Choice("torch", f"a map of {height} x {width} leaves most of a tile empty")
    return Choice("winograd", "3x3: F(4x4, 3x3) needs a quarter of the multiplications")


def faster(inputs: int, height: int, width: int) -> bool:
    """Whether the engine is faster than torch at a 3x3 layer.

    On one pixel a tile takes 16 multiplications where 9 do; from two pixels on it takes at most 8 a pixel.
    """
    return direct(inputs) or height * width > 1


def direct(inputs: int) -> bool:
    """Whether a 3x3 layer of so few input channels is computed without transforms."""
    return inputs < DIRECT_BELOW


def tiles(height: int, width: int) -> int:
    """Tiles of 4 x 4 outputs of a map."""
    return -(-height // 4) * -(-width // 4)


def block_of_a_thread(inputs: int, outputs: int) -> int:
    """Tiles of a block that a thread has to itself, at the most."""
    return SMALL_BLOCK if inputs * outputs <= FEW_WEIGHTS else LARGE_BLOCK


def gradient_block(inputs: int, outputs: int) -> int:
    """Tiles of a block of the weights' gradient."""
    return SMALL_GRADIENT_BLOCK if inputs * outputs <= 2 * FEW_WEIGHTS else LARGE_GRADIENT_BLOCK


def pairs(kernel: int, inputs: int, between: int) -> bool:
    """Whether a layer and the next one, 3x3, are computed in one, so that the map between them is never whole."""
    return kernel == 3 and direct(inputs) and not direct(between)


def blocks(inputs: int, outputs: int, images: int, height: int, width: int, threads: int) -> Blocks:
    """How a convolution of these channels is cut, for a mini-batch of images of these sizes in pixels."""
    count = images * tiles(height, width)
    block = block_of_a_thread(inputs, outputs)
    if count <= threads * block:
        return Blocks(SHARED_BLOCK, True)
    rounds = -(-count // (threads * block))
    return Blocks(-(-count // (threads * rounds)), False)
