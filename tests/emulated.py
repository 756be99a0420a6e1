"""The arithmetic of the GPU's kernels in torch, for machines without Triton: what they read, write and round."""

import os
from types import SimpleNamespace

import torch
from torch.nn import functional as F

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which tests use if it is installed

NOBODY = 4


class Kernel:
    """Called like one of Triton: kernel[grid](...)."""

    def __init__(self, compute):
        self.compute = compute

    def __getitem__(self, grid):
        assert all(number > 0 for number in grid)
        return self.compute


def centre(images, colours, to, pixels, width, *strides, BLOCK):
    assert strides == (*images.stride(), colours.stride(0) if len(colours) > 1 else 0)
    assert (pixels, width) == (images.shape[2] * images.shape[3], images.shape[3])
    to.copy_(images.permute(0, 2, 3, 1).float() - colours[:, None, None])


def finish(x, bias, elements, CHANNELS, BLOCK):
    assert elements == x.numel()
    x.copy_((x.float() + bias.float()[:, None, None]).relu())


def four(x, height, width):
    """The pixels of each window, (N, C, h, w, 4)."""
    n, c = x.shape[:2]
    x = x[:, :, : height // 2 * 2, : width // 2 * 2].reshape(n, c, height // 2, 2, width // 2, 2)
    return x.permute(0, 1, 2, 4, 3, 5).flatten(4)


def pool(x, bias, y, winners, height, width, CHANNELS, BIAS, WINNERS, PIXELS, BLOCK):
    assert BIAS is (bias is not None)
    values = four(x, height, width).float()
    if BIAS:
        values = (values + bias.float()[:, None, None, None]).to(x.dtype).float()
    best = values.amax(-1)
    y.copy_(torch.where(best > 0, best, best * 0))
    if WINNERS:
        first = (values == best[..., None]).to(torch.uint8).argmax(-1)
        winners.copy_(torch.where(best > 0, first, NOBODY))


def unpool(gradient, winners, to, sums, lines, height, width, CHANNELS, PIXELS, BLOCK):
    n, c, h, w = gradient.shape
    assert lines == n * h
    values = gradient[..., None] * (winners[..., None] == torch.arange(4))
    rows = values.reshape(n, c, h, w, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)
    to[:, :, : 2 * h, : 2 * w] = rows
    add(sums, rows)


def mask(gradient, y, to, sums, pixels, CHANNELS, RECTIFY, PIXELS, BLOCK):
    assert RECTIFY is (y is not None)
    if RECTIFY:
        to.copy_(torch.where(y > 0, gradient, 0))
    add(sums, to if RECTIFY else gradient)


def add(sums, gradient):
    """As programs do: each adds some images."""
    sums.zero_()
    for number, each in enumerate(gradient.float()):
        sums[:, number % sums.shape[1]] += each.sum((1, 2))


def windows(x):
    """Unrolled windows of all pixels, (N * H * W, 32), with a column of ones."""
    n, _, height, width = x.shape
    found = F.unfold(x.float(), 3, padding=1).view(n, 3, 9, height * width)  # by channel and tap
    found = found.permute(0, 3, 2, 1).reshape(n * height * width, 27)
    return torch.cat([found, torch.ones(len(found), 1), torch.zeros(len(found), 4)], 1)


def convolve_colours(x, weights, y, pixels, height, width, OUTPUTS, RECTIFY, PIXELS):
    found = windows(x) @ weights.float()
    found = found.relu() if RECTIFY else found
    y.copy_(found.view(len(x), height, width, OUTPUTS).permute(0, 3, 1, 2))


def colour_gradient(gradient, x, y, sums, pixels, height, width, OUTPUTS, RECTIFY, PIXELS):
    values = (gradient * (y > 0) if RECTIFY else gradient).float().permute(0, 2, 3, 1).reshape(pixels, OUTPUTS)
    sums.zero_()
    sums[:, :, 0] = values.T @ windows(x)


KERNELS = SimpleNamespace(
    **{
        each.__name__: Kernel(each)
        for each in (centre, finish, pool, unpool, mask, convolve_colours, colour_gradient)
    }
)
