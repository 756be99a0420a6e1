"""Sect. 2: the ConvNet configurations of Table 1 as data, and sizes computed from them.

Nothing here needs torch: a configuration is a list of layers, and parameters (Table 2), multiply-adds and
receptive fields are sums over that list. `verydeep.network` builds a net from the same list.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, SupportsFloat, TypedDict, Unpack

from verydeep.errors import UserError

TABLE_1 = {
    "A": "3-64 | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "A-LRN": "3-64 LRN | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "B": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "C": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 1-256 | 3-512 3-512 1-512 | 3-512 3-512 1-512",
    "D": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 | 3-512 3-512 3-512 | 3-512 3-512 3-512",
    "E": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 3-256 | 3-512 3-512 3-512 3-512 | 3-512 3-512 3-512 3-512",
    "B-5x5": "5-64 | 5-128 | 5-256 | 5-512 | 5-512",
}
"""Table 1, one entry per column. "k-n" is a k x k convolution with n channels, stride 1 and a ReLU; "LRN" is a
local response normalisation; each "|", and the end, is a 2 x 2 max-pooling with stride 2. FC-4096, FC-4096 and
FC-classes follow in all of them. B-5x5 is the shallow net of Sect. 4.1: B with each pair of 3 x 3 layers replaced
by one 5 x 5 layer with the same receptive field."""

POOLINGS = 5
STRIDE: int = 2**POOLINGS
"""Distance between neighbouring cells of the score map, in pixels of the image."""

Kind = Literal["conv", "relu", "lrn", "pool", "dropout"]


@dataclass(frozen=True)
class Layer:
    """One layer, under its usual name: conv3_2, relu3_2, lrn1_1, pool3, fc6, relu6, drop6.

    The fully connected layers are convolutions (Sect. 3.2): fc6 has a kernel of the size of the last feature map,
    fc7 and fc8 one of 1 x 1. `padding` preserves the resolution in the convolutional part and is 0 in fc6 to fc8.
    """

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.out_channels * (self.in_channels * self.kernel**2 + 1) if self.kind == "conv" else 0

    def multiply_adds(self, side: int) -> int:
        """Return the number of multiply-adds for an output of side x side cells."""
        weights = self.kernel**2 * self.in_channels * self.out_channels
        return side**2 * weights if self.kind == "conv" else 0

    @property
    def fully_connected(self) -> bool:
        """Whether it is fc6, fc7 or fc8."""
        return self.name.startswith("fc")


@dataclass(frozen=True)
class ReceptiveField:
    """What one unit of a layer's output sees: a square of `size` pixels, `stride` pixels from its neighbour's."""

    size: int
    stride: int


class Sizes(TypedDict, total=False):
    """Optional sizes of an `Architecture`, by name."""

    crop: int
    width: float
    fully_connected: int
    dropout: float


@dataclass(frozen=True)
class Configuration:
    """A column of Table 1."""

    name: str
    column: str

    @property
    def weight_layers(self) -> int:
        """Number of layers with weights, as at the head of Table 1's columns: 11 to 19."""
        return sum(word != "LRN" for word in self.column.replace("|", " ").split()) + 3

    def architecture(self, classes: int = 1000, **sizes: Unpack[Sizes]) -> "Architecture":
        """Return a net of this column; for sizes and errors see `Architecture`."""
        return Architecture(self.name, classes, **sizes)

    def parameters(self, classes: int = 1000) -> int:
        """Return the exact number of weights and biases at full size (Table 2)."""
        return self.architecture(classes).parameters()

    def multiply_adds(self, classes: int = 1000) -> int:
        """Return the multiply-adds of all convolutional and fully connected layers at full size, for one crop."""
        return self.architecture(classes).multiply_adds()

    def receptive_fields(self) -> dict[str, ReceptiveField]:
        """Return the receptive field of every layer at full size, by name, in pixels of the image (Sect. 2.3)."""
        return self.architecture().receptive_fields()


CONFIGURATIONS = {name: Configuration(name, column) for name, column in TABLE_1.items()}
"""Every net of the paper, by name."""


def configuration(name: str) -> Configuration:
    """Look up a configuration by its name.

    Raises:
        UserError: if the name is not in `TABLE_1`.
    """
    if not isinstance(name, str) or name not in CONFIGURATIONS:
        raise UserError(f"configuration {name!r} is not known; choose one of {', '.join(CONFIGURATIONS)}")
    return CONFIGURATIONS[name]


