"""The engine on NVIDIA GPUs: cuDNN's convolutions, or our own on Hopper, fused with everything between them.

On a GPU, bias, ReLU and pooling cost what it takes to move the maps through memory, a third of a training step of
net D if each is a pass of its own. Here a convolution is followed by at most one pass, and so is its gradient.
"""

import os
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from verydeep.engine.layout import channels_last, empty, empty_output
from verydeep.engine.native import VARIABLE

KINDS = (torch.bfloat16, torch.float32)
"""Types that the engine computes in on a GPU."""

HALF = torch.bfloat16
"""Type that our own convolutions compute in, with sums in float32."""

OLDEST = (8, 0)
"""Compute capability from which on GPUs have bfloat16."""

HOPPER = (9, 0)
"""Compute capability of the GPUs that our own convolution is written for: it needs their copy engine."""

COLOURS = 3
"""Input channels of conv1_1."""


class Tile(NamedTuple):
    """The part of a map that one program of `kernels.convolve` computes, and how."""

    images: int
    rows: int
    columns: int
    outputs: int
    """Output channels."""
    warps: int
    stages: int
    """Depth of the pipeline of copies."""


INPUTS = 64
"""Input channels per step of `kernels.convolve`: 128 bytes, the widest row that the copy engine swizzles."""


def available(device: torch.device) -> bool:
    """Return whether the engine computes on this GPU: it is NVIDIA's and new enough, and Triton is installed."""
    return os.environ.get(VARIABLE) != "off" and _usable(device.index or 0)


@cache
def _usable(index: int) -> bool:
    return (
        torch.version.cuda is not None
        and find_spec("triton") is not None
        and torch.cuda.get_device_capability(index) >= OLDEST
    )


@cache
def _kernels() -> Any:
    """Import the kernels; not at the top, since Triton comes only with torch for GPUs."""
    from verydeep.engine import kernels

    return kernels


@cache
def programs(device: torch.device) -> int:
    """Return how many programs a kernel that adds is divided into: enough to fill this GPU."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


@cache
def hopper(device: torch.device) -> bool:
    """Return whether our own convolution runs on this GPU."""
    return torch.cuda.get_device_capability(device) == HOPPER


def own(x: Tensor, inputs: int, outputs: int) -> bool:
    """Return whether our own convolution computes a layer with these channels; otherwise cuDNN does."""
    return (
        x.dtype == HALF
        and inputs % INPUTS == 0
        and outputs % INPUTS == 0
        and hopper(x.device)
        and len(x) * x.shape[2] * x.shape[3] * outputs >= SMALLEST
    )


SMALLEST = 2**21
"""Numbers in an output below which there are too few tiles to fill a GPU; cuDNN divides the sums instead."""


@cache
def tile(images: int, height: int, width: int, outputs: int) -> Tile:
    """Choose the tiles of a layer; see `covering`."""
    wide = outputs % 128 == 0
    return Tile(*covering(256, images, height, width), 128 if wide else 64, 8 if wide else 4, 3)


def covering(pixels: int, images: int, height: int, width: int) -> tuple[int, int, int]:
    """Return images, rows and columns of the tiles that cover maps with the fewest pixels outside.

    If several do, squares are best, since they share more of what they read, and then wide ones.

    Args:
        pixels: of a tile, a power of 2.
        images: number of maps.
        height: of a map in pixels.
        width: of a map in pixels.
    """

    def covered(shape: tuple[int, int]) -> tuple[int, int]:
        rows, columns = shape
        whole = 1
        for length, part in ((images, pixels // (rows * columns)), (height, rows), (width, columns)):
            whole *= -(-length // part) * part
        return whole, abs(rows - columns) - columns

    sides = (2, 4, 8, 16)
    shapes = [(rows, columns) for rows, columns in product(sides, sides) if rows * columns <= pixels]
    rows, columns = min(shapes, key=covered)
    return pixels // (rows * columns), rows, columns


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool, winners: bool
) -> tuple[Tensor, Tensor]:
    """Convolve, add the bias, rectify and pool; see `operators.convolution_for_training`.

    Args:
        x: (N, C, H, W).
        weight: (K, C, side, side) of the type of x; the padding is side // 2.
        bias: K numbers.
        rectify: whether a ReLU follows.
        pool: whether a pooling follows the ReLU.
        winners: whether the winners of the pooling are returned too.
    """
    x = channels_last(x)
    outputs, inputs, side, _ = weight.shape
    if own(x, inputs, outputs):
        return convolve(x, matrix(weight), side, bias, rectify, pool, winners)
    if colours(x, weight):
        before = convolve_colours(x, weight, bias, rectify)
        return pooled(before, None, winners) if pool else (before, _none(x))
    before = channels_last(torch.conv2d(x, weight, padding=side // 2))
    if pool:
        return pooled(before, bias, winners)
    kernels, block = _kernels(), 2048
    kernels.finish[(-(-before.numel() // block),)](
        before, bias, before, before.numel(), CHANNELS=outputs, RECTIFY=rectify, BLOCK=block
    )
    return before, _none(x)


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    winners: Tensor,
    rectify: bool,
    pool: bool,
    inputs: bool,
    parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weights and bias; see `operators.convolution_backward`."""
    gradient, x = channels_last(gradient), channels_last(x)
    outputs, channels, side, _ = weight.shape
    first = colours(x, weight) and not inputs
    of_bias = _none(x)
    if pool:
        gradient, of_bias = unpooled(gradient, channels_last(winners), x.shape[2], x.shape[3])
    elif not first and (rectify or parameters):
        gradient, of_bias = masked(gradient, channels_last(y) if rectify else None)
    of_inputs, of_weights = x.new_empty(0), weight.new_empty(0)
    if first and parameters:
        output = channels_last(y) if rectify and not pool else None
        of_weights, of_bias = colour_gradient(gradient, x, output)
        return of_inputs, of_weights.to(weight.dtype), of_bias.to(weight.dtype)
    if inputs and own(gradient, outputs, channels):
        turned = matrix(weight.flip(2, 3).transpose(0, 1))
        of_inputs, _ = convolve(gradient, turned, side, None, False, False, False)
    by_torch = [inputs and not of_inputs.numel(), parameters, False]
    if any(by_torch):
        found = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1, 1], [side // 2] * 2, [1, 1], False, [0, 0], 1, by_torch
        )
        of_inputs = channels_last(found[0]) if by_torch[0] else of_inputs
        of_weights = found[1].contiguous() if parameters else of_weights
    return of_inputs, of_weights, of_bias.to(weight.dtype) if parameters else x.new_empty(0)


