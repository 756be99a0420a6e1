"""Descriptors per second of `verydeep.transfer`, compared with the script that most people would write in torch.

Claim: over a folder of full-size photographs, descriptors at the paper's three scales are computed faster than
by the same net in plain torch with Pillow, in either memory layout. The net is D at full size with random
weights; the protocol is that of Appendix B for Caltech: relu7 of the whole photograph, averaged over the map and
the mirror image, at Q = 256, 384 and 512, stacked. Ours includes finding out what is stored, and storing. The
sides take turns on the same photographs, in one process, and medians over the rounds are reported.

    python benchmarks/descriptors.py PHOTOGRAPHS
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import verydeep
from claims import Claim, Observation, destination, options, record
from photographs import write_photographs
from plain_torch import plain_torch
from verydeep.transfer import TransferData, described
from verydeep.transfer.data import single_labels

SCALES = (256, 384, 512)


def script(net: nn.Module, paths: Sequence[Path], scales: Sequence[int]) -> np.ndarray:
    """The obvious script: one photograph and scale after the other, with its mirror image."""
    found = []
    with torch.inference_mode():
        for path in paths:
            parts = []
            for scale in scales:
                image = Image.open(path).convert("RGB")
                ratio = scale / min(image.size)
                width, height = (round(side * ratio) for side in image.size)
                pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
                one = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
                descriptor = net(torch.cat([one, one.flip(3)])).mean(0).numpy()
                parts.append(descriptor / np.linalg.norm(descriptor))
            together = np.concatenate(parts)
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
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of photographs")
    parser.add_argument("--rounds", type=int, help="[default: 3; 1 with --smoke]")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.smoke else 3)
    scales = (224, 256) if arguments.smoke else SCALES
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None and not arguments.smoke:
            parser.error("pass a folder of photographs")
        if arguments.folder is None:
            arguments.folder = Path(made)
            write_photographs(arguments.folder, 2, 300, 400)
        paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        net = verydeep.ConvNet("A", width=1 / 16) if arguments.smoke else verydeep.ConvNet("D")
        verydeep.initialise(net, "glorot", seed=0)
        net.eval()
        weights = net.state_dict()
        sides: dict[str, Callable[[], np.ndarray]] = {"verydeep": lambda: ours(net, paths, scales)}
        for name, layout in (("NCHW", torch.contiguous_format), ("channels last", torch.channels_last)):
            plain = without_fc8(plain_torch(weights, dense=True, layout=layout).eval())
            sides[f"torch, {name}"] = lambda plain=plain: script(plain, paths, scales)  # type: ignore[misc]
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        vectors = {}
        for _ in range(rounds):
            for name, side in sides.items():
                started = time.perf_counter()
                vectors[name] = side()
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {len(scales) * len(paths) / seconds[name][-1]:.2f} descriptors/s", flush=True)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    times = {name: medians[name] / medians["verydeep"] for name in sides if name != "verydeep"}
    apart = {name: float(np.linalg.norm(vectors["verydeep"] - vectors[name], axis=1).max()) for name in times}
    protocol = f"net D, relu7, {len(paths)} photographs, Q = {', '.join(map(str, scales))}, with mirror images"
    claim = Claim(
        f"{protocol}: descriptors per second, relative to the script in torch",
        round(min(times.values()), 3),
        "times",
        {"at least": 1.5},
        {name: round(value, 3) for name, value in times.items()},
    )
    rate = len(scales) * len(paths) / medians["verydeep"]
    observations = [
        Observation(f"{protocol}: speed of verydeep.transfer", round(rate, 2), "descriptors/s"),
        Observation(
            "largest distance between two vectors of length 1; the sides decode with different libraries",
            float(f"{max(apart.values()):.2g}"),
            "",
            apart,
        ),
    ]
    details = {"rounds": rounds, "seconds": seconds}
    return record(
        destination(arguments), [claim], observations, versions={"pillow": version("pillow")}, details=details
    )


if __name__ == "__main__":
    sys.exit(main())