@dataclass(frozen=True)
class Architecture:
    """A net of Table 1 with its sizes: everything that determines the shapes of its layers.

    Raises:
        UserError: if the configuration is unknown or a size is out of range.
    """

    configuration: str
    """A, A-LRN, B, C, D, E or B-5x5."""
    classes: int = 1000
    """Channels of fc8; 0 for a feature net, which ends at pool5 and has no fully connected layers."""
    crop: int = 224
    """Side of the square training crop in pixels, a multiple of 32, and of the smallest image the net accepts."""
    width: float = 1.0
    """Multiplier for the channels of all convolutional layers."""
    fully_connected: int = 4096
    """Channels of fc6 and fc7."""
    dropout: float = 0.5
    """Ratio of the units of relu6 and relu7 that are dropped in training."""

    def __post_init__(self) -> None:
        configuration(self.configuration)
        for name in ("classes", "crop", "fully_connected"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        for name in ("width", "dropout"):
            object.__setattr__(self, name, real_number(name, getattr(self, name)))
        if self.crop < STRIDE or self.crop % STRIDE:
            raise UserError(
                f"crop is {self.crop} pixels; it must be a positive multiple of {STRIDE}, because five poolings "
                f"halve it; try {max(1, round(self.crop / STRIDE)) * STRIDE}"
            )
        if not 0 < self.width <= 16:  # also refuses NaN
            raise UserError(f"width is {self.width}; it multiplies the channels of Table 1 and must be in (0, 16]")
        for name, least in (("classes", 0), ("fully_connected", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; it is the ratio of units dropped, in [0, 1)")

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers from the image to the class scores, or to pool5 of a feature net, in order."""
        layers: list[Layer] = []
        channels = 3
        for block, words in enumerate(CONFIGURATIONS[self.configuration].column.split("|"), start=1):
            number = 0
            for word in words.split():
                if word == "LRN":
                    layers.append(Layer(f"lrn{block}_{number}", "lrn", channels, channels))
                    continue
                number += 1
                kernel, full = map(int, word.split("-"))
                out = scaled_channels(full, self.width)
                layers.append(Layer(f"conv{block}_{number}", "conv", channels, out, kernel, padding=kernel // 2))
                layers.append(Layer(f"relu{block}_{number}", "relu", out, out))
                channels = out
            layers.append(Layer(f"pool{block}", "pool", channels, channels, kernel=2, stride=2))
        if not self.classes:
            return tuple(layers)
        hidden = self.fully_connected
        for name, kernel in (("6", self.crop // STRIDE), ("7", 1)):
            layers.append(Layer(f"fc{name}", "conv", channels, hidden, kernel))
            layers.append(Layer(f"relu{name}", "relu", hidden, hidden))
            layers.append(Layer(f"drop{name}", "dropout", hidden, hidden))
            channels = hidden
        layers.append(Layer("fc8", "conv", channels, self.classes))
        return tuple(layers)

    def parameters(self) -> int:
        """Return the number of weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    def multiply_adds(self) -> int:
        """Return the multiply-adds of all convolutional and fully connected layers for one crop."""
        sides = output_sides(self.layers, self.crop)
        return sum(layer.multiply_adds(side) for layer, side in zip(self.layers, sides, strict=True))

    def receptive_fields(self) -> dict[str, ReceptiveField]:
        """Return the receptive field of every layer by name, in pixels of the image (Sect. 2.3)."""
        size, stride = 1, 1
        fields = {}
        for layer in self.layers:
            size += (layer.kernel - 1) * stride
            stride *= layer.stride
            fields[layer.name] = ReceptiveField(size, stride)
        return fields


def scaled_channels(channels: int, width: float) -> int:
    """Multiply the channels of a layer of Table 1 by a width: rounded half up, at least 1."""
    return max(1, int(channels * width + 0.5))


def output_sides(layers: Sequence[Layer], side: int) -> list[int]:
    """Return the side of each layer's output for an image of this side; poolings drop an incomplete window."""
    sides = []
    for layer in layers:
        side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        sides.append(side)
    return sides


def whole_number(name: str, value: object) -> int:
    """Return a size as a Python integer.

    Raises:
        UserError: if it is not a whole number; the message says its name.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise UserError(f"{name} is {value!r}; it must be a whole number")


def real_number(name: str, value: object) -> float:
    """Return a size as a Python float.

    Raises:
        UserError: if it is not a number; the message says its name.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise UserError(f"{name} is {value!r}; it must be a number")
    return float(value)
