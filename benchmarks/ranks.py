"""Claim: two ranks on two cores train at least 1.9 times as fast as one rank on one core (Sect. 3.3).

Runs `verydeep train` itself, reading included, on photographs in a folder of classes: one process pinned to one
core, then two under torchrun on two cores, in turn, several rounds. Prints images a second of each and the ratio
of the medians, and writes both as JSON.

    python benchmarks/ranks.py photographs
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

RECIPE = [
    "--net", "A", "--crop", "64", "--width", "0.25", "--fully-connected", "1024", "--batch", "256",
    "--initialisation", "glorot", "--device", "cpu", "--workers", "0",
]  # fmt: skip


def images_per_second(data, ranks, iterations):
    """Train for some iterations from scratch, and read the speed of the epoch off the log."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m"]
        if ranks > 1:
            launcher += ["torch.distributed.run", "--nproc-per-node", str(ranks), "-m"]
        command = [*launcher, "verydeep", "train", data, *RECIPE, "--iterations", str(iterations), "--out", folder]
        cores = sorted(os.sched_getaffinity(0))[:ranks]
        subprocess.run(command, check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        return next(line["images_per_second"] for line in lines if "epoch" in line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--json", type=Path, default=Path("results/ranks.json"))
    arguments = parser.parse_args()
    speeds = {1: [], 2: []}
    images_per_second(arguments.data, 2, arguments.iterations)  # so that all find the photographs in memory
    for _ in range(arguments.rounds):
        for ranks, measured in speeds.items():
            measured.append(images_per_second(arguments.data, ranks, arguments.iterations))
            print(f"{ranks} rank(s) on {ranks} core(s): {measured[-1]:.1f} images/s", flush=True)
    medians = {ranks: statistics.median(measured) for ranks, measured in speeds.items()}
    result = {
        "claim": "two ranks on two cores against one rank on one core: at least 1.9",
        "ratio": round(medians[2] / medians[1], 3),
        "holds": medians[2] >= 1.9 * medians[1],
        "images_per_second": {f"{ranks} rank(s)": measured for ranks, measured in speeds.items()},
        "recipe": RECIPE,
        "iterations": arguments.iterations,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    print(f"ratio of medians: {result['ratio']}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
