"""The engine on NVIDIA GPUs: cuDNN's convolutions, and Triton's kernels for everything between them.

cuDNN's convolutions run near the peak of the tensor cores. What is left to gain is memory traffic: bias, ReLU and
pooling, and their gradients, are passes over the largest maps. Here at most one pass follows a convolution.
conv1_1 has kernels of its own, since its three input channels fill no tensor core.
"""

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from verydeep.engine.layout import channels_last, empty, empty_output
from verydeep.engine.native import VARIABLE

KINDS = (torch.bfloat16, torch.float32)
"""Types that the engine computes in on a GPU."""

HALF = torch.bfloat16
"""Type in which cuDNN fuses bias and ReLU, and conv1_1 has kernels of its own; sums are in float32."""

OLDEST = (8, 0)
"""Compute capability from which on GPUs compute in bfloat16."""

COLOURS = 3
"""Input channels of conv1_1."""

EVEN = 8
"""Channels that cuDNN's fused convolution needs a multiple of."""


def available(device: torch.device) -> bool:
    """Return whether the engine computes on this GPU: it is NVIDIA's and new enough, and Triton is installed."""
    return os.environ.get(VARIABLE) != "off" and _usable(device.index or 0)


@cache
def _usable(index: int) -> bool:
    return (
        torch.version.cuda is not None
        and find_spec("triton") is not None
        and torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
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
    x, padding = channels_last(x), weight.shape[2] // 2
    if colours(x, weight):
        before = convolve_colours(x, weight, bias, rectify)
        return pooled(before, None, winners) if pool else (before, _none(x))
    if pool:
        return pooled(channels_last(torch.conv2d(x, weight, padding=padding)), bias, winners)
    if not rectify:
        return channels_last(torch.conv2d(x, weight, bias, padding=padding)), _none(x)
    return rectified(x, weight, bias, padding), _none(x)


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
    first = colours(x, weight) and not inputs and parameters
    of_bias = _none(x)
    if pool:
        gradient, of_bias = unpooled(gradient, channels_last(winners), x.shape[2], x.shape[3])
    elif not first:
        gradient, of_bias = masked(gradient, channels_last(y) if rectify else None)
    if first:
        of_weights, of_bias = colour_gradient(gradient, x, channels_last(y) if rectify and not pool else None)
        return x.new_empty(0), of_weights.to(weight.dtype), of_bias.to(weight.dtype)
    padding = [weight.shape[2] // 2] * 2
    of_inputs, of_weights, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [inputs, parameters, False]
    )
    return (
        channels_last(of_inputs) if inputs else x.new_empty(0),
        of_weights.contiguous() if parameters else x.new_empty(0),
        of_bias.to(weight.dtype) if parameters else x.new_empty(0),
    )


def rectified(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Convolve, add the bias and rectify: by cuDNN in one, if it has a kernel for it.

    Torch does not ask cuDNN for a deterministic one.
    """
    outputs, channels, *_ = weight.shape
    even = outputs % EVEN == channels % EVEN == 0
    if x.dtype == HALF and even and not torch.are_deterministic_algorithms_enabled():
        try:
            y = torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (padding, padding), (1, 1), 1)
            return channels_last(y)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # it has none for this shape on this GPU
            pass
    return finished(channels_last(torch.conv2d(x, weight, padding=padding)), bias)


def finished(x: Tensor, bias: Tensor) -> Tensor:
    """Add the bias to a map, and rectify it, in place."""
    block = 2048
    _kernels().finish[(-(-x.numel() // block),)](x, bias, x.numel(), CHANNELS=len(bias), BLOCK=block)
    return x


def colours(x: Tensor, weight: Tensor) -> bool:
    """Return whether this is conv1_1 in half precision, which has kernels of its own."""
    outputs, inputs, side, _ = weight.shape
    few = 16 <= outputs <= 128 and outputs & (outputs - 1) == 0
    return inputs == COLOURS and side == 3 and few and x.dtype == HALF


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
    sums = x.new_empty(outputs, 32, count, dtype=torch.float32)
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
    whole = sums.sum(2)
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


def unpooled(
    gradient: Float[Tensor, "N C h w"], winners: UInt8[Tensor, "N C h w"], height: int, width: int
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, " C"]]:
    """Return the gradient of the map before a pooling, and that of the bias in float32."""
    images, channels, rows, _ = gradient.shape
    to = empty(gradient, images, channels, height, width)
    if height % 2 or width % 2:
        to.zero_()
    count, (pixels, block) = programs(gradient.device), _block(channels)
    sums = gradient.new_empty(channels, count, dtype=torch.float32)
    _kernels().unpool[(count, -(-channels // block))](
        gradient, winners, to, sums, images * rows, height, width, CHANNELS=channels, PIXELS=pixels, BLOCK=block
    )
    return to, sums.sum(1)


def masked(
    gradient: Float[Tensor, "N C H W"], y: Float[Tensor, "N C H W"] | None
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, " C"]]:
    """Return the gradient before a ReLU with the output y, or without one, and that of the bias in float32."""
    images, channels, height, width = gradient.shape
    to = gradient if y is None else torch.empty_like(gradient)
    count, (pixels, block) = programs(gradient.device), _block(channels)
    sums = gradient.new_empty(channels, count, dtype=torch.float32)
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
    return to, sums.sum(1)


def centred(images: Tensor, colour: Tensor, kind: torch.dtype) -> Tensor:
    """Subtract a colour from each image, in float32, and convert the result.

    Args:
        images: (N, 3, H, W) of any type and layout.
        colour: one for all images or one for each, (1, 3) or (N, 3) float32.
        kind: type of the result.

    Returns:
        The centred images, with channels last.
    """
    count, _, height, width = images.shape
    to = torch.empty(count, height, width, COLOURS, dtype=kind, device=images.device)
    block, pixels = 1024, height * width
    _kernels().centre[(-(-pixels // block), count)](
        images,
        colour,
        to,
        pixels,
        width,
        *images.stride(),
        colour.stride(0) if len(colour) > 1 else 0,
        BLOCK=block,
    )
    return to.permute(0, 3, 1, 2)


def _block(channels: int) -> tuple[int, int]:
    """Return how many pixels and channels a program of an elementwise kernel computes at once."""
    block = min(128, 1 << (channels - 1).bit_length())
    return 2048 // block, block


def _none(x: Tensor) -> Tensor:
    return x.new_empty(0, dtype=torch.uint8)
