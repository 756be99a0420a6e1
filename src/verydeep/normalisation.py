"""Local response normalisation, of net A-LRN (Sect. 2.1), with a gradient of its own.

By autograd a normalisation would be 15 passes over memory and keep five maps, and the maps are the largest of the
net. Here all passes but the first and the last stay in the processor's cache, and only the input is kept.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from verydeep.torch_internals import exporting, forward_mode, observed, plain, transformed

K, N, ALPHA, BETA = 2.0, 5, 1e-4, 0.75
"""Krizhevsky et al. (2012), Sect. 3.3."""

MARGIN = N // 2

CACHED = 2**18
"""Units that a CPU works on at a time: a megabyte in float32."""


class LocalResponseNormalisation(nn.Module):
    """Krizhevsky et al. (2012), Sect. 3.3: b = a / (k + alpha * sum of a^2 over n neighbouring channels) ^ beta.

    k = 2, n = 5, alpha = 1e-4, beta = 0.75. Alpha multiplies the plain sum, as written there; torch and Caffe
    divide it by n.
    """

    def forward(self, a: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Normalise each unit by its neighbours at the same position; channels beyond the ends count as 0.

        Computed in float32 at least: the squares of a half type would overflow or lose their digits.
        """
        wide = a.to(torch.promote_types(a.dtype, torch.float32))
        if written_down(wide):
            return formula(wide).to(a.dtype)
        positions = wide.permute(0, 2, 3, 1)
        b: Tensor = Normalisation.apply(positions.reshape(-1, a.shape[1]))  # type: ignore[no-untyped-call]
        b = b.view(positions.shape).permute(0, 3, 1, 2).to(a.dtype)
        return b.contiguous() if a.is_contiguous() else b


def written_down(a: Tensor) -> bool:
    """Whether somebody follows the operators: a compiler, an export, a transform of torch.func, a counter."""
    return (
        torch.compiler.is_compiling()
        or exporting()
        or observed()
        or transformed()
        or forward_mode()
        or not plain(a)
    )


def formula(a: Float[Tensor, "N C *rest"]) -> Float[Tensor, "N C *rest"]:
    """The normalisation in operators that torch differentiates."""
    channels = a.shape[1]
    squares = F.pad(a.square(), (0, 0) * (a.ndim - 2) + (MARGIN, MARGIN))
    total = sum((squares[:, i : i + channels] for i in range(1, N)), squares[:, :channels])
    root = (K + ALPHA * total).rsqrt()
    return a * (root * root.sqrt())  # s^-3/4


class Normalisation(torch.autograd.Function):
    """The normalisation of rows that hold the channels of one position each.

    Only sums, products and roots, which are rounded the same in every part of a vector: what a position gives
    depends neither on the others nor on the number of threads.
    """

    @staticmethod
    def forward(ctx: Any, a: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """Keep the input, and nothing else, for the backward pass."""
        ctx.save_for_backward(a)
        b = torch.empty_like(a, memory_format=torch.contiguous_format)
        rows = at_once(a)
        for part, to in zip(torch.split(a, rows), torch.split(b, rows), strict=True):
            root = inverse_root(part)
            torch.mul(part, within(root.sqrt().mul_(root), part), out=to)
        return b

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """Of b = a s^-beta: g s^-beta - 2 alpha beta a * (sum of g a s^(-beta - 1) over the neighbours).

        A derivative of this derivative is torch's.
        """
        (a,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            again: Tensor = torch.autograd.grad(formula(a), a, gradient, create_graph=True)[0]
            return again
        of_a = torch.empty_like(a, memory_format=torch.contiguous_format)
        rows = at_once(a)
        parts = (torch.split(each, rows) for each in (a, gradient, of_a))
        for part, up, to in zip(*parts, strict=True):
            root = inverse_root(part)
            torch.mul(up, within(root.sqrt().mul_(root), part), out=to)
            weighed = (to * part).mul_(within(root.mul_(root), part))
            to.sub_(within(neighbours(weighed).mul_(2 * ALPHA * BETA), part) * part)
        return of_a


def at_once(a: Float[Tensor, "R C"]) -> int:
    """Rows to work on at a time; all of them where no cache has to hold them."""
    return max(1, CACHED // a.shape[1] if a.is_cpu else len(a))


def inverse_root(a: Float[Tensor, "R C"]) -> Float[Tensor, " _"]:
    """s^-1/2, laid out as `neighbours` gives it."""
    return neighbours(a.square()).mul_(ALPHA).add_(K).rsqrt_()


def neighbours(x: Float[Tensor, "R C"]) -> Float[Tensor, " _"]:
    """Sums over neighbouring channels, to be read by `within`.

    With zeros between the rows all of them are one long row, whatever the number of channels; a sum over a slice
    of eight channels would take longer to set up than to compute.
    """
    rows, channels = x.shape
    across = channels + 2 * MARGIN
    line = x.new_zeros(rows * across + 2 * MARGIN)
    within(line[MARGIN:], x).copy_(x)
    total = line[: rows * across].clone()
    for shift in range(1, N):
        total.add_(line[shift : shift + len(total)])
    return total


def within(line: Float[Tensor, " _"], like: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
    """The channels of each row in a line that has zeros, or what is not wanted, between the rows."""
    rows, channels = like.shape
    across = channels + 2 * MARGIN
    return line[: rows * across].view(rows, across)[:, :channels]
