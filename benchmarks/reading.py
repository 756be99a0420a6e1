"""Speed of reading training images: `verydeep.photographs.rescaling` compared with Pillow, on one core.

A training image is read from its file, decoded, rescaled to a shortest side S drawn from [256; 512], and cropped
at random to 224 (Sect. 3.1). Claim: this is at least 1.9 times as fast as Pillow, which decodes the image,
rescales all of it and then crops. The peers take turns on the same draws: Pillow on the whole image, and Pillow on
only the crop's region (its `box`), about which nothing is claimed. Results are medians of the ratios per round.

    python benchmarks/reading.py PHOTOGRAPHS
"""

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from claims import Claim, Observation, destination, options, record
from photographs import write_photographs
from verydeep.photographs.rescaling import rescale_and_crop, rescaled_size

CROP, SMALLEST, LARGEST = 224, 256, 512
LEAST = 1.9

Place = tuple[float, float]
Pixels = np.ndarray[Any, Any]


def pillow_whole(path: Path, shortest: int, place: Place) -> Pixels:
    with Image.open(path) as file:
        image = file.convert("RGB")
    image = image.resize(rescaled_size(*image.size, shortest), Image.Resampling.BILINEAR)
    x, y = (math.floor(p * (size - CROP + 1)) for p, size in zip(place, image.size, strict=True))
    return np.array(image.crop((x, y, x + CROP, y + CROP)))


def pillow_box(path: Path, shortest: int, place: Place) -> Pixels:
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


def verydeep(path: Path, shortest: int, place: Place) -> Pixels:
    return rescale_and_crop(path, shortest, CROP, place)


WAYS = {"Pillow, whole": pillow_whole, "Pillow, box": pillow_box, "verydeep": verydeep}


def measure(paths: Sequence[Path], rounds: int) -> tuple[dict[str, list[float]], float]:
    """Measure images per second for each way and round, and the mean difference from Pillow in grey levels."""
    random = np.random.default_rng(0)
    draws = [
        (path, int(random.integers(SMALLEST, LARGEST + 1)), (random.random(), random.random())) for path in paths
    ]
    # Reading everything once warms the file cache, and shows how much our pixels differ from Pillow's.
    difference = statistics.fmean(
        np.abs(pillow_whole(*draw).astype(int) - verydeep(*draw)).mean() for draw in draws
    )
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            started = time.perf_counter()
            for draw in draws:
                way(*draw)
            speeds[name].append(len(draws) / (time.perf_counter() - started))
    return speeds, difference


def photographs_in(folder: Path) -> list[Path]:
    suffixes = {".jpg", ".jpeg", ".png", ".webp"}
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def main() -> int:
    parser = options(__doc__, "reading")
    parser.add_argument(
        "folder", type=Path, nargs="?", help="folder of photographs; for the claim, full-size ones of ILSVRC"
    )
    parser.add_argument("--rounds", type=int, help="[default: 15; 2 with --smoke]")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (2 if arguments.smoke else 15)
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None and arguments.smoke:
            arguments.folder = Path(made)
            write_photographs(arguments.folder, 4, 300, 400)
        if arguments.folder is None or not (paths := photographs_in(arguments.folder)):
            parser.error(f"no photographs in {arguments.folder}; name a folder of JPEG, PNG or WebP files")
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        speeds, difference = measure(paths, rounds)
    whole, box = (
        round(
            statistics.median(
                ours / theirs for ours, theirs in zip(speeds["verydeep"], speeds[name], strict=True)
            ),
            3,
        )
        for name in ("Pillow, whole", "Pillow, box")
    )
    sizes = f"S in [{SMALLEST}; {LARGEST}], crop {CROP}"
    what = f"reading training images, {sizes}, one core: speed relative to Pillow"
    claims = [Claim(f"{what} rescaling the whole image", whole, "times", {"at least": LEAST})]
    observations = [
        Observation(f"{what} rescaling only the crop's region", box, "times"),
        Observation("mean difference from Pillow rescaling the whole image", round(difference, 4), "grey levels"),
    ]
    details = {
        "photographs": len(paths),
        "rounds": rounds,
        "images a second, medians": {name: round(statistics.median(rates), 1) for name, rates in speeds.items()},
    }
    versions = {"Pillow": version("pillow"), "simplejpeg": version("simplejpeg")}
    return record(destination(arguments), claims, observations, versions=versions, details=details)


if __name__ == "__main__":
    sys.exit(main())
