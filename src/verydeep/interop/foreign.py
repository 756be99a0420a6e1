"""What the readers of all formats return, and the net that it becomes."""

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
from verydeep.interop.conventions import Convention
from verydeep.network import ConvNet
from verydeep.weights import assembled, not_finite

Order = Literal["CHW", "HWC"]
"""How a map was flattened for the first fully connected layer."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """Weights of one layer."""

    weight: np.ndarray
    """Outputs x inputs x height x width."""
    bias: np.ndarray
    """One value per output."""

    def __post_init__(self) -> None:
        for array in (self.weight, self.bias):
            if array.dtype not in (np.float16, np.float32, np.float64):
                raise UserError(f"weights are of type {array.dtype}; float16, float32 and float64 are read")
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
        """This convolution followed by batch normalisation with fixed statistics, as one convolution."""
        for array in (scale, shift, mean, variance):
            if array.shape != self.bias.shape:
                raise UserError(f"batch normalisation of shape {array.shape} follows {self.outputs} channels")
        deviation = np.sqrt(np.maximum(variance.astype(np.float64) + epsilon, 0))
        if not (deviation > 0).all():
            raise UserError("a batch normalisation has a variance that is not positive")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the layer's name
            factor = scale / deviation
            weight = self.weight * factor[:, None, None, None]
            bias = (self.bias - mean.astype(np.float64)) * factor + shift
            return Kernel(weight.astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Foreign:
    """A net of another system, in our layout."""

    format: str
    """What the file is, in words."""
    convolutions: tuple[Kernel, ...]
    """From conv1_1 on, with its kernel as the other system has it."""
    fully_connected: tuple[Kernel, ...]
    """fc6, fc7 and fc8; empty if the file holds convolutions alone."""
    convention: Convention
    kinds: tuple[str, ...] | None = None
    """Kinds of all layers in order, dropouts and the soft-max left out; None if the file does not list them."""
    class_names: tuple[str, ...] | None = None
    folded: tuple[str, ...] = ()
    """What was folded into the convolutions, besides the preprocessing."""


def flattened(weight: np.ndarray, channels: int, order: Order) -> np.ndarray:
    """The matrix of a first fully connected layer as a kernel.

    Args:
        weight: outputs x inputs.
        channels: of the map that was flattened, which is square.
        order: how it was flattened.

    Raises:
        UserError: if no square map of these channels has that many inputs.
    """
    if weight.ndim != 2:
        raise UserError(f"a fully connected layer has weights of shape {weight.shape}; a matrix is expected")
    outputs, inputs = weight.shape
    side = isqrt(inputs // max(1, channels))
    if channels < 1 or side < 1 or side * side * channels != inputs:
        raise UserError(
            f"the first fully connected layer has {inputs} inputs, which are not a square map of the {channels} "
            "channels of the last convolution"
        )
    if order == "CHW":
        return weight.reshape(outputs, channels, side, side)
    return weight.reshape(outputs, side, side, channels).transpose(0, 3, 1, 2)


def fully_connected(
    matrices: Sequence[tuple[np.ndarray, np.ndarray]], channels: int, order: Order
) -> tuple[Kernel, ...]:
    """Fully connected layers as kernels.

    Args:
        matrices: weights (outputs x inputs) and bias of each, in order.
        channels: of the last convolution.
        order: how its map was flattened.
    """
    kernels = []
    for number, (weight, bias) in enumerate(matrices):
        if number and weight.ndim != 2:
            raise UserError(f"a fully connected layer has weights of shape {weight.shape}; a matrix is expected")
        made = weight[:, :, None, None] if number else flattened(weight, channels, order)
        kernels.append(Kernel(made, bias))
    return tuple(kernels)


def architecture_of(foreign: Foreign) -> Architecture:
    """Find configuration, classes, width and crop by the shapes of the weights.

    Raises:
        UserError: if they are those of no net of Table 1; says where they differ.
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
        f"{len(sides)} convolutions ({described}) are those of no net of Table 1; "
        f"{', '.join(CONFIGURATIONS)} are read, with the channels of all layers multiplied by one width"
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
    """Refuse kernels that are not square, or do not take what the layer before gives."""
    if len(foreign.fully_connected) not in (0, 3):
        raise UserError(f"{len(foreign.fully_connected)} fully connected layers; three are expected, or none")
    channels = 3
    for number, kernel in enumerate((*foreign.convolutions, *foreign.fully_connected), start=1):
        height, width = kernel.sides
        if kernel.inputs != channels:
            raise UserError(
                f"weight layer {number} takes {kernel.inputs} channels; the one before gives {channels}"
            )
        if height != width or not height:
            raise UserError(f"weight layer {number} has a {height} x {width} kernel; square ones are expected")
        channels = kernel.outputs
    for name, kernel in zip(("fc7", "fc8"), foreign.fully_connected[1:], strict=False):
        if kernel.sides != (1, 1):
            raise UserError(f"{name} has a {kernel.sides[0]} x {kernel.sides[1]} kernel; 1 x 1 is expected")


def _width(layers: Sequence[Layer], kernels: Sequence[Kernel]) -> float | None:
    """The simplest multiplier of Table 1's channels that gives those of the kernels; None if there is none."""
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
    """Refuse layers in another order than the architecture has."""
    if kinds is None:
        return
    wanted = [layer for layer in architecture.layers if layer.kind != "dropout"]
    name = architecture.configuration
    for layer, kind in zip(wanted, kinds, strict=False):
        if layer.kind != kind:
            raise UserError(f"a layer of kind {kind} is where net {name} has {layer.name}")
    if len(kinds) > len(wanted):
        raise UserError(f"a layer of kind {kinds[len(wanted)]} follows the last one of net {name}")
    # Without fully connected layers the last pooling may be left out, too.
    missing = wanted[len(kinds) :]
    if missing and not (architecture.classes == 0 and [layer.kind for layer in missing] == ["pool"]):
        raise UserError(f"{missing[0].name} of net {name} is missing")


def net_of(foreign: Foreign, provenance: dict[str, Any]) -> ConvNet:
    """The net, in evaluation mode, for raw RGB in 0..255.

    Args:
        foreign: what was read.
        provenance: where from; the card has it, with what was folded.

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
    folded = [foreign.convention.sentence(), *foreign.folded]
    card = Card(architecture, names, provenance={**provenance, "format": foreign.format, "folded": folded})
    return assembled(card, tensors)


def _owned(array: np.ndarray) -> np.ndarray:
    """A contiguous, writable float32 array in the machine's byte order; a copy unless it is one already."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused by name
        return np.require(array, np.float32, ["C", "W", "A"])
