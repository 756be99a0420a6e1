"""Photographs without classes, as users pass them: files, Pillow images or arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from verydeep.datasets.dataset import Dataset, selected
from verydeep.datasets.paths import Paths
from verydeep.errors import UserError
from verydeep.photographs.decoding import from_pillow
from verydeep.photographs.photograph import ImageError, Photograph, photograph_size
from verydeep.progress import say, track

Given: TypeAlias = str | Path | Image.Image | UInt8[np.ndarray, "_ _ 3"]
"""A file, a Pillow image, or an RGB array of height x width x 3."""


@dataclass(frozen=True, eq=False)
class Images:
    """Photographs whose sizes could be read. Their pixels may still turn out to be unreadable."""

    photographs: Sequence[Photograph]
    numbers: Int64[np.ndarray, " N"]
    """The position of each among the images passed."""
    sizes: Int64[np.ndarray, "N 2"]
    """Width and height in pixels."""

    def __len__(self) -> int:
        return len(self.photographs)

    def name(self, row: int) -> str:
        """Return the file of a photograph, or "image 3" for pixels in memory."""
        return _name(self.photographs[row], int(self.numbers[row]))

    def dataset(self, classes: Sequence[str]) -> Dataset:
        """Return the photographs as a data set whose labels are meaningless; a feature net has no classes."""
        names = tuple(classes) or ("photograph",)
        return Dataset("photographs", names, self.photographs, np.zeros(len(self), np.int64))

    def readable(self, unreadable: Mapping[int, ImageError]) -> list[int]:
        """Return the rows that could be read, and name each of the others on standard error."""
        for row in sorted(unreadable):
            _leave_out(self.name(row), unreadable[row])
        return [row for row in range(len(self)) if row not in unreadable]


def opened(images: Sequence[Given] | Dataset, skip_unreadable: bool, progress: bool = True) -> Images:
    """Open each image to read its size.

    Args:
        images: files, Pillow images (rotated as their EXIF data say) or arrays, or a data set, whose labels are
            ignored.
        skip_unreadable: whether to leave out images that cannot be opened, and name each on standard error.
        progress: whether to show progress on standard error.

    Raises:
        ImageError: for the first image that cannot be opened, unless `skip_unreadable` is set.
        UserError: if `images` is not a sequence of images.
    """
    if isinstance(images, Dataset):
        images = images.photographs
    if isinstance(images, str | Path | Image.Image | np.ndarray) or not isinstance(images, Sequence):
        raise UserError(
            f"images is of type {type(images).__name__}; pass a list of files, Pillow images or arrays"
        )
    kept: list[Photograph] = []
    sizes: dict[int, tuple[int, int]] = {}
    for number, image in enumerate(track(images, "opening photographs", len(images), progress)):
        try:
            photograph = photograph_of(image)
            sizes[number] = photograph_size(photograph)
        except ImageError as error:
            if not skip_unreadable:
                raise
            _leave_out(_name(image, number), error)
            continue
        if not isinstance(images, Paths):
            kept.append(photograph)
    numbers = np.array(list(sizes), np.int64)
    photographs = selected(images, numbers) if isinstance(images, Paths) else kept
    return Images(photographs, numbers, np.array(list(sizes.values()), np.int64).reshape(-1, 2))


def photograph_of(image: object) -> Photograph:
    """Return the photograph in a file, a Pillow image (rotated as its EXIF data say) or an array.

    Raises:
        ImageError: if an array is not uint8 of height x width x 3.
        UserError: if the image is of another type.
    """
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image is of type {type(image).__name__}; pass a file, a Pillow image or an array")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            None, f"an array of {image.dtype} and shape {image.shape}; pass uint8 of shape (height, width, 3)"
        )
    return image


def _name(image: object, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {number}"


def _leave_out(name: str, error: ImageError) -> None:
    say(f"left out: {name}: {error.reason}")
