"""How much memory a training needs, by arithmetic on its layers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from verydeep.configurations import Architecture, Layer, output_sides

PROCESS = 450 * 2**20
"""Bytes of a process besides the net: Python, PyTorch, and their buffers.

With this constant, estimates were within 15% of eleven measured peaks of 0.4 to 1.6 GiB: nets A, A-LRN and D on
a CPU, at crops of 64 to 224.
"""


@dataclass(frozen=True)
class _Unit:
    """A layer, or a convolution fused with its ReLU and pooling, for one mini-batch; all sizes in bytes."""

    layer: Layer
    taken: int
    """Its input."""
    given: int
    """Its output."""
    kept: int
    """What it keeps for the backward pass; its input is kept by the unit before."""
    pools: bool
    """Whether it ends with a pooling, and with it a block."""


def training_memory(
    net: Architecture,
    images: int,
    learns: Collection[str] = (),
    recompute: bool = False,
    bf16: bool = False,
    fused: bool = True,
) -> int:
    """Estimate the peak memory of a training, in bytes.

    With P parameters, of which L are trained, 4 P bytes of weights and 4 L of velocity are always held. At layer l
    of the backward pass, 4 bytes are held for each parameter whose gradient is done, and besides these the maps
    that the layers up to l have kept, and the gradients of the input and the output of l. The estimate is the
    maximum over l, or 4 P + 8 L and the largest trained layer once more (the weight decay of its gradient) if that
    is higher; plus `PROCESS`. A map of C x H x W takes 4 C H W bytes per image, or 2 C H W in bfloat16, for which
    the weights need 2 P bytes more.

    Args:
        net: the net.
        images: images that pass through the net at once: the micro-batch.
        learns: names of the layers that are trained; empty for all. Layers below the lowest keep nothing.
        recompute: activation checkpointing: keep the outputs of the poolings, and recompute a block at a time.
        bf16: whether maps are bfloat16.
        fused: whether the convolution engine fuses 3x3 convolutions with ReLU and pooling, and never keeps the
            map before the pooling.
    """
    convolutions = [layer for layer in net.layers if layer.kind == "conv"]
    trained = [layer for layer in convolutions if not learns or layer.name in learns]
    weights, velocity = 4 * net.parameters(), 4 * sum(layer.parameters for layer in trained)
    units = _units(net, images, 2 if bf16 else 4, fused)
    lowest = next((at for at, unit in enumerate(units) if unit.layer in trained), 0)
    units = units[lowest:]
    peak = gradients = 0
    for at in reversed(range(len(units))):
        unit = units[at]
        gradients += 4 * unit.layer.parameters * (unit.layer in trained)
        kept = _recomputed(units, at) if recompute else sum(each.kept for each in units[: at + 1])
        peak = max(peak, units[0].taken + kept + gradients + unit.given + unit.taken * (at > 0))
    largest = max(4 * layer.parameters for layer in trained)
    return PROCESS + weights + velocity + (weights // 2 if bf16 else 0) + max(peak, velocity + largest)


def _units(net: Architecture, images: int, number: int, fused: bool) -> list[_Unit]:
    """List what the backward pass passes through, in order; `number` is the bytes of a number in a map."""
    layers, sides = net.layers, output_sides(net.layers, net.crop)
    kinds = [layer.kind for layer in layers]
    units: list[_Unit] = []
    taken = number * images * 3 * net.crop**2
    at = 0
    while at < len(layers):
        last = at
        if fused and kinds[at] == "conv":
            last += kinds[at + 1 : at + 2] == ["relu"]
            last += layers[at].kernel == 3 and kinds[last + 1 : last + 2] == ["pool"]
        cells = images * layers[last].out_channels * sides[last] ** 2
        given = number * cells
        match kinds[last]:
            case "pool":  # and the place of each maximum: a byte in the engine, an int64 in torch
                kept = given + cells * (1 if last > at else 8)
            case "dropout":  # and the mask
                kept = 2 * given
            case "relu" if last == at:  # in place
                kept = 0
            case _:
                kept = given
        units.append(_Unit(layers[at], taken, given, kept, kinds[last] == "pool"))
        taken = given
        at = last + 1
    return units


def _recomputed(units: Sequence[_Unit], at: int) -> int:
    """Return the bytes that are kept at a unit of the backward pass if blocks are recomputed.

    Those are the outputs of the blocks below, and the maps of its own block up to the unit. The maps of the fully
    connected layers, which are not recomputed, have been freed before the first block is.
    """
    ends = [number for number, unit in enumerate(units[:at]) if unit.pools]
    start = ends[-1] + 1 if ends else 0
    return sum(units[number].given for number in ends) + sum(unit.kept for unit in units[start : at + 1])
