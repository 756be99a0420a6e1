"""What is in a data set: sizes, classes, unreadable, damaged and duplicate photographs, colour statistics."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from verydeep.datasets.dataset import Dataset, Split, open_dataset
from verydeep.datasets.duplicates import same_content
from verydeep.datasets.survey import Survey, survey
from verydeep.task import ignored_by

ELONGATED = 20
"""`inspect` lists photographs whose long side is more than this many times their short side."""


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a split."""

    split: Split
    images: int
    counts: dict[str, int]
    """Images of each class."""
    mean: tuple[float, float, float]
    """Mean RGB in 0..255; NaN if no image can be read."""
    smallest_sides: tuple[int, int, int] | None
    """Minimum, median and maximum of the smallest sides of readable images, in pixels; None if there are none."""
    unreadable: tuple[str, ...]
    """One line per image that cannot be read."""
    others: tuple[str, ...]
    """Files and folders that are left out; for a folder, with the number of images below it."""
    suspicious: tuple[str, ...] = ()
    """One line per image that is very elongated, or that was read but may be damaged."""
    also_in_train: tuple[str, ...] = ()
    """One line per validation image with the same content as a training image; empty for the training set."""


def inspect(data: str | Path) -> tuple[Inspection, Inspection]:
    """Read all images of a data set, and report their classes, sizes, mean colour and faults.

    Args:
        data: a folder of photographs or "digits"; see `open_dataset`.

    Returns:
        The inspections of the training set and of the validation set.

    Raises:
        UserError: if there is no such data set.
    """
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    shared = tuple(
        f"{_named(val, row)}: has the same content as {_named(train, trained)}"
        for trained, row in same_content(train, val)
    )
    return _inspected(train, "train"), replace(_inspected(val, "val"), also_in_train=shared)


def _named(dataset: Dataset, row: int) -> str:
    photograph = dataset.photographs[row]
    return str(photograph) if isinstance(photograph, Path) else f"image {row} of {dataset.name}"


def _inspected(dataset: Dataset, split: Split) -> Inspection:
    found = survey(dataset)
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    sides = found.sizes[found.sizes.min(1) > 0].min(1)
    low, median, high = (int(value) for value in np.percentile(sides, (0, 50, 100))) if len(sides) else (0, 0, 0)
    red, green, blue = found.mean.tolist()
    return Inspection(
        split,
        len(dataset),
        dict(zip(dataset.classes, counts, strict=True)),
        (red, green, blue),
        (low, median, high) if len(sides) else None,
        tuple(reason for _, reason in found.unreadable),
        tuple(f"{path} (images below it: {count})" if count else str(path) for path, count in ignored_by(dataset)),
        (*(reason for _, reason in found.suspicious), *_elongated(dataset, found)),
    )


def _elongated(dataset: Dataset, found: Survey) -> Iterator[str]:
    short, long = found.sizes.min(1), found.sizes.max(1)
    for row in np.flatnonzero((short > 0) & (long > ELONGATED * short)).tolist():
        width, height = found.sizes[row]
        yield f"{_named(dataset, row)}: {width} x {height} pixels looks like a strip, not a photograph"
