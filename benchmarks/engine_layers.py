"""Time of each layer of net D: the engine compared with torch's channels-last convolutions.

Nothing is claimed here; benchmarks/engine.py has the claims on whole nets. Each layer is measured with its ReLU
and pooling, at 224 with a mini-batch of 8 on two threads, both sides in turn; times are medians. Measured are
testing (2 images at a time through the first two blocks and 4 through the third, as in a net), and in training the
forward pass and the gradients of weights and input. "products" is the rate of the matrix products as if they took
all of the time, to be compared with "limits", the rates that torch reached; the rest of the time goes to
transforms and memory.

    python benchmarks/engine_layers.py
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import verydeep
from claims import Observation, destination, options, record
from plain_torch import pooled
from verydeep.engine import native, operators

THREADS, BATCH = 2, 8
AT_ONCE = {"conv1": 2, "conv2": 2, "conv3": 4}

Row = dict[str, float]


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> Row:
    """Run all functions in turn, and return the median milliseconds of each."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first run allocates scratch memory
                found[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(taken) for name, taken in found.items()}


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, pool: bool) -> Tensor:
    y = F.relu(F.conv2d(x, weight, bias, padding=1), inplace=True)
    return F.max_pool2d(y, 2) if pool else y


def points(side: int) -> int:
    """Return the points of all tiles along a side of a map: 6 per tile, 4 for a last one of up to two outputs."""
    return 6 * (side // 4) + (0, 4, 4, 6)[side % 4]


def convolution(weight: Tensor, bias: Tensor, images: int, side: int, pool: bool, rounds: int) -> Row:
    """Measure the milliseconds per image of one 3x3 layer, by what is computed and by whom.

    Args:
        weight: the layer's weights, as a net stores them.
        bias: its bias.
        images: number of images at once.
        side: side of its input maps in pixels.
        pool: whether a pooling follows.
        rounds: number of measurements.
    """
    outputs, inputs = weight.shape[:2]
    x = torch.randn(images, inputs, side, side).contiguous(memory_format=torch.channels_last)
    torchs = weight.contiguous(memory_format=torch.channels_last)
    taken = in_turn(
        {
            "torch": lambda: by_torch(x, torchs, bias, pool),
            "engine": lambda: operators.convolutions_for_testing(x, [weight], [bias], [True], [pool], [False]),
        },
        rounds,
    )
    y, winners = operators.convolution_for_training(x, weight, bias, True, pool)
    gradient, kept = torch.randn_like(y), winners if pool else y
    known = (gradient, x, weight, kept, winners, True, pool)
    taken |= in_turn(
        {
            "training, forward": lambda: operators.convolution_for_training(x, weight, bias, True, pool),
            "weights' gradient": lambda: operators.convolution_backward(*known, False, True),
            "both gradients": lambda: operators.convolution_backward(*known, True, True),
        },
        rounds,
    )
    taken["input's gradient"] = taken.pop("both gradients") - taken["weights' gradient"]
    row = {name: round(value / images, 3) for name, value in taken.items()}
    row["engine / torch"] = round(taken["engine"] / taken["torch"], 3)
    if inputs > 3:
        products = 2 * points(side) ** 2 * inputs * outputs
        row["products, GFLOP/s"] = round(products * images / taken["engine"] / 1e6)
    return row


def fully_connected(weight: Tensor, bias: Tensor, rounds: int) -> Row:
    """Measure the milliseconds per image of a fully connected layer at one position, and its reading rate."""
    outputs, inputs, side = weight.shape[:3]
    x = torch.randn(BATCH, inputs, side, side)
    rows, matrix = x.flatten(1), weight.contiguous().view(outputs, -1)
    maps = x.contiguous(memory_format=torch.channels_last)
    runs = {
        "torch": lambda: F.relu(F.linear(rows, matrix, bias)),
        "engine": lambda: operators.fully_connected_for_testing(maps, weight, bias, True),
    }
    taken = in_turn(runs, rounds)
    row = {name: round(value / BATCH, 3) for name, value in taken.items()}
    row["engine / torch"] = round(taken["engine"] / taken["torch"], 3)
    row["weights, GB/s"] = round(4 * weight.numel() / taken["engine"] / 1e6, 1)
    return row


def attainable(rounds: int, side: int, values: int) -> Row:
    """Measure GFLOP/s of torch's matrix product and GB/s of reading memory, as the limits of this machine."""
    a, b, long = torch.randn(side, side), torch.randn(side, side), torch.randn(values)
    taken = in_turn({"product": lambda: a @ b, "reading": long.sum}, rounds)
    return {
        "GFLOP/s of torch's matrix product": round(2 * side**3 / taken["product"] / 1e6),
        "GB/s of torch's sum": round(4 * values / taken["reading"] / 1e6, 1),
    }


def main() -> int:
    parser = options(__doc__, "engine_layers")
    parser.add_argument("--rounds", type=int, help="[default: 7; 1 with --smoke]")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.smoke else 7)
    if (library := native.library()) is None:
        parser.error("the engine is off or was not built; there is nothing to measure")
    torch.set_num_threads(THREADS)
    side = 64 if arguments.smoke else 224
    sizes: dict[str, Any] = {"crop": 64, "width": 0.125, "fully_connected": 32} if arguments.smoke else {}
    net = verydeep.ConvNet("D", **sizes)
    what = f"testing D at {side}" + ", an eighth of its channels" * arguments.smoke
    weights = {name: tensor.detach() for name, tensor in net.named_parameters()}
    rows: dict[str, Row] = {}
    with torch.no_grad():
        for name, pool in pooled(weights).items():
            known = (weights[f"{name}.weight"], weights[f"{name}.bias"])
            rows[name] = convolution(*known, AT_ONCE.get(name[:5], BATCH), side, pool, rounds)
            side //= 1 + pool
            print(name, rows[name], flush=True)
        for name in ("fc6", "fc7", "fc8"):
            rows[name] = fully_connected(weights[f"{name}.weight"], weights[f"{name}.bias"], rounds)
            print(name, rows[name], flush=True)
        limits = attainable(rounds, *((256, 2**20) if arguments.smoke else (2048, 2**27)))
    totals = {name: round(sum(row[name] for row in rows.values()), 1) for name in ("torch", "engine")}
    ratio = sum(row["engine"] for row in rows.values()) / sum(row["torch"] for row in rows.values())
    worst = max(rows, key=lambda name: rows[name]["engine / torch"])
    observations = [
        Observation(
            f"{what}, all layers, one by one: the engine's time relative to torch's",
            round(ratio, 3),
            "of its time",
        ),
        Observation(
            f"{what}, {worst}, the layer with the largest ratio: the engine's time relative to torch's",
            rows[worst]["engine / torch"],
            "of its time",
        ),
    ]
    details = {
        "library": library.name,
        "threads": THREADS,
        "rounds": rounds,
        "milliseconds an image, all layers": totals,
        "limits": limits,
        "milliseconds an image": rows,
    }
    return record(destination(arguments), [], observations, details=details)


if __name__ == "__main__":
    sys.exit(main())
