"""Descriptors per second of `verydeep.transfer`, compared with the script that most people would write in torch.

Claim: over a folder of full-size photographs, descriptors at the paper's three scales are computed faster than
by the same net in plain torch with Pillow, in either memory layout. The net is D at full size with random
weights; the protocol is that of Appendix B for Caltech: relu7 of the whole photograph, averaged over the map and
the mirror image, at Q = 256, 384 and 512, stacked. Ours includes finding out what is stored, and storing. The
sides take turns on the same photographs, in one process, and medians over the rounds are reported.

    python benchmarks/descriptors.py PHOTOGRAPHS
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import verydeep
from beside_torch import LAYOUTS, add_arguments, compare, photographs_of, with_mirror_image
from claims import options
from plain_torch import plain_torch
from verydeep.transfer import TransferData, described
from verydeep.transfer.data import single_labels

SCALES = (256, 384, 512)


def script(net: nn.Module, paths: Sequence[Path], scales: Sequence[int]) -> np.ndarray:
    """The obvious script: one photograph and scale after the other, with its mirror image."""
    found = []
    with torch.inference_mode():
        for path in paths:
            descriptors = [net(with_mirror_image(path, scale)).mean(0).numpy() for scale in scales]
            together = np.concatenate([each / np.linalg.norm(each) for each in descriptors])
            found.append(together / np.linalg.norm(together))
    return np.stack(found)


def ours(net: verydeep.ConvNet, paths: Sequence[Path], scales: Sequence[int]) -> np.ndarray:
    """The same through the library, with nothing stored yet."""
    labels = single_labels(np.zeros(len(paths), np.int64), 1)
    data = TransferData("photographs", ("any",), tuple(paths), labels, "class-recall")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        return described(net, data, scales=scales, aggregation="stack").vectors


def without_fc8(net: nn.Sequential) -> nn.Sequential:
    """Return a plain dense net that ends at relu7, averaged over its map."""
    *layers, _fc8, pool, flatten = net
    return nn.Sequential(*layers, pool, flatten).eval()


def main() -> int:
    parser = options(__doc__, "descriptors")
    add_arguments(parser)
    arguments = parser.parse_args()
    scales = (224, 256) if arguments.smoke else SCALES
    net = verydeep.ConvNet("A", width=1 / 16) if arguments.smoke else verydeep.ConvNet("D")
    verydeep.initialise(net, "glorot", seed=0)
    net.eval()
    with photographs_of(arguments, parser) as paths:
        sides: dict[str, Callable[[], np.ndarray]] = {"verydeep": lambda: ours(net, paths, scales)}
        for name, layout in LAYOUTS.items():
            plain = without_fc8(plain_torch(net.state_dict(), dense=True, layout=layout).eval())
            sides[f"torch, {name}"] = lambda plain=plain: script(plain, paths, scales)  # type: ignore[misc]
        what = f"net D, relu7, {len(paths)} photographs, Q = {', '.join(map(str, scales))}, with mirror images"
        words = "largest distance between two vectors of length 1; the sides decode with different libraries"
        apart = (words, lambda one, other: float(np.linalg.norm(one - other, axis=1).max()))
        return compare(arguments, sides, len(scales) * len(paths), "descriptors", what, apart)


if __name__ == "__main__":
    sys.exit(main())
