"""Photographs for smoke runs of benchmarks without a folder of photographs."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photographs(folder: Path, count: int, height: int, width: int) -> None:
    """Write smooth scenes with some grain as JPEG files: 0.jpg, 1.jpg, ..., of a given size in pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng(number)
        small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        scene = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        grainy = np.clip(scene + random.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(folder / f"{number}.jpg", quality=90)
