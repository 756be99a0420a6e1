"""Digits pasted at random places and sizes on backgrounds: a data set whose boxes are known exactly."""

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from sklearn.datasets import load_digits

from verydeep.configurations import whole_number
from verydeep.datasets.dataset import DIGITS_TRAIN, Dataset
from verydeep.distributed import generator
from verydeep.errors import UserError
from verydeep.localisation.annotations import Annotated

SHARES = (0.35, 0.8)
"""Height of a digit, as a share of the image's smallest side: from, to."""

BACKGROUND = (60, 120)
"""Grey levels of the background, from which each digit differs by at least 60."""


def digits_with_boxes(
    images: int, side: int = 64, split: Literal["train", "val"] = "train", seed: int = 0
) -> Annotated:
    """Make a data set of digits, each with the box of its ink.

    The digits are scikit-learn's, from the same writers as those of `open_dataset("digits", split)`. An image
    depends only on the seed, the split, and its number.

    Args:
        images: how many.
        side: smallest side of the images in pixels; the other one is up to 1.5 times as long.
        split: whose digits.
        seed: of all draws.

    Raises:
        UserError: if a number is out of range.
    """
    if whole_number("images", images) < 1 or whole_number("side", side) < 16:
        raise UserError(f"{images} images with a side of {side} pixels; give 1 or more, of at least 16 pixels")
    source = load_digits()
    first, last = (0, DIGITS_TRAIN) if split == "train" else (DIGITS_TRAIN, len(source.images))
    photographs, labels, boxes = [], [], []
    for number in range(images):
        chance = generator(seed, "image", number, first)
        which = int(chance.integers(first, last))
        pixels, box = _pasted(source.images[which], side, chance)
        photographs.append(pixels)
        labels.append(int(source.target[which]))
        boxes.append(box[None])
    classes = tuple(str(digit) for digit in range(10))
    dataset = Dataset(f"digits with boxes/{split}", classes, tuple(photographs), np.array(labels, np.int64))
    return Annotated(dataset, tuple(boxes))


def _pasted(
    digit: Float[np.ndarray, "8 8"], side: int, chance: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "4"]]:
    """Return an image with a digit at a random place, and the box of its ink."""
    long = int(side * chance.uniform(1, 1.5))
    width, height = (side, long) if chance.random() < 0.5 else (long, side)
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / digit.max()
    tall = round(side * chance.uniform(*SHARES))
    wide = min(max(round(tall * ink.shape[1] / ink.shape[0]), 1), width)
    drawn = np.asarray(Image.fromarray(np.float32(ink)).resize((wide, tall), Image.Resampling.BILINEAR))
    left, top = int(chance.integers(width - wide + 1)), int(chance.integers(height - tall + 1))
    background = np.full((height, width, 3), chance.uniform(*BACKGROUND, 3)) + chance.normal(
        0, 8, (height, width, 1)
    )
    colour = chance.uniform(180, 255, 3)
    place = background[top : top + tall, left : left + wide]
    place += drawn[..., None] * (colour - place)
    box = np.array([left, top, left + wide, top + tall], np.float64)
    return np.clip(background, 0, 255).astype(np.uint8), box
