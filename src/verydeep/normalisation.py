"""Local response normalisation, for net A-LRN (Sect. 2.1), with its own gradient.

With autograd a normalisation would take 15 passes over memory and keep five maps, the largest of the net. Here all
passes but the first and the last stay in the processor's cache, and only the input is kept.
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
"""Number of units that a CPU processes at a time: a megabyte in float32."""


class LocalResponseNormalisation(nn.Module):
    """Krizhevsky et al. (2012), Sect. 3.3: b = a / (k + alpha * sum of a^2 over n neighbouring channels) ^ beta.

    k = 2, n = 5, alpha = 1e-4, beta = 0.75. Alpha multiplies the sum, as in their formula; torch and Caffe divide
    it by n.
    """

    def forward(self, a: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Normalise each unit by its neighbours at the same position; channels beyond the ends count as 0.

        This computes in float32 or wider: the squares of half-precision numbers would overflow or lose digits.
        """
        wide = a.to(torch.promote_types(a.dtype, torch.float32))
        if written_down(wide):
            return formula(wide).to(a.dtype)
        positions = wide.permute(0, 2, 3, 1)
        b: Tensor = Normalisation.apply(positions.reshape(-1, a.shape[1]))  # type: ignore[no-untyped-call]
        b = b.view(positions.shape).permute(0, 3, 1, 2).to(a.dtype)
        return b.contiguous() if a.is_contiguous() else b


def written_down(a: Tensor) -> bool:
    """Return whether something records the operators: a compiler, export, torch.func transform or counter."""
    return (
        torch.compiler.is_compiling()
        or exporting()
        or observed()
        or transformed()
        or forward_mode()
        or not plain(a)
    )


def formula(a: Float[Tensor, "N C *rest"]) -> Float[Tensor, "N C *rest"]:
    """Compute the normalisation with operators that torch differentiates."""
    channels = a.shape[1]
    squares = F.pad(a.square(), (0, 0) * (a.ndim - 2) + (MARGIN, MARGIN))
    total = sum((squares[:, i : i + channels] for i in range(1, N)), squares[:, :channels])
    root = (K + ALPHA * total).rsqrt()
    return a * (root * root.sqrt())  # s^-3/4


class Normalisation(torch.autograd.Function):
    """The normalisation of rows, each of which holds the channels of one position.

    It uses only sums, products and roots, which are rounded in the same way in every part of a vector. So the
    result at a position depends neither on other positions nor on the number of threads.
    """

    @staticmethod
    def forward(ctx: Any, a: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """Normalise the rows, and keep only the input for the backward pass."""
        ctx.save_for_backward(a)
        b = torch.empty_like(a, memory_format=torch.contiguous_format)
        rows = at_once(a)
        for part, to in zip(torch.split(a, rows), torch.split(b, rows), strict=True):
            root = inverse_root(part)
            torch.mul(part, within(root.sqrt().mul_(root), part), out=to)
        return b

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """Return the gradient of b = a s^-beta with respect to a.

        It is g s^-beta - 2 alpha beta a * (sum of g a s^(-beta - 1) over the neighbours). If this derivative will
        be differentiated itself, torch computes it.
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
    """Return the number of rows to process at a time: on a CPU as many as fit in the cache, otherwise all."""
    return max(1, CACHED // a.shape[1] if a.is_cpu else len(a))


def inverse_root(a: Float[Tensor, "R C"]) -> Float[Tensor, " _"]:
    """Return s^-1/2 in the layout of `neighbours`."""
    return neighbours(a.square()).mul_(ALPHA).add_(K).rsqrt_()


def neighbours(x: Float[Tensor, "R C"]) -> Float[Tensor, " _"]:
    """Return the sums over neighbouring channels, to be read with `within`.

    With zeros between them, all rows form one long row, whatever the number of channels. A sum over a slice of
    eight channels would take longer to set up than to compute.
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
    """Return the channels of each row in a long row that has zeros or unused values between them."""
    rows, channels = like.shape
    across = channels + 2 * MARGIN
    return line[: rows * across].view(rows, across)[:, :channels]
