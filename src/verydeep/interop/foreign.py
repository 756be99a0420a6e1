"""The common result of the readers of all formats, and its conversion to a net."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Any, Literal

import numpy as np
import torch

from verydeep.card import Card
from verydeep.configurations import CONFIGURATIONS, STRIDE, Architecture, Layer, scaled_channels
from verydeep.errors import UserError
from verydeep.interop.conventions import TORCHVISION, Convention
from verydeep.interop.unfolding import rounding
from verydeep.network import ConvNet
from verydeep.weights import assembled, not_finite

ROUNDING = "rounding"
"""What the provenance calls the bits of conv1_1 that folding lost, so that an export to torchvision has them."""

Order = Literal["CHW", "HWC"]
"""The order in which a map was flattened for the first fully connected layer."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """The weights of one layer."""

    weight: np.ndarray
    """Outputs x inputs x height x width."""
    bias: np.ndarray
    """One value per output."""

    def __post_init__(self) -> None:
        for array in (self.weight, self.bias):
            if array.dtype not in (np.float16, np.float32, np.float64):
                raise UserError(f"weights are of type {array.dtype}; float16, float32 or float64 is expected")
        if self.weight.ndim != 4 or self.bias.shape != self.weight.shape[:1]:
            raise UserError(
                f"a layer has weights of shape {self.weight.shape} and a bias of shape {self.bias.shape}; "
                "outputs x inputs x height x width and one bias per output are expected"
            )

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return len(self.weight)

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return int(self.weight.shape[1])

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.weight.shape[2:]
        return height, width

    def normalised(
        self, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray, variance: np.ndarray, *, epsilon: float
    ) -> "Kernel":
        """Fold a following batch normalisation, with fixed statistics, into this convolution.

        Raises:
            UserError: if the shapes do not match, or a variance is not positive.
        """
        for array in (scale, shift, mean, variance):
            if array.shape != self.bias.shape:
                raise UserError(f"a batch normalisation of shape {array.shape} follows {self.outputs} channels")
        deviation = np.sqrt(np.maximum(variance.astype(np.float64) + epsilon, 0))
        if not (deviation > 0).all():
            raise UserError("a batch normalisation has a variance that is not positive")
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # values that are not finite are refused later, with the layer's name
            factor = scale / deviation
            weight = self.weight * factor[:, None, None, None]
            bias = (self.bias - mean.astype(np.float64)) * factor + shift
            return Kernel(weight.astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Foreign:
    """Another system's net, in our layout."""

    format: str
    """The format of the file, in words."""
    convolutions: tuple[Kernel, ...]
    """All convolutions from conv1_1 on; the kernel of conv1_1 is for the other system's input convention."""
    fully_connected: tuple[Kernel, ...]
    """fc6, fc7 and fc8; empty if the file contains only convolutions."""
    convention: Convention
    kinds: tuple[str, ...] | None = None
    """Kinds of all layers in order, without dropouts and the soft-max; None if the file does not list them."""
    class_names: tuple[str, ...] | None = None
    folded: tuple[str, ...] = ()
    """Operations folded into the convolutions, besides the preprocessing."""


