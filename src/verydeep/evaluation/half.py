"""Weights in half precision for the length of a testing pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from verydeep import engine
from verydeep.network import ConvNet


@contextmanager
def half_weights(net: ConvNet, kind: torch.dtype | None) -> Iterator[None]:
    """Give the convolutions weights of another type while inside, which autocast would convert at every call.

    The results are those of autocast, to the bit: fc8, which is computed in float32, keeps its weights, and so
    does a layer with anything attached. The net's parameters are put aside and come back as the same objects.

    Args:
        net: the net.
        kind: bfloat16 or float16, as autocast computes; None to change nothing.
    """
    aside: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for layer in net.layers if kind is not None else ():
            module = net.get_submodule(layer.name)
            if layer.name == "fc8" or not engine.plain(module):
                continue
            for name, parameter in list(module.named_parameters(recurse=False)):
                if isinstance(parameter, nn.Parameter) and parameter.dtype == torch.float32:
                    # Channels last is how GPUs convolve. fc6 on crops is a product, with the weights as rows.
                    last = parameter.ndim == 4 and not layer.fully_connected
                    layout = torch.channels_last if last else torch.preserve_format
                    half = parameter.detach().to(kind, memory_format=layout)
                    aside.append((module, name, parameter))
                    module.register_parameter(name, nn.Parameter(half, requires_grad=False))
        yield
    finally:
        for module, name, parameter in aside:
            module.register_parameter(name, parameter)