def matrix(weight: Tensor) -> Tensor:
    """Return weights (K, C, side, side) as a matrix K x (side * side * C)."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1).contiguous()


def colours(x: Tensor, weight: Tensor) -> bool:
    """Return whether this is conv1_1 in bfloat16, which has kernels of its own."""
    outputs, inputs, side, _ = weight.shape
    few = 16 <= outputs <= 128 and outputs & (outputs - 1) == 0
    return inputs == COLOURS and side == 3 and few and x.dtype == HALF


def convolve(
    x: Tensor,
    weights: Tensor,
    side: int,
    bias: Tensor | None,
    rectify: bool,
    pool: bool,
    winners: bool,
    cut: Tile | None = None,
    rectified: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve with our own kernel.

    Args:
        x: (N, C, H, W) with channels last.
        weights: as `matrix` returns them.
        side: of the kernel.
        bias: K numbers, or None.
        rectify: whether a ReLU follows.
        pool: whether a pooling follows the ReLU.
        winners: whether the winners of the pooling are returned too.
        cut: the tiles; by default those of `tile`.
        rectified: output of a ReLU, of the shape of the result, which is then its gradient.

    Returns:
        The result; and the winners, or the sums of the gradient over all pixels, (K,) float32, or nothing.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    (images, channels, height, width), outputs = x.shape, len(weights)
    cut = cut or tile(images, height, width, outputs)
    y = empty_output(x, outputs, pool)
    won = torch.empty_like(y, dtype=torch.uint8) if winners else _none(x)
    pixels = [cut.images, cut.rows, cut.columns]
    block = [cut.images, cut.rows // 2, cut.columns // 2, cut.outputs] if pool else [*pixels, cut.outputs]
    counts = [-(-length // part) for length, part in zip((images, height, width), pixels, strict=True)]
    tiles_k, tiles = outputs // cut.outputs, counts[0] * counts[1] * counts[2]
    sums = None if rectified is None else x.new_empty(tiles, outputs, dtype=torch.float32)
    _kernels().convolve[(tiles * tiles_k,)](
        TensorDescriptor.from_tensor(x.permute(0, 2, 3, 1), [*pixels, INPUTS]),
        TensorDescriptor.from_tensor(weights, [cut.outputs, INPUTS]),
        bias,
        TensorDescriptor.from_tensor(y.permute(0, 2, 3, 1), block),
        TensorDescriptor.from_tensor(won.permute(0, 2, 3, 1), block) if winners else None,
        None if rectified is None else TensorDescriptor.from_tensor(rectified.permute(0, 2, 3, 1), block),
        sums,
        tiles_k,
        counts[2],
        counts[1],
        channels,
        SIDE=side,
        IMAGES=cut.images,
        ROWS=cut.rows,
        COLUMNS=cut.columns,
        INPUTS=INPUTS,
        OUTPUTS=cut.outputs,
        STAGES=cut.stages,
        BIAS=bias is not None,
        RECTIFY=rectify,
        POOL=pool,
        WINNERS=winners,
        MASK=rectified is not None,
        num_warps=cut.warps,
    )
    return y, won if sums is None else sums.sum(0)


def convolve_colours(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool) -> Tensor:
    """Compute conv1_1."""
    (images, _, height, width), outputs, block = x.shape, len(weight), 128
    y, pixels = empty(x, images, outputs, height, width), images * height * width
    weights = x.new_zeros(32, outputs)
    weights[:27] = weight.permute(2, 3, 1, 0).reshape(27, outputs)
    weights[27] = bias
    _kernels().convolve_colours[(-(-pixels // block),)](
        x, weights, y, pixels, height, width, OUTPUTS=outputs, RECTIFY=rectify, PIXELS=block
    )
    return y


def colour_gradient(gradient: Tensor, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of conv1_1's weights and bias; y is the output of its ReLU, if there is a mask."""
    images, outputs, height, width = gradient.shape
    count = programs(x.device)
    sums = x.new_empty(count, outputs, 32, dtype=torch.float32)
    _kernels().colour_gradient[(count,)](
        gradient,
        x,
        y,
        sums,
        images * height * width,
        height,
        width,
        OUTPUTS=outputs,
        RECTIFY=y is not None,
        PIXELS=128,
    )
    whole = sums.sum(0)
    return whole[:, :27].reshape(outputs, 3, 3, COLOURS).permute(0, 3, 1, 2).contiguous(), whole[:, 27]


