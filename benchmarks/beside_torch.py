"""The script that most people would write in torch for a folder of photographs, and ours in turn with it."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from claims import Claim, Observation, destination, record
from photographs import write_photographs

LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
"""Memory layouts of the script's net."""


def with_mirror_image(path: Path, scale: int) -> Tensor:
    """Read a photograph with Pillow, rescaled to a shortest side: itself and its mirror image, (2, 3, h, w)."""
    image = Image.open(path).convert("RGB")
    ratio = scale / min(image.size)
    width, height = (round(side * ratio) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    one = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    return torch.cat([one, one.flip(3)])


@contextmanager
def photographs_of(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Iterator[list[Path]]:
    """Yield the photographs of the folder that was given, or two made-up ones with --smoke."""
    with TemporaryDirectory() as made:
        folder: Path | None = arguments.folder
        if folder is None:
            if not arguments.smoke:
                parser.error("pass a folder of photographs")
            folder = Path(made)
            write_photographs(folder, 2, 300, 400)
        yield sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def compare(
    arguments: argparse.Namespace,
    sides: Mapping[str, Callable[[], np.ndarray]],
    count: int,
    unit: str,
    what: str,
    apart: tuple[str, Callable[[np.ndarray, np.ndarray], float]],
) -> int:
    """Let the sides take turns, and record how much faster verydeep is than each of the others.

    Args:
        arguments: of the command line; their `rounds` are 3 by default, 1 with --smoke.
        sides: what computes the same: verydeep first, then the script.
        count: how many results a turn has.
        unit: what they are, in the plural.
        what: net, photographs and protocol, in words.
        apart: how results differ, in words and as a function of both.

    Returns:
        The exit status of `record`.
    """
    rounds: int = arguments.rounds or (1 if arguments.smoke else 3)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            found[name] = side()
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {count / seconds[name][-1]:.2f} {unit}/s", flush=True)
    ours, *others = sides
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    times = {name: round(medians[name] / medians[ours], 3) for name in others}
    words, distance = apart
    differences = {name: float(f"{distance(found[ours], found[name]):.2g}") for name in others}
    speed = f"{what}: {unit} per second, relative to the script in torch"
    return record(
        destination(arguments),
        [Claim(speed, min(times.values()), "times", {"at least": 1.5}, times)],
        [
            Observation(f"{what}: speed of verydeep", round(count / medians[ours], 2), f"{unit}/s"),
            Observation(words, max(differences.values()), "", differences),
        ],
        versions={"pillow": version("pillow")},
        details={"rounds": rounds, "seconds": seconds},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `photographs_of` and `compare` use."""
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of photographs")
    parser.add_argument("--rounds", type=int, help="[default: 3; 1 with --smoke]")
