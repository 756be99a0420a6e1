"""Claim: two ranks on two cores train at least 1.9 times as fast as one rank on one core (Sect. 3.3).

Runs `verydeep train` itself, reading included, on photographs in a folder of classes, 1024 or so an epoch: one
process pinned to one core, then two under torchrun on two cores, in turn, several rounds. With a net of all its
channels, and with a miniature, whose iterations are so short that every message and every memory access counts.
What the machine itself allows stands beside: two single trainings that know nothing of one another, at the same
time. Prints images a second of each, the median of the epochs after the first, and the ratios of the medians, and
writes both as JSON.

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
from contextlib import ExitStack
from pathlib import Path

import torch

RECIPE = [
    "--net", "A", "--fully-connected", "1024", "--batch", "256", "--initialisation", "glorot", "--device", "cpu",
    "--workers", "0",
]  # fmt: skip
NETS = {
    "A, crop 64": ["--crop", "64", "--epochs", "2"],
    "A, crop 64, a quarter of the channels": ["--crop", "64", "--width", "0.25", "--epochs", "6"],
}
TRAINING, VALIDATION = 1024, 20
"""Images, over all classes."""


def some_images(data, folder):
    """The same data set with few images of each class."""
    for split, wanted in (("train", TRAINING), ("val", VALIDATION)):
        classes = sorted(Path(data, split).absolute().iterdir())
        for images in classes:
            (folder / split / images.name).mkdir(parents=True)
            for image in sorted(images.iterdir())[: wanted // len(classes)]:
                (folder / split / images.name / image.name).symlink_to(image)
    return str(folder)


def start(data, net, folder, cores):
    """Start a training from scratch with a rank on each of some cores."""
    launcher = [sys.executable, "-m"]
    if len(cores) > 1:
        launcher += ["torch.distributed.run", "--nproc-per-node", str(len(cores)), "-m"]
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # processes inherit it
    try:
        command = [*launcher, "verydeep", "train", data, *RECIPE, *net, "--out", folder]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    finally:
        os.sched_setaffinity(0, ours)


def images_per_second(data, net, *places):
    """Train in one process group or several at once, each on its cores; the speeds off the logs, added."""
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in places]
        running = [start(data, net, folder, cores) for folder, cores in zip(folders, places, strict=True)]
        for process in running:
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(errors.decode())
        logs = [Path(folder, "log.jsonl").read_text().splitlines() for folder in folders]
        epochs = [[line for line in map(json.loads, log) if "epoch" in line] for log in logs]
        return sum(statistics.median(line["images_per_second"] for line in lines[1:]) for lines in epochs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("results/ranks.json"))
    arguments = parser.parse_args()
    one, two = sorted(os.sched_getaffinity(0))[:2]
    ways = {"one rank": [{one}], "two ranks": [{one, two}], "two trainings apart": [{one}, {two}]}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data = some_images(arguments.data, Path(folder))
        images_per_second(data, [*NETS.values()][-1], {one})  # so that all find the photographs in memory
        for name, net in NETS.items():
            speeds = {way: [] for way in ways}
            for _ in range(arguments.rounds):
                for way, places in ways.items():
                    speeds[way].append(images_per_second(data, net, *places))
                    print(f"{name}, {way}: {speeds[way][-1]:.1f} images/s", flush=True)
            medians = {way: statistics.median(measured) for way, measured in speeds.items()}
            found[name] = {
                "images_per_second": speeds,
                "ratio": round(medians["two ranks"] / medians["one rank"], 3),
                "two trainings apart": round(medians["two trainings apart"] / medians["one rank"], 3),
            }
            apart = found[name]["two trainings apart"]
            print(f"{name}: ratio of medians {found[name]['ratio']}, of the machine {apart}")
    result = {
        "claim": "two ranks on two cores against one rank on one core: at least 1.9",
        "holds": {net: each["ratio"] >= 1.9 for net, each in found.items()},
        "nets": found,
        "recipes": {name: [*RECIPE, *net] for name, net in NETS.items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