def pooled(x: Tensor, bias: Tensor | None, winners: bool) -> tuple[Tensor, Tensor]:
    """Add the bias to a map, rectify and pool it; return the winners too if they are asked for."""
    images, channels, height, width = x.shape
    y = empty_output(x, channels, pool=True)
    won = torch.empty_like(y, dtype=torch.uint8) if winners else _none(x)
    pixels, block = _block(channels)
    grid = (images * (height // 2), -(-(width // 2) // pixels), -(-channels // block))
    _kernels().pool[grid](
        x,
        bias,
        y,
        won,
        height,
        width,
        CHANNELS=channels,
        BIAS=bias is not None,
        WINNERS=winners,
        PIXELS=pixels,
        BLOCK=block,
    )
    return y, won


def unpooled(gradient: Tensor, winners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the gradient of the map before a pooling, and that of the bias in float32."""
    images, channels, rows, _ = gradient.shape
    to = empty(gradient, images, channels, height, width)
    if height % 2 or width % 2:
        to.zero_()
    count, (pixels, block) = programs(gradient.device), _block(channels)
    sums = gradient.new_empty(count, channels, dtype=torch.float32)
    _kernels().unpool[(count, -(-channels // block))](
        gradient, winners, to, sums, images * rows, height, width, CHANNELS=channels, PIXELS=pixels, BLOCK=block
    )
    return to, sums.sum(0)


def masked(gradient: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradient before a ReLU with the output y, and that of the bias in float32."""
    images, channels, height, width = gradient.shape
    to = gradient if y is None else torch.empty_like(gradient)
    count, (pixels, block) = programs(gradient.device), _block(channels)
    sums = gradient.new_empty(count, channels, dtype=torch.float32)
    _kernels().mask[(count, -(-channels // block))](
        gradient,
        y,
        to,
        sums,
        images * height * width,
        CHANNELS=channels,
        RECTIFY=y is not None,
        PIXELS=pixels,
        BLOCK=block,
    )
    return to, sums.sum(0)


def _block(channels: int) -> tuple[int, int]:
    """Return how many pixels and channels a program of an elementwise kernel computes at once."""
    block = min(128, 1 << (channels - 1).bit_length())
    return 2048 // block, block


def _none(x: Tensor) -> Tensor:
    return x.new_empty(0, dtype=torch.uint8)
