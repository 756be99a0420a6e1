"""Write a net as a state dict of torchvision's VGG: `features.N` and `classifier.N`.

torchvision's models take RGB in 0..1, normalised with a mean and a standard deviation. A net with torchvision's
mean colour is written for torchvision's own normalisation: the standard deviation is taken out of conv1_1 again.
With any other mean colour, no weights would be exact: images are padded after their normalisation, so a bias of
conv1_1 that makes up for the difference would be wrong at the borders. Such a net is written for its own mean and
a standard deviation of 1 / 255, as torchvision's IMAGENET1K_FEATURES are.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verydeep.configurations import STRIDE
from verydeep.errors import UserError
from verydeep.interop.conventions import TORCHVISION
from verydeep.interop.foreign import ROUNDING
from verydeep.interop.torchvision import METADATA
from verydeep.interop.unfolding import restored
from verydeep.network import ConvNet
from verydeep.weights import not_finite

NAMES = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
"""torchvision's name of each configuration."""

AVERAGE_SIDE, CONNECTED = 7, 4096
"""Side of the map that torchvision's average pooling returns, and width of its hidden fully connected layers."""


def normalisation(net: ConvNet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of the normalisation that the exported model expects."""
    if _has_their_mean(net):
        return _of_255(TORCHVISION.mean), _of_255(TORCHVISION.std)
    return _of_255(net.mean.tolist()), (1 / 255,) * 3


def state_dict(net: ConvNet) -> "OrderedDict[str, Tensor]":
    """Return a net as a state dict of torchvision.

    Raises:
        UserError: if torchvision has no model of its configuration, or a weight is not finite in torchvision's
            convention.
    """
    _name(net)
    state: OrderedDict[str, Tensor] = OrderedDict()
    number, group = 0, "features"
    for layer in net.layers:
        if layer.name == "fc6":
            number, group = 0, "classifier"
        if layer.kind == "conv":
            module = net.get_submodule(layer.name)
            weight, bias = (module.get_parameter(name).detach().contiguous() for name in ("weight", "bias"))
            if layer.name == "conv1_1" and _has_their_mean(net):
                recorded = net.card.provenance.get(ROUNDING)
                weight = torch.from_numpy(restored(TORCHVISION, weight.numpy(), recorded))
            state[f"{group}.{number}.weight"] = weight.flatten(1) if layer.fully_connected else weight
            state[f"{group}.{number}.bias"] = bias
        number += 1
    if bad := not_finite(state):
        raise UserError(f"{bad} is not finite in torchvision's convention")
    own: dict[str, Any] = {} if _has_their_mean(net) else {"mean": net.mean.tolist()}
    if net.class_names:
        own["classes"] = list(net.class_names)
    # Where torch itself keeps the versions of layers; loading a state dict ignores other entries.
    state._metadata = OrderedDict({"": {"version": 1, METADATA: own}})  # type: ignore[attr-defined]
    return state


def write(net: ConvNet, path: Path) -> None:
    """Write the state dict of a net with torch.save, to a path that nothing else reads yet.

    Errors are those of `state_dict`.
    """
    state = state_dict(net)
    with path.open("wb") as file:
        torch.save(state, file)


def described(net: ConvNet) -> tuple[str, ...]:
    """Return in words which model loads the state dict, and which normalisation it needs."""
    made = net.architecture
    name, side, hidden = _name(net), made.crop // STRIDE, made.fully_connected
    if made.classes:
        lines = [f"model: torchvision.models.{name}(num_classes={made.classes})"]
    else:
        lines = [f"model: the features of torchvision.models.{name}(), by load_state_dict(..., strict=False)"]
    if made.width != 1:
        lines.append(f"its convolutions have {made.width:g} times the channels of torchvision's")
    if made.classes and (made.width, side, hidden) != (1, AVERAGE_SIDE, CONNECTED):
        inputs = net.get_parameter("fc6.weight")[0].numel()
        lines.append(
            f"its avgpool is AdaptiveAvgPool2d({side}); classifier.0 is Linear({inputs}, {hidden}), classifier.3 "
            f"Linear({hidden}, {hidden}), classifier.6 Linear({hidden}, {made.classes})"
        )
    mean, std = ([float(f"{value:.9g}") for value in values] for values in normalisation(net))
    lines.append(f"input: Normalize(mean={mean}, std={std}) of RGB in 0..1")
    return tuple(lines)


def _name(net: ConvNet) -> str:
    if net.configuration.name not in NAMES:
        raise UserError(
            f"torchvision has no net {net.configuration.name}, only {', '.join(NAMES)}; export to .onnx or .pt2"
        )
    return NAMES[net.configuration.name]


def _has_their_mean(net: ConvNet) -> bool:
    return torch.equal(net.mean, torch.tensor(TORCHVISION.mean, dtype=net.mean.dtype))


def _of_255(values: tuple[float, ...] | list[float]) -> tuple[float, ...]:
    return tuple(value / 255 for value in values)
