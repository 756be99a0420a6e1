"""Sect. 3.3 on several machines: weight gradients of fully connected layers, from inputs and output gradients.

Net D has 124 million weights in fc6, fc7 and fc8, whose gradients take 495 MB. They follow from 42,472 numbers per
image: the inputs of the three layers, and the gradients of their outputs. So between machines, ranks do not add
these gradients. They gather the numbers of all images, and each rank forms the gradient of the whole mini-batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from verydeep.computing import TestingPrecision
from verydeep.distributed import Ranks, gathered, local_ranks
from verydeep.engine.operators import NAMESPACE
from verydeep.network import ConvNet

NETWORK = 12.5e9
"""Assumed bytes per second between two machines: 100 Gb/s, in the middle between 25 and 400."""

ARITHMETIC = {"cpu": 1e12, "cuda": 4e13}
"""Assumed operations per second of a rank in matrix products, by kind of device."""


class Gathered:
    """A fully connected layer, whose weight gradient is formed from the inputs and output gradients of all ranks.

    It is a `distributed.Message` of one part.
    """

    parts = 1

    def __init__(self, layer: nn.Conv2d, images: int, ranks: Ranks) -> None:
        """Prepare for a layer.

        Args:
            layer: a convolution whose kernel covers its whole input.
            images: in the largest mini-batch, over all ranks.
            ranks: of this process.
        """
        self.layer = layer
        self._share, self._ranks = -(-images // ranks.world), ranks
        self._ready: Callable[[], None] = lambda: None
        self._number = next(_NUMBERS)
        _LAYERS[self._number] = self
        self._kept: list[Tensor] = []
        """Inputs and output gradients of the micro-batches so far, next to each other: one row per image."""
        self._all = torch.empty(0)

    def watch(self, ready: Callable[[], None]) -> None:
        """Call a function when the output gradients of a micro-batch are known."""
        self._ready = ready

    def forward(self, x: Float[Tensor, "n C k k"]) -> Float[Tensor, "n D 1 1"]:
        """Compute the layer as a matrix product, whose backward pass calls `keep` instead of using the weights."""
        inputs = x.flatten(1)
        y = F.linear(inputs, self.layer.weight.detach().flatten(1), self.layer.bias)
        z: Tensor = layer_output(y, inputs.detach(), self._number)
        return z[:, :, None, None]

    def keep(self, inputs: Float[Tensor, "n i"], gradient: Float[Tensor, "n o"]) -> None:
        """Remember the inputs and output gradients of a micro-batch."""
        self._kept.append(torch.cat((inputs.to(gradient.dtype), gradient), 1))
        self._ready()

    def send(self) -> dist.Work:
        """Begin to gather the numbers of all images, with rows of zeros where a rank has fewer than another."""
        ours = torch.cat(self._kept)
        self._kept.clear()
        assert len(ours) <= self._share, "the mini-batch is larger than was said"
        self._all, work = gathered(F.pad(ours, (0, 0, 0, self._share - len(ours))), self._ranks)
        return work

    def received(self) -> None:
        """Form the gradient of the weights over the whole mini-batch."""
        weight = self.layer.weight
        inputs, gradients = torch.split(self._all, [weight[0].numel(), len(weight)], 1)
        product = (gradients.t() @ inputs).to(weight.dtype).view(weight.shape)
        self._all = torch.empty(0)
        # The optimiser updates with one kernel only if both lie in memory alike.
        weight.grad = product if product.stride() == weight.stride() else torch.empty_like(weight).copy_(product)


_NUMBERS = count()
_LAYERS: WeakValueDictionary[int, Gathered] = WeakValueDictionary()


# Operators, because a compiled net cannot contain hooks.


@torch.library.custom_op(f"{NAMESPACE}::layer_output", mutates_args=())
def layer_output(y: Tensor, inputs: Tensor, number: int) -> Tensor:
    """Return a copy of the output of a layer; its gradient goes to `keep` of the layer with this number."""
    return y.clone()


@torch.library.custom_op(f"{NAMESPACE}::layer_gradient", mutates_args=())
def layer_gradient(gradient: Tensor, inputs: Tensor, number: int) -> Tensor:
    """Pass the gradient of an output, and the inputs, to a layer; return a copy of the gradient."""
    _LAYERS[number].keep(inputs, gradient)
    return gradient.clone()


@layer_output.register_fake
@layer_gradient.register_fake
def _(y: Tensor, inputs: Tensor, number: int) -> Tensor:
    return torch.empty_like(y)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.number = inputs[2]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return layer_gradient(gradient, *ctx.saved_tensors, ctx.number), None, None


layer_output.register_autograd(_backward, setup_context=_remember)


@contextmanager
def gathering(layers: Sequence[Gathered]) -> Iterator[None]:
    """Compute these layers by their `forward` while inside."""
    for each in layers:
        vars(each.layer)["forward"] = each.forward
    try:
        yield
    finally:
        for each in layers:
            del vars(each.layer)["forward"]


def worth_gathering(net: ConvNet, images: int, ranks: Ranks, precision: TestingPrecision) -> list[Gathered]:
    """Choose the layers of a net that are worth gathering for, last layers first: none within one machine.

    All ranks choose alike, and so does a resumed training unless all its ranks are now on one machine.

    Args:
        net: the net; frozen layers are never chosen.
        images: in the largest mini-batch, over all ranks.
        ranks: of this process.
        precision: that is computed in.
    """
    if ranks.world <= local_ranks():
        return []
    layers = [layer for layer in reversed(net.layers) if layer.kind == "conv" and layer.fully_connected]
    size = {layer.name: 2 if precision == "bf16" and layer.name != "fc8" else 4 for layer in layers}
    found = [(net.get_submodule(layer.name), size[layer.name]) for layer in layers]
    return [
        Gathered(layer, images, ranks)
        for layer, size in found
        if isinstance(layer, nn.Conv2d)
        and layer.weight.requires_grad
        and cheaper(layer.weight, images, ranks.device.type, size)
    ]


def cheaper(weight: Tensor, images: int, device: str, size: int) -> bool:
    """Whether gathering takes less time than adding the gradients of a layer.

    In a ring of R ranks, each rank receives (R - 1) / R of the numbers that are gathered, and twice that share of
    a sum. It also forms the gradient for that share of the images in addition to its own. So R does not matter.

    Args:
        weight: of the layer.
        images: in a mini-batch, over all ranks.
        device: kind of the devices that compute.
        size: bytes of a number that is gathered.
    """
    outputs, inputs = len(weight), weight[0].numel()
    gather = images * (size * (inputs + outputs) / NETWORK + 2 * inputs * outputs / ARITHMETIC.get(device, 1e12))
    add = 2 * 4 * inputs * outputs / NETWORK
    return gather < add
