"""The engine's kernels for NVIDIA GPUs, in Triton. `gpu.py` launches them.

All maps have channels last in memory. Sums are in float32, and no kernel uses atomic operations: programs write
partial sums, which are added afterwards in a fixed order, so the same input gives the same bits.
"""

import triton
import triton.language as tl

NOBODY = tl.constexpr(4)
"""In a map of winners: no pixel of the window was above 0, so none gets a gradient."""

ONES = tl.constexpr(27)
"""Column of ones in an unrolled window of conv1_1, after 3 x 3 x 3 inputs; its weight is the bias."""


@triton.jit
def pooled(top_left, top_right, bottom_left, bottom_right):
    """Return the largest of four rectified values and which it is, the first of equal ones, or NOBODY."""
    top = tl.maximum(top_left, top_right, propagate_nan=tl.PropagateNan.ALL)
    bottom = tl.maximum(bottom_left, bottom_right, propagate_nan=tl.PropagateNan.ALL)
    best = tl.maximum(top, bottom, propagate_nan=tl.PropagateNan.ALL)
    winner = tl.where(top_left == best, 0, tl.where(top_right == best, 1, tl.where(bottom_left == best, 2, 3)))
    return best, tl.where(best > 0, winner, NOBODY).to(tl.uint8)


@triton.jit
def centre(
    images, colours, to, pixels, width, of_image, of_channel, of_row, of_column, of_colour, BLOCK: tl.constexpr
):
    """Subtract a colour from an image. One program computes BLOCK pixels of one image, in three channels.

    Args:
        images: of any type and layout.
        colours: three float32 per image, or for all.
        to: (N, height, width, 3).
        pixels: height * width.
        width: of the images.
        of_image: distance in memory from one image to the next; likewise the others.
        of_channel: likewise.
        of_row: likewise.
        of_column: likewise.
        of_colour: distance from the colour of one image to that of the next; 0 if all have the same.
    """
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, 4)
    inside = (pixel < pixels)[:, None] & (channel < 3)[None, :]
    source = image * of_image + (pixel // width * of_row + pixel % width * of_column)[:, None]
    value = tl.load(images + source + (channel * of_channel)[None, :], inside, other=0).to(tl.float32)
    colour = tl.load(colours + image * of_colour + channel, channel < 3, other=0.0)
    at = (image * pixels + pixel)[:, None] * 3 + channel[None, :]
    tl.store(to + at, (value - colour[None, :]).to(to.dtype.element_ty), inside)


@triton.jit
def finish(x, bias, elements, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Add the bias to a map, and rectify it, in place."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    value = tl.load(x + at, inside).to(tl.float32) + tl.load(bias + at % CHANNELS).to(tl.float32)
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(x + at, value.to(x.dtype.element_ty), inside)


@triton.jit
def pool(
    x,
    bias,
    y,
    winners,
    height,
    width,
    CHANNELS: tl.constexpr,
    BIAS: tl.constexpr,
    WINNERS: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the bias to a map, rectify and pool it. One program computes PIXELS of one row of the output.

    Args:
        x: the map, (N, height, width, CHANNELS).
        bias: CHANNELS numbers, or anything without BIAS.
        y: the output, (N, height // 2, width // 2, CHANNELS).
        winners: the winners, of the same shape; anything without WINNERS.
        height: of the input.
        width: of the input.
    """
    rows, columns = height // 2, width // 2
    line = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = (column < columns)[:, None] & (channel < CHANNELS)[None, :]
    above = (line // rows * height + line % rows * 2) * width
    at = (above + 2 * column)[:, None] * CHANNELS + channel[None, :]
    below = at + width * CHANNELS
    a = tl.load(x + at, inside).to(tl.float32)
    b = tl.load(x + at + CHANNELS, inside).to(tl.float32)
    c = tl.load(x + below, inside).to(tl.float32)
    d = tl.load(x + below + CHANNELS, inside).to(tl.float32)
    if BIAS:
        more = tl.load(bias + channel, channel < CHANNELS).to(tl.float32)[None, :]
        # Rounded as a convolution with a bias would have been, since a tie has one winner.
        a = (a + more).to(x.dtype.element_ty).to(tl.float32)
        b = (b + more).to(x.dtype.element_ty).to(tl.float32)
        c = (c + more).to(x.dtype.element_ty).to(tl.float32)
        d = (d + more).to(x.dtype.element_ty).to(tl.float32)
    best, winner = pooled(a, b, c, d)
    best = tl.maximum(best, 0.0, propagate_nan=tl.PropagateNan.ALL)
    to = (line * columns + column)[:, None] * CHANNELS + channel[None, :]
    tl.store(y + to, best.to(y.dtype.element_ty), inside)
    if WINNERS:
        tl.store(winners + to, winner, inside)


@triton.jit
def unpool(
    gradient,
    winners,
    to,
    sums,
    lines,
    height,
    width,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Give each winner of a pooling its gradient and the other pixels 0, and add the gradients for the bias.

    Program i computes the lines i, i + programs, ... of the pooled map.

    Args:
        gradient: of the pooled map, (N, height // 2, width // 2, CHANNELS).
        winners: of the same shape.
        to: the gradient of the map, (N, height, width, CHANNELS); an odd last row or column is not written.
        sums: partial sums for the bias, (CHANNELS, programs) float32.
        lines: N * (height // 2).
        height: of the map.
        width: of the map.
    """
    rows, columns = height // 2, width // 2
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PIXELS, BLOCK), tl.float32)
    for line in range(tl.program_id(0), lines, tl.num_programs(0)):
        above = tl.cast(line // rows * height + line % rows * 2, tl.int64) * width
        for first in range(0, columns, PIXELS):
            column = first + tl.arange(0, PIXELS)
            inside = (column < columns)[:, None] & (channel < CHANNELS)[None, :]
            here = (tl.cast(line, tl.int64) * columns + column)[:, None] * CHANNELS + channel[None, :]
            value = tl.load(gradient + here, inside, other=0.0)
            winner = tl.load(winners + here, inside, other=NOBODY)
            total += tl.where(winner < NOBODY, value.to(tl.float32), 0.0)
            at = (above + 2 * column)[:, None] * CHANNELS + channel[None, :]
            below = at + width * CHANNELS
            tl.store(to + at, tl.where(winner == 0, value, 0.0), inside)
            tl.store(to + at + CHANNELS, tl.where(winner == 1, value, 0.0), inside)
            tl.store(to + below, tl.where(winner == 2, value, 0.0), inside)
            tl.store(to + below + CHANNELS, tl.where(winner == 3, value, 0.0), inside)
    to_sums = sums + channel * tl.num_programs(0) + tl.program_id(0)
    tl.store(to_sums, tl.sum(total, 0), channel < CHANNELS)


@triton.jit
def mask(
    gradient,
    y,
    to,
    sums,
    pixels,
    CHANNELS: tl.constexpr,
    RECTIFY: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Set the gradient to 0 where the output of a ReLU is not above 0, and add the rest for the bias.

    Program i computes the blocks i, i + programs, ... of PIXELS pixels.

    Args:
        gradient: (pixels, CHANNELS).
        y: output of the ReLU; anything without RECTIFY.
        to: the gradient before the ReLU; anything without RECTIFY, which only adds.
        sums: partial sums for the bias, (CHANNELS, programs) float32.
        pixels: number of pixels of all images.
    """
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PIXELS, BLOCK), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(pixels, PIXELS), tl.num_programs(0)):
        pixel = tl.cast(block, tl.int64) * PIXELS + tl.arange(0, PIXELS)
        inside = (pixel < pixels)[:, None] & (channel < CHANNELS)[None, :]
        at = pixel[:, None] * CHANNELS + channel[None, :]
        value = tl.load(gradient + at, inside, other=0.0)
        if RECTIFY:
            value = tl.where(tl.load(y + at, inside, other=0.0) > 0, value, 0.0)
            tl.store(to + at, value, inside)
        total += value.to(tl.float32)
    to_sums = sums + channel * tl.num_programs(0) + tl.program_id(0)
    tl.store(to_sums, tl.sum(total, 0), channel < CHANNELS)


@triton.jit
def windows(x, pixel, inside, height, width):
    """Return the 3 x 3 x 3 inputs of some outputs of conv1_1, unrolled, with a column of ones: (pixels, 32)."""
    column = tl.arange(0, 32)
    tap, channel = column // 3, column % 3
    line, across = pixel // width, pixel % width
    row = (line % height)[:, None] + (tap // 3 - 1)[None, :]
    at = across[:, None] + (tap % 3 - 1)[None, :]
    there = (row >= 0) & (row < height) & (at >= 0) & (at < width) & (column < ONES)[None, :] & inside[:, None]
    source = ((line // height * height)[:, None] + row) * width + at
    value = tl.load(x + source * 3 + channel[None, :], there, other=0.0)
    return tl.where((column == ONES)[None, :] & inside[:, None], 1.0, value).to(x.dtype.element_ty)


@triton.jit
def convolve_colours(
    x,
    weights,
    y,
    pixels,
    height,
    width,
    OUTPUTS: tl.constexpr,
    RECTIFY: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Convolve an image with three channels, add the bias and rectify: conv1_1.

    Args:
        x: images, (N, height, width, 3).
        weights: (32, OUTPUTS): 27 rows of weights, one of the bias, four of zeros.
        y: (N, height, width, OUTPUTS).
        pixels: N * height * width.
        height: of the images.
        width: of the images.
    """
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels
    k = tl.arange(0, OUTPUTS)
    factor = tl.load(weights + tl.arange(0, 32)[:, None] * OUTPUTS + k[None, :])
    total = tl.dot(windows(x, pixel, inside, height, width), factor)
    if RECTIFY:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    at = pixel[:, None] * OUTPUTS + k[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), inside[:, None])


@triton.jit
def colour_gradient(
    gradient,
    x,
    y,
    sums,
    pixels,
    height,
    width,
    OUTPUTS: tl.constexpr,
    RECTIFY: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Compute the gradient of conv1_1's weights and bias, with the ReLU's mask, in one pass over the gradient.

    Program i computes the blocks i, i + programs, ... of PIXELS pixels.

    Args:
        gradient: (pixels, OUTPUTS).
        x: images, (N, height, width, 3).
        y: output of the ReLU; anything without RECTIFY.
        sums: partial sums, (OUTPUTS, 32, programs) float32, with the columns of `windows`.
        pixels: N * height * width.
        height: of the images.
        width: of the images.
    """
    k = tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS, 32), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(pixels, PIXELS), tl.num_programs(0)):
        pixel = tl.cast(block, tl.int64) * PIXELS + tl.arange(0, PIXELS)
        inside = pixel < pixels
        at = pixel[:, None] * OUTPUTS + k[None, :]
        value = tl.load(gradient + at, inside[:, None], other=0.0)
        if RECTIFY:
            value = tl.where(tl.load(y + at, inside[:, None], other=0.0) > 0, value, 0.0)
        total = tl.dot(value.T, windows(x, pixel, inside, height, width), total)
    to = (k[:, None] * 32 + tl.arange(0, 32)[None, :]) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + to, total)
