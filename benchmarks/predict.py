"""Photographs per second of `verydeep.predict`, compared with the script that most people would write in torch.

Claim: over a folder of full-size photographs, predict is faster than the same net in plain torch with Pillow, in
either memory layout. The net is D at full size with random weights; the protocol is that of the paper's Table 3
(dense, Q = 256, averaged with the mirror image). The sides take turns on the same photographs, in one process, and
medians over the rounds are reported.

    python benchmarks/predict.py PHOTOGRAPHS
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import verydeep
from beside_torch import LAYOUTS, add_arguments, compare, photographs_of, with_mirror_image
from claims import options
from plain_torch import plain_torch

SCALE = 256


def script(net: nn.Module, paths: Sequence[Path]) -> np.ndarray:
    """The obvious script: one photograph after the other, with its mirror image."""
    with torch.inference_mode():
        return np.stack([net(with_mirror_image(path, SCALE)).softmax(1).mean(0).numpy() for path in paths])


def ours(net: verydeep.ConvNet, paths: Sequence[Path]) -> np.ndarray:
    """The same through the library; posteriors in the order of the classes."""
    predictions = verydeep.predict(net, paths, [SCALE], top=net.classes)
    order = {name: at for at, name in enumerate(net.card.names)}
    found = np.empty((len(paths), net.classes), np.float32)
    for row, prediction in zip(found, predictions, strict=True):
        row[[order[name] for name in prediction.classes]] = prediction.posteriors
    return found


def main() -> int:
    parser = options(__doc__, "predict")
    add_arguments(parser)
    arguments = parser.parse_args()
    net = verydeep.ConvNet("A", width=1 / 16) if arguments.smoke else verydeep.ConvNet("D")
    verydeep.initialise(net, "glorot", seed=0)
    net.eval()
    with photographs_of(arguments, parser) as paths:
        sides: dict[str, Callable[[], np.ndarray]] = {"verydeep": lambda: ours(net, paths)}
        for name, layout in LAYOUTS.items():
            plain = plain_torch(net.state_dict(), dense=True, layout=layout).eval()
            sides[f"torch, {name}"] = lambda plain=plain: script(plain, paths)  # type: ignore[misc]
        what = f"net D, {len(paths)} photographs, dense, Q = {SCALE}, with mirror images"
        words = "largest difference of a posterior; the sides decode and rescale with different libraries"
        apart = (words, lambda one, other: float(np.abs(one - other).max()))
        return compare(arguments, sides, len(paths), "photographs", what, apart)


if __name__ == "__main__":
    sys.exit(main())
