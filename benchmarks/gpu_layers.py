"""Each convolutional layer of net D on one NVIDIA GPU, against the roofline: 256 crops in bfloat16.

The floor of a layer is the larger of two times: its operations at the speed of a large matrix product on this
GPU, and its least memory traffic at the speed of a large copy. Both speeds are measured first. Forward is
convolution, bias, ReLU and pooling: it reads the input and the weights, and writes the output and the winners of a
pooling. Backward is the gradients of weights, bias and input: it reads the output (or the winners), its gradient
and the input, and writes the gradient of the input. Next to it the same layers in eager torch, with channels last.

    python benchmarks/gpu_layers.py
"""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from claims import Observation, destination, options, record
from gpu_machine import ceilings, device_for, milliseconds, versions
from verydeep.configurations import Architecture, output_sides
from verydeep.engine.operators import convolution_backward, convolution_for_training

COLUMNS = ("verydeep", "floor", "eager torch")

SIZE = 2
"""Bytes of a number in bfloat16."""


@dataclass(frozen=True)
class Shape:
    """A convolution with ReLU, and whether a pooling follows."""

    name: str
    inputs: int
    outputs: int
    side: int
    pool: bool

    def floors(self, images: int, flops: float, bandwidth: float) -> tuple[float, float]:
        """Return the least milliseconds of forward and backward, at that many TFLOP/s and TB/s."""
        pixels = images * self.side**2
        operations = 2 * pixels * self.inputs * self.outputs * 9
        x, weights = pixels * self.inputs * SIZE, self.inputs * self.outputs * 9 * SIZE
        whole = pixels * self.outputs * SIZE
        # A pooling leaves a quarter, and as many bytes of winners.
        y, kept = (whole / 4, whole / 4 / SIZE) if self.pool else (whole, 0)
        first = self.inputs == 3  # whose input needs no gradient
        forward = max(operations / flops, (x + weights + y + kept) / bandwidth)
        reads = y + (kept if self.pool else y) + x + weights
        backward = max(
            (1 if first else 2) * operations / flops, (reads + weights + (0 if first else x)) / bandwidth
        )
        return forward / 1e9, backward / 1e9


def shapes(architecture: Architecture) -> list[Shape]:
    """Return the convolutional layers of a net."""
    layers = architecture.layers
    sides = list(output_sides(layers, architecture.crop))
    return [
        Shape(layer.name, layer.in_channels, layer.out_channels, sides[at], layers[at + 2].kind == "pool")
        for at, layer in enumerate(layers)
        if layer.kind == "conv" and not layer.fully_connected
    ]


def maps(shape: Shape, images: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return a random input, weights and bias."""
    kind = torch.bfloat16
    x = torch.randn(images, shape.inputs, shape.side, shape.side, device=device).to(kind)
    weight = (torch.randn(shape.outputs, shape.inputs, 3, 3, device=device) / (9 * shape.inputs) ** 0.5).to(kind)
    bias = torch.randn(shape.outputs, device=device).to(kind)
    return (
        x.contiguous(memory_format=torch.channels_last),
        weight.contiguous(memory_format=torch.channels_last),
        bias,
    )


def ours(shape: Shape, images: int, device: torch.device) -> tuple[float, float]:
    """Return the milliseconds of forward and backward by the engine's operators."""
    x, weight, bias = maps(shape, images, device)
    forward = milliseconds(lambda: convolution_for_training(x, weight, bias, True, shape.pool), device)
    y, winners = convolution_for_training(x, weight, bias, True, shape.pool)
    gradient, inputs = torch.randn_like(y), shape.inputs != 3
    arguments = (gradient, x, weight, winners if shape.pool else y, winners, True, shape.pool, inputs, True)
    return forward, milliseconds(lambda: convolution_backward(*arguments), device)


def eager(shape: Shape, images: int, device: torch.device) -> tuple[float, float]:
    """Return the same by torch's own operators."""
    x, weight, bias = (each.requires_grad_() for each in maps(shape, images, device))
    x.requires_grad_(shape.inputs != 3)

    def layer() -> Tensor:
        y = F.relu(F.conv2d(x, weight, bias, padding=1), inplace=True)
        return F.max_pool2d(y, 2) if shape.pool else y

    with torch.no_grad():
        forward = milliseconds(layer, device)
    y = layer()
    gradient = torch.randn_like(y)
    wanted = [each for each in (x, weight, bias) if each.requires_grad]
    return forward, milliseconds(lambda: torch.autograd.grad(y, wanted, gradient, retain_graph=True), device)


def main() -> int:
    arguments = options(__doc__, "gpu_layers").parse_args()
    device = device_for(arguments.smoke)
    torch.backends.cudnn.benchmark = True
    images = 2 if arguments.smoke else 256
    small = {"crop": 32, "width": 1 / 16} if arguments.smoke else {}
    size = {"side": 64, "numbers": 2**16} if arguments.smoke else {}
    flops, bandwidth = ceilings(device, **size)
    seen = [
        Observation("ceiling: matrix product in bfloat16", round(flops, 1), "TFLOP/s"),
        Observation("ceiling: copy, read and written", round(bandwidth, 3), "TB/s"),
    ]
    rows = []
    totals = {way: [0.0, 0.0, 0.0] for way in ("forward", "backward")}
    for shape in shapes(Architecture("D", **small)):  # type: ignore[arg-type]
        floors = shape.floors(images, flops, bandwidth)
        times, others = ours(shape, images, device), eager(shape, images, device)
        for way, *three in zip(totals, times, floors, others, strict=True):
            time, floor, other = three
            what = f"{shape.name}, {way}"
            print(f"{what}: {time:.3f} ms, floor {floor:.3f}, eager torch {other:.3f}", flush=True)
            rows.append({"layer": what, **dict(zip(COLUMNS, (round(each, 4) for each in three), strict=True))})
            seen.append(Observation(f"{what}: time relative to its floor", round(time / floor, 3), "times"))
            totals[way] = [a + b for a, b in zip(totals[way], three, strict=True)]
    for way, three in totals.items():
        peers = dict(zip(COLUMNS, (round(each, 3) for each in three), strict=True))
        seen.append(Observation(f"all convolutional layers, {way}", peers["verydeep"], "ms", peers))
    details = {"images": images, "milliseconds": rows}
    return record(destination(arguments), [], seen, versions=versions(), details=details)


if __name__ == "__main__":
    sys.exit(main())
