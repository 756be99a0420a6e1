"""Photographs per second of `verydeep.predict`, compared with the script that most people would write in torch.

Claim: over a folder of full-size photographs, predict is faster than the same net in plain torch with Pillow, in
either memory layout. The net is D at full size with random weights; the protocol is that of the paper's Table 3
(dense, Q = 256, averaged with the mirror image). The sides take turns on the same photographs, in one process, and
medians over the rounds are reported.

    python benchmarks/predict.py PHOTOGRAPHS
"""

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

SCALE = 256


def script(net: nn.Module, paths: Sequence[Path]) -> np.ndarray:
    """The obvious script: one photograph after the other, with its mirror image."""
    found = []
    with torch.inference_mode():
        for path in paths:
            image = Image.open(path).convert("RGB")
            ratio = SCALE / min(image.size)
            width, height = (round(side * ratio) for side in image.size)
            pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
            one = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
            found.append(net(torch.cat([one, one.flip(3)])).softmax(1).mean(0).numpy())
    return np.stack(found)


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
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of photographs")
    parser.add_argument("--rounds", type=int, help="[default: 3; 1 with --smoke]")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.smoke else 3)
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
        sides: dict[str, Callable[[], np.ndarray]] = {"verydeep": lambda: ours(net, paths)}
        for name, layout in (("NCHW", torch.contiguous_format), ("channels last", torch.channels_last)):
            plain = plain_torch(weights, dense=True, layout=layout).eval()
            sides[f"torch, {name}"] = lambda plain=plain: script(plain, paths)  # type: ignore[misc]
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        posteriors = {}
        for _ in range(rounds):
            for name, side in sides.items():
                started = time.perf_counter()
                posteriors[name] = side()
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {len(paths) / seconds[name][-1]:.2f} photographs/s", flush=True)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    times = {name: medians[name] / medians["verydeep"] for name in sides if name != "verydeep"}
    apart = {name: float(np.abs(posteriors["verydeep"] - posteriors[name]).max()) for name in times}
    protocol = f"net D, {len(paths)} photographs, dense, Q = {SCALE}, with mirror images"
    claim = Claim(
        f"{protocol}: photographs per second of predict, relative to the script in torch",
        round(min(times.values()), 3),
        "times",
        {"at least": 1.5},
        {name: round(value, 3) for name, value in times.items()},
    )
    observations = [
        Observation(f"{protocol}: speed of predict", round(len(paths) / medians["verydeep"], 2), "photographs/s"),
        Observation(
            "largest difference of a posterior; the sides decode and rescale with different libraries",
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
