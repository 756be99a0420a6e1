"""Where the time of net D goes, layer by layer: the engine beside torch's channels-last convolutions.

Each layer with its ReLU and pooling, at 224 and a mini-batch of 8, two threads, both sides in turn: testing
(2 images at a time through the first two blocks and 4 through the third, as a net computes them), and in
training the forward pass, the weights' and the input's gradient. "products" is the rate of the matrix products as
if all of the time were theirs, beside what the processor was found to do; the rest of the time are transforms
and memory. Writes JSON.

    python benchmarks/engine_layers.py
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from verydeep.configurations import configuration, output_sides
from verydeep.engine import in_large_pages, native, operators

THREADS, BATCH = 2, 8
AT_ONCE = {"conv1": 2, "conv2": 2, "conv3": 4}


def in_turn(runs, rounds):
    """Median milliseconds of each."""
    found = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first makes its scratch
                found[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(taken) for name, taken in found.items()}


def laid_out(module):
    """With its weights as a net has them."""
    module.weight.data = in_large_pages(module.weight.data)
    return module


def by_torch(layer, x, pool):
    y = F.relu(layer(x), inplace=True)
    return F.max_pool2d(y, 2) if pool else y


def points(side):
    """Points of the tiles along a side of a map: 6 of each, and 4 of a last one of up to two outputs."""
    return 6 * (side // 4) + (0, 4, 4, 6)[side % 4]


def convolution(layer, side, pool, rounds):
    """Milliseconds an image of one 3x3 layer, by what is computed and by whom."""
    images = AT_ONCE.get(layer.name[:5], BATCH)
    module = laid_out(nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1))
    x = torch.randn(images, layer.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        runs = {
            "torch": lambda: by_torch(module, x, pool),
            "engine": lambda: operators.convolutions([operators.Step(module, True, pool)], x),
        }
        taken = in_turn(runs, rounds)
        y, winners = operators.convolution_for_training(x, module.weight, module.bias, True, pool)
        gradient, kept = torch.randn_like(y), winners if pool else y
        arguments = (gradient, x, module.weight, kept, winners, True, pool)
        training = {
            "training, forward": lambda: operators.convolution_for_training(
                x, module.weight, module.bias, True, pool
            ),
            "weights' gradient": lambda: operators.convolution_backward(*arguments, False, True),
            "both gradients": lambda: operators.convolution_backward(*arguments, True, True),
        }
        taken |= in_turn(training, rounds)
    taken["input's gradient"] = taken.pop("both gradients") - taken["weights' gradient"]
    row = {name: round(value / images, 3) for name, value in taken.items()}
    row["engine / torch"] = round(row["engine"] / row["torch"], 3)
    if layer.in_channels > 3:
        products = 2 * points(side) ** 2 * layer.in_channels * layer.out_channels
        row["products, GFLOP/s"] = round(products / row["engine"] / 1e6)
    return row


def fully_connected(layer, rounds):
    module = laid_out(nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel))
    x = torch.randn(BATCH, layer.in_channels, layer.kernel, layer.kernel)
    x = x.contiguous(memory_format=torch.channels_last)
    rows, weight = x.permute(0, 2, 3, 1).flatten(1), module.weight.flatten(1)
    with torch.no_grad():
        runs = {
            "torch": lambda: F.relu(F.linear(rows, weight, module.bias)),
            "engine": lambda: operators.fully_connected(module, x, True),
        }
        taken = in_turn(runs, rounds)
    row = {name: round(value / BATCH, 3) for name, value in taken.items()}
    row["engine / torch"] = round(row["engine"] / row["torch"], 3)
    row["weights, GB/s"] = round(4 * weight.numel() / taken["engine"] / 1e6, 1)
    return row


def attainable(rounds):
    """GFLOP/s of a matrix product of torch, and GB/s of reading, as the limits of this machine."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    long = torch.randn(2**27)
    taken = in_turn({"product": lambda: a @ b, "reading": long.sum}, rounds)
    return {
        "GFLOP/s of torch's matrix product": round(2 * 2048**3 / taken["product"] / 1e6),
        "GB/s of torch's sum": round(4 * 2**27 / taken["reading"] / 1e6, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("results/engine_layers.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    layers = configuration("D").layers()
    sides = output_sides(layers, 224)
    rows = {}
    for number, (layer, side) in enumerate(zip(layers, sides, strict=True)):
        if layer.kind != "conv":
            continue
        if layer.fully_connected:
            rows[layer.name] = fully_connected(layer, arguments.rounds)
        else:
            rows[layer.name] = convolution(layer, side, layers[number + 2].kind == "pool", arguments.rounds)
        print(layer.name, rows[layer.name], flush=True)
    totals = {name: round(sum(row[name] for row in rows.values()), 1) for name in ("torch", "engine")}
    result = {
        "claim": "milliseconds an image of D at 224, two threads",
        "engine / torch": round(totals["engine"] / totals["torch"], 3),
        "totals": totals,
        "library": native.library().name,
        "torch": torch.__version__,
        "limits": attainable(arguments.rounds),
        "layers": rows,
    }
    print({name: value for name, value in result.items() if name != "layers"})
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
