"""Claim: training images are read at least twice as fast as by decoding, rescaling and then cropping with Pillow.

One image of training is: read the file, decode it, rescale it to a shortest side S drawn from [256; 512],
cut a random crop of 224 (Sect. 3.1). Three ways do the same draws on one core, in rounds that alternate:
the whole image with Pillow, only the crop's part with Pillow (its `box`), and `verydeep.images`.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
from PIL import Image

from verydeep.images import rescale_and_crop, rescaled_size

ROOT = Path(__file__).parents[1]
CROP, SMALLEST, LARGEST = 224, 256, 512


def pillow_whole(path, shortest, place):
    with Image.open(path) as file:
        image = file.convert("RGB")
    image = image.resize(rescaled_size(*image.size, shortest), Image.Resampling.BILINEAR)
    x, y = (math.floor(p * (size - CROP + 1)) for p, size in zip(place, image.size, strict=True))
    return np.array(image.crop((x, y, x + CROP, y + CROP)))


def pillow_box(path, shortest, place):
    with Image.open(path) as file:
        image = file.convert("RGB")
    rescaled = rescaled_size(*image.size, shortest)
    x, y = (math.floor(p * (size - CROP + 1)) for p, size in zip(place, rescaled, strict=True))
    across, down = image.width / rescaled[0], image.height / rescaled[1]
    box = (
        x * across,
        y * down,
        min((x + CROP) * across, image.width),
        min((y + CROP) * down, image.height),
    )
    return np.array(image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=box))


def verydeep(path, shortest, place):
    return rescale_and_crop(path, shortest, CROP, place)


WAYS = {"Pillow, whole": pillow_whole, "Pillow, box": pillow_box, "verydeep": verydeep}


def measure(paths, rounds):
    """Return the images a second of each way and round, and the mean difference from Pillow in grey levels."""
    random = np.random.default_rng(0)
    draws = [
        (path, int(random.integers(SMALLEST, LARGEST + 1)), (random.random(), random.random())) for path in paths
    ]
    # Reading all once warms the file cache, and tells how far the fastest is from the plainest.
    difference = statistics.fmean(
        np.abs(pillow_whole(*draw).astype(int) - verydeep(*draw)).mean() for draw in draws
    )
    speeds = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            started = time.perf_counter()
            for draw in draws:
                way(*draw)
            speeds[name].append(len(draws) / (time.perf_counter() - started))
    return speeds, difference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs, full-size ones of ILSVRC-2012 for the claim")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "reading.json", metavar="OUT")
    arguments = parser.parse_args()
    suffixes = {".jpg", ".jpeg", ".png", ".webp"}
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in suffixes)
    if not paths or arguments.rounds < 1:
        sys.exit(
            f"{arguments.folder}: {len(paths)} photographs, {arguments.rounds} rounds: give at least one of each"
        )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    speeds, difference = measure(paths, arguments.rounds)
    medians = {name: statistics.median(rates) for name, rates in speeds.items()}
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(speeds["verydeep"], rates, strict=True))
        for name, rates in speeds.items()
    }
    result = {
        "claim": "training images are read at least twice as fast as by Pillow, whole",
        "holds": ratios["Pillow, whole"] >= 2,
        "photographs": len(paths),
        "rounds": arguments.rounds,
        "images_per_second": {name: round(rate, 1) for name, rate in medians.items()},
        "verydeep_is_faster_by": {name: round(ratio, 3) for name, ratio in ratios.items() if name != "verydeep"},
        "mean_difference_in_grey_levels": round(difference, 4),
        "versions": {
            "Python": platform.python_version(),
            "Pillow": PIL.__version__,
            "simplejpeg": simplejpeg.__version__,
            "NumPy": np.__version__,
        },
        "machine": platform.machine(),
    }
    print(
        f"{len(paths)} photographs, S in [{SMALLEST}; {LARGEST}], crop {CROP}, one core, {arguments.rounds} rounds"
    )
    for name in WAYS:
        print(f"{name:14} {medians[name]:8.1f} images/s   verydeep is {ratios[name]:.2f} times as fast")
    print(f"mean difference from Pillow, whole: {difference:.3f} grey levels")
    print(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
