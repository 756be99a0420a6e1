"""Check an exported file: run it at three sizes, and compare it with the net itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from verydeep.configurations import STRIDE
from verydeep.errors import UserError
from verydeep.network import ConvNet

Outputs: TypeAlias = Callable[[Tensor], dict[str, Tensor]]
"""Returns outputs by name for raw RGB images in 0..255, float32, N x 3 x H x W."""

WORST = 1e-3
"""The largest relative difference that rounding explains."""


@dataclass(frozen=True)
class Check:
    """The comparison of a file with its net."""

    runtime: str
    """What computed the file's outputs, with its version."""
    sizes: tuple[tuple[int, int, int], ...]
    """Number, height and width of the images."""
    difference: float
    """The largest difference of a value, relative to the largest value of its output."""

    def __str__(self) -> str:
        sizes = ", ".join(" x ".join(map(str, size)) for size in self.sizes)
        return f"checked in {self.runtime} at {sizes}: largest relative difference {self.difference:.1e}"


def checked(net: ConvNet, runtime: str, run: Outputs) -> Check:
    """Compare a file with its net: for one crop, for a map that is not square, and for two images of another size.

    Args:
        net: the net, in evaluation mode, in float32, on the CPU.
        runtime: what computes the file's outputs, with its version.
        run: computes them.

    Raises:
        UserError: if they differ by more than rounding explains.
    """
    least = net.crop if net.classes else STRIDE
    sizes = (
        (1, least, least),
        (1, least + STRIDE, least + 3 * STRIDE),
        (2, least + 2 * STRIDE, least + STRIDE + 9),
    )
    worst = 0.0
    for number, height, width in sizes:
        seeded = torch.Generator().manual_seed(height)
        images = torch.randint(0, 256, (number, 3, height, width), generator=seeded).float()
        found = run(images)
        for name, wanted in expected(net, images).items():
            if found[name].shape != wanted.shape:
                raise UserError(
                    f"{runtime} returns {name} of shape {tuple(found[name].shape)}; the net, {tuple(wanted.shape)}"
                )
            scale = wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
            worst = max(worst, float((found[name] - wanted).abs().max() / scale))
    if not worst <= WORST:
        raise UserError(
            f"{runtime} returns values that differ from the net's by {worst:.1e} of the largest; no file was "
            "written"
        )
    return Check(runtime, sizes, worst)


def expected(net: ConvNet, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of a file, by name, computed by the net itself."""
    with torch.no_grad():
        if not net.classes:
            return net.features(images, [net.layers[-1].name])
        scores = net.score_map(images)
        return {"posteriors": scores.mean((2, 3)).softmax(1), "score_map": scores}