def flattened(weight: np.ndarray, channels: int, order: Order) -> np.ndarray:
    """Return the matrix of the first fully connected layer as a kernel.

    Args:
        weight: the matrix, outputs x inputs.
        channels: number of channels of the flattened map, which is square.
        order: how the map was flattened.

    Raises:
        UserError: if no square map with these channels has that many values.
    """
    if weight.ndim != 2:
        raise UserError(f"a fully connected layer has weights of shape {weight.shape}; a matrix is expected")
    outputs, inputs = weight.shape
    side = isqrt(inputs // max(1, channels))
    if channels < 1 or side < 1 or side * side * channels != inputs:
        raise UserError(
            f"the first fully connected layer has {inputs} inputs, which do not form a square map of the "
            f"{channels} channels of the last convolution"
        )
    if order == "CHW":
        return weight.reshape(outputs, channels, side, side)
    return weight.reshape(outputs, side, side, channels).transpose(0, 3, 1, 2)


def fully_connected(
    matrices: Sequence[tuple[np.ndarray, np.ndarray]], channels: int, order: Order
) -> tuple[Kernel, ...]:
    """Return fully connected layers as kernels.

    Args:
        matrices: weights (outputs x inputs) and bias of each layer, in order.
        channels: number of output channels of the last convolution.
        order: how its map was flattened.

    Raises:
        UserError: if the weights of a layer are not a matrix, or those of the first do not fit.
    """
    kernels = []
    for number, (weight, bias) in enumerate(matrices):
        if number and weight.ndim != 2:
            raise UserError(f"a fully connected layer has weights of shape {weight.shape}; a matrix is expected")
        made = weight[:, :, None, None] if number else flattened(weight, channels, order)
        kernels.append(Kernel(made, bias))
    return tuple(kernels)


def architecture_of(foreign: Foreign) -> Architecture:
    """Infer configuration, classes, width and crop from the shapes of the weights.

    Raises:
        UserError: if no net of Table 1 has these shapes; says where they differ.
    """
    _check_chain(foreign)
    sides = [kernel.sides[0] for kernel in foreign.convolutions]
    local = foreign.kinds is not None and "lrn" in foreign.kinds
    for name in CONFIGURATIONS:
        full = Architecture(name)
        layers = [layer for layer in full.layers if layer.kind == "conv" and not layer.fully_connected]
        if [layer.kernel for layer in layers] != sides or local != any(
            layer.kind == "lrn" for layer in full.layers
        ):
            continue
        width = _width(layers, foreign.convolutions)
        if width is None:
            continue
        found = _sized(name, width, foreign)
        _check_kinds(found, foreign.kinds)
        return found
    described = ", ".join(f"{kernel.sides[0]}-{kernel.outputs}" for kernel in foreign.convolutions)
    raise UserError(
        f"no net of Table 1 has these {len(sides)} convolutions ({described}); "
        f"{', '.join(CONFIGURATIONS)} are supported, with the channels of all layers multiplied by one width"
    )


def _sized(name: str, width: float, foreign: Foreign) -> Architecture:
    if not foreign.fully_connected:
        return Architecture(name, classes=0, width=width)
    fc6, fc7, fc8 = foreign.fully_connected
    if fc6.outputs != fc7.outputs:
        raise UserError(f"fc6 has {fc6.outputs} outputs and fc7 {fc7.outputs}; in Table 1 they are equal")
    return Architecture(
        name, classes=fc8.outputs, crop=fc6.sides[0] * STRIDE, width=width, fully_connected=fc6.outputs
    )


def _check_chain(foreign: Foreign) -> None:
    """Refuse kernels that are not square, or whose inputs are not the outputs of the layer before."""
    if len(foreign.fully_connected) not in (0, 3):
        raise UserError(
            f"it has {len(foreign.fully_connected)} fully connected layers; three are expected, or none"
        )
    channels = 3
    for number, kernel in enumerate((*foreign.convolutions, *foreign.fully_connected), start=1):
        height, width = kernel.sides
        if kernel.inputs != channels:
            raise UserError(f"weight layer {number} takes {kernel.inputs} channels, but its input has {channels}")
        if height != width or not height:
            raise UserError(f"weight layer {number} has a {height} x {width} kernel; a square one is expected")
        channels = kernel.outputs
    for name, kernel in zip(("fc7", "fc8"), foreign.fully_connected[1:], strict=False):
        if kernel.sides != (1, 1):
            raise UserError(f"{name} has a {kernel.sides[0]} x {kernel.sides[1]} kernel; 1 x 1 is expected")


def _width(layers: Sequence[Layer], kernels: Sequence[Kernel]) -> float | None:
    """Return the simplest multiplier of Table 1's channels that gives those of the kernels; None if none does."""
    low, high = Fraction(0), Fraction(16)
    for layer, kernel in zip(layers, kernels, strict=True):
        low = max(low, Fraction(2 * kernel.outputs - 1, 2 * layer.out_channels))
        high = min(high, Fraction(2 * kernel.outputs + 1, 2 * layer.out_channels))
    for denominator in range(1, 2049):
        simplest = Fraction(-(-low * denominator // 1), denominator)
        fits = [
            scaled_channels(layer.out_channels, float(simplest)) == kernel.outputs
            for layer, kernel in zip(layers, kernels, strict=True)
        ]
        if simplest and simplest <= high and all(fits):
            return float(simplest)
    return None


def _check_kinds(architecture: Architecture, kinds: Sequence[str] | None) -> None:
    """Refuse layers that are not in the order of the architecture."""
    if kinds is None:
        return
    wanted = [layer for layer in architecture.layers if layer.kind != "dropout"]
    name = architecture.configuration
    for layer, kind in zip(wanted, kinds, strict=False):
        if layer.kind != kind:
            raise UserError(f"there is a layer of kind {kind} where net {name} has {layer.name}")
    if len(kinds) > len(wanted):
        raise UserError(f"a layer of kind {kinds[len(wanted)]} follows the last one of net {name}")
    # Without fully connected layers the last pooling may be left out, too.
    missing = wanted[len(kinds) :]
    if missing and not (architecture.classes == 0 and [layer.kind for layer in missing] == ["pool"]):
        raise UserError(f"{missing[0].name} of net {name} is missing")


def net_of(foreign: Foreign, provenance: dict[str, Any]) -> ConvNet:
    """Return the net, in evaluation mode, for raw RGB in 0..255.

    Args:
        foreign: the result of a reader.
        provenance: where the weights come from; stored in the card, together with what was folded.

    Raises:
        UserError: if it is not a net of Table 1, or a weight is not finite.
    """
    architecture = architecture_of(foreign)
    names = foreign.class_names
    if names is not None and len(names) != architecture.classes:
        raise UserError(f"the file names {len(names)} classes; the last layer has {architecture.classes} outputs")
    layers = [layer for layer in architecture.layers if layer.kind == "conv"]
    tensors = {"mean": torch.tensor(foreign.convention.mean, dtype=torch.float32)}
    for layer, kernel in zip(layers, (*foreign.convolutions, *foreign.fully_connected), strict=True):
        weight = foreign.convention.folded(kernel.weight) if layer.name == "conv1_1" else kernel.weight
        tensors[f"{layer.name}.weight"] = torch.from_numpy(_owned(weight))
        tensors[f"{layer.name}.bias"] = torch.from_numpy(_owned(kernel.bias))
    if bad := not_finite(tensors):
        raise UserError(f"{bad} holds values that are not finite")
    provenance = {**provenance, "format": foreign.format}
    provenance["folded"] = [foreign.convention.sentence(), *foreign.folded]
    first = foreign.convolutions[0].weight
    if foreign.convention == TORCHVISION and first.dtype == np.float32 and (lost := rounding(TORCHVISION, first)):
        provenance[ROUNDING] = lost
    card = Card(architecture, names, provenance=provenance)
    return assembled(card, tensors)


def _owned(array: np.ndarray) -> np.ndarray:
    """Return a contiguous, writable float32 array in native byte order; a copy unless it already is one."""
    with np.errstate(over="ignore"):  # values that become infinite are refused later, with the tensor's name
        return np.require(array, np.float32, ["C", "W", "A"])
