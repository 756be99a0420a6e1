"""A net of the paper in plain torch, as most people would write it: the peer that nets are measured beside.

It needs torch alone and takes the weights of a `verydeep.ConvNet` by their names, so that both compute the same.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn


class Centred(nn.Module):
    """Pixels less the mean colour, in the precision of the net and laid out in memory as it wants them."""

    mean: Tensor

    def __init__(self, mean: Tensor, layout: torch.memory_format) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("mean", mean.detach().clone().view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..255 to the same shape."""
        return (images.to(self.mean.dtype) - self.mean).contiguous(memory_format=self.layout)


def pooled(weights: Mapping[str, Tensor]) -> dict[str, bool]:
    """The convolutional layers of a net, in order, each with whether a pooling follows: the last of its block."""
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    return {
        name: name.partition("_")[0] != following.partition("_")[0]
        for name, following in pairwise(names)
        if name.startswith("conv")
    }


def plain_torch(
    weights: Mapping[str, Tensor], dense: bool = False, layout: torch.memory_format = torch.contiguous_format
) -> nn.Sequential:
    """A net without local response normalisation, ready for training; `eval()` turns its dropout off.

    Args:
        weights: state dict of a `verydeep.ConvNet`; copied.
        dense: whether it takes images larger than the crop: fc6 to fc8 are convolutions then and scores are
            averaged over positions, else they are matrix products.
        layout: in which weights, pixels and maps lie in memory.

    Returns:
        From images (N, 3, H, W) in 0..255 to class scores (N, classes).
    """
    layers: list[nn.Module] = [Centred(weights["mean"], layout)]

    def add(layer: nn.Conv2d | nn.Linear, name: str) -> None:
        weight = weights[f"{name}.weight"].detach().clone(memory_format=torch.contiguous_format)
        layer.weight = nn.Parameter(weight.view(layer.weight.shape))
        layer.bias = nn.Parameter(weights[f"{name}.bias"].detach().clone())
        layers.append(layer)

    for name, pool in pooled(weights).items():
        outputs, inputs, side, _ = weights[f"{name}.weight"].shape
        add(nn.Conv2d(inputs, outputs, side, padding=side // 2, device="meta"), name)
        layers.append(nn.ReLU(inplace=True))
        layers += [nn.MaxPool2d(2)] if pool else []
    if not dense:
        layers.append(nn.Flatten())
    for name in ("fc6", "fc7", "fc8"):
        outputs, inputs, side, _ = weights[f"{name}.weight"].shape
        if dense:
            add(nn.Conv2d(inputs, outputs, side, device="meta"), name)
        else:
            add(nn.Linear(inputs * side**2, outputs, device="meta"), name)
        layers += [] if name == "fc8" else [nn.ReLU(inplace=True), nn.Dropout(0.5)]
    if dense:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers)
    return net.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]
