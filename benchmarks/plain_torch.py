"""A net of the paper in plain torch, as most people would write it: the peer for measurements.

It needs only torch, and uses the weights of a `verydeep.ConvNet` by name, so that both compute the same.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn


class Centred(nn.Module):
    """Subtract the mean colour; the result has the precision and memory layout of the net."""

    mean: Tensor

    def __init__(self, mean: Tensor, layout: torch.memory_format) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("mean", mean.detach().clone().view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Subtract the mean colour from images (N, 3, H, W) in 0..255; the shape stays."""
        return (images.to(self.mean.dtype) - self.mean).contiguous(memory_format=self.layout)


def pooled(weights: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return the names of a net's convolutional layers in order, and whether a pooling follows each."""
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    return {
        name: name.partition("_")[0] != following.partition("_")[0]
        for name, following in pairwise(names)
        if name.startswith("conv")
    }


def plain_torch(
    weights: Mapping[str, Tensor], dense: bool = False, layout: torch.memory_format = torch.contiguous_format
) -> nn.Sequential:
    """Build a net without local response normalisation, in training mode; `eval()` turns its dropout off.

    Args:
        weights: state dict of a `verydeep.ConvNet`; copied.
        dense: whether the net accepts images larger than the crop: then fc6 to fc8 are convolutions, and scores
            are averaged over positions; otherwise they are matrix products.
        layout: memory layout of weights, pixels and maps.

    Returns:
        A net from images (N, 3, H, W) in 0..255 to class scores (N, classes).
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
