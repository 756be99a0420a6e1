"""Training speed of two ranks on two cores, compared with one rank on one core (Sect. 3.3).

Claims: at least 1.8 times as fast with A at crop 64, and at least 1.6 times with a quarter of its channels, whose
iterations are so short that every message and every memory access counts.

The script runs `verydeep train` itself, including reading, on photographs in a folder of classes, about 1024 per
epoch. One process pinned to one core and two under torchrun on two cores take turns for several rounds. The peer
is the machine itself: two independent trainings at the same time. A speed is the median over the epochs after the
first, and a ratio is that of the medians over the rounds.

    python benchmarks/ranks.py photographs
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from claims import Claim, Observation, destination, options, record
from photographs import write_photographs

RECIPE = ["--net", "A", "--initialisation", "glorot", "--device", "cpu", "--workers", "0"]
FULL = [*RECIPE, "--fully-connected", "1024", "--batch", "256", "--crop", "64"]
NETS = {
    "A, crop 64": ([*FULL, "--epochs", "2"], 1.8),
    "A, crop 64, a quarter of the channels": ([*FULL, "--width", "0.25", "--epochs", "6"], 1.6),
}
SMOKE = {
    "A, crop 32, an eighth of the channels": (
        [*RECIPE, "--fully-connected", "16", "--batch", "8", "--crop", "32", "--width", "0.125", "--epochs", "2"],
        1.0,
    )
}
"""The recipe of each net, and the lower bound of the ratio."""

TRAINING, VALIDATION = 1024, 20
"""Number of images, over all classes."""


def some_images(data: Path, folder: Path) -> str:
    """Make a data set with few images of each class, as links, and return its folder."""
    for split, wanted in (("train", TRAINING), ("val", VALIDATION)):
        classes = sorted((data / split).absolute().iterdir())
        for images in classes:
            (folder / split / images.name).mkdir(parents=True)
            for image in sorted(images.iterdir())[: wanted // len(classes)]:
                (folder / split / images.name / image.name).symlink_to(image)
    return str(folder)


def smoke_images(folder: Path) -> str:
    for name in ("cat", "dog"):
        write_photographs(folder / "train" / name, 8, 40, 50)
        write_photographs(folder / "val" / name, 1, 40, 50)
    return str(folder)


def start(data: str, recipe: Sequence[str], folder: str, cores: set[int]) -> "subprocess.Popen[bytes]":
    """Start a training from scratch with one rank on each of these cores."""
    launcher = [sys.executable, "-m"]
    if len(cores) > 1:
        launcher += ["torch.distributed.run", "--nproc-per-node", str(len(cores)), "-m"]
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # processes inherit it
    try:
        command = [*launcher, "verydeep", "train", data, *recipe, "--out", folder]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    finally:
        os.sched_setaffinity(0, ours)


def images_per_second(data: str, recipe: Sequence[str], places: Sequence[set[int]]) -> float:
    """Train in one or several process groups at once, each on its cores; return the sum of their logged speeds."""
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in places]
        running = [start(data, recipe, folder, cores) for folder, cores in zip(folders, places, strict=True)]
        for process in running:
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(errors.decode())
        logs = [Path(folder, "log.jsonl").read_text().splitlines() for folder in folders]
        epochs = [[line for line in map(json.loads, log) if "epoch" in line] for log in logs]
        speeds = [statistics.median(line["images_per_second"] for line in lines[1:]) for lines in epochs]
        return float(sum(speeds))


def main() -> int:
    parser = options(__doc__, "ranks")
    parser.add_argument("data", type=Path, nargs="?", help="a folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("--rounds", type=int, help="[default: 3; 1 with --smoke]")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.smoke else 3)
    if arguments.data is None and not arguments.smoke:
        parser.error("the data is missing: a folder of photographs with train/CLASS/* and val/CLASS/*")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        parser.error(f"this needs two cores to which a process can be pinned; this machine has {len(cores)}")
    one, two = cores[:2]
    ways = {"one rank": [{one}], "two ranks": [{one, two}], "two trainings apart": [{one}, {two}]}
    claims, observations, found = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        nets = SMOKE if arguments.smoke else NETS
        data = smoke_images(Path(folder)) if arguments.smoke else some_images(arguments.data, Path(folder))
        if not arguments.smoke:  # so that the photographs are in the file cache for all
            images_per_second(data, [*nets.values()][-1][0], [{one}])
        for name, (recipe, least) in nets.items():
            speeds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, places in ways.items():
                    speeds[way].append(round(images_per_second(data, recipe, places), 2))
                    print(f"{name}, {way}: {speeds[way][-1]:.1f} images/s", flush=True)
            medians = {way: statistics.median(measured) for way, measured in speeds.items()}
            ratio = round(medians["two ranks"] / medians["one rank"], 3)
            apart = round(medians["two trainings apart"] / medians["one rank"], 3)
            text = f"training {name}: speed of two ranks on two cores, relative to one rank on one core"
            claims.append(Claim(text, ratio, "times", {"at least": least}))
            text = f"training {name}: speed of two separate trainings, one per core, relative to one alone"
            observations.append(Observation(text, apart, "times"))
            found[name] = {"recipe": recipe, "images a second": speeds}
    return record(destination(arguments), claims, observations, details={"rounds": rounds, "nets": found})


if __name__ == "__main__":
    sys.exit(main())
