"""A picture of test photographs with the training photographs whose vectors are nearest to theirs."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image, ImageDraw, ImageFont

from verydeep.errors import UserError
from verydeep.files import written_aside
from verydeep.photographs.photograph import ImageError, decode
from verydeep.printable import printable
from verydeep.transfer.describing import Described
from verydeep.transfer.splits import Split

QUERIES, NEAREST = 8, 6
"""Rows of the picture, and training photographs in each."""

SIDE, GAP, LINE, FRAME = 120, 10, 16, 4
"""Side of a panel, distance between panels, height of a line and width of a frame, in pixels."""

INK, PAPER, RIGHT, WRONG = (30, 30, 30), (255, 255, 255), (40, 130, 70), (200, 50, 40)


class Neighbour(NamedTuple):
    """A training photograph near a test photograph."""

    row: int
    """Its number in the data set."""
    cosine: float
    """Of the angle between the two vectors."""
    right: bool
    """Whether the two share a class."""


def neighbours(found: Described, split: Split, query: int, count: int = NEAREST) -> list[Neighbour]:
    """Return the training photographs nearest to a test photograph, nearest first.

    Args:
        found: the vectors.
        split: whose training photographs to search.
        query: number of the test photograph in the data set.
        count: how many to return.
    """
    cosines = found.vectors[split.train] @ found.vectors[query]
    shared = ((found.data.labels[split.train] == 1) & (found.data.labels[query] == 1)).any(1)
    nearest = np.argsort(-cosines, kind="stable")[:count].tolist()
    return [Neighbour(int(split.train[at]), float(cosines[at]), bool(shared[at])) for at in nearest]


def draw_neighbours(
    found: Described, split: Split, path: str | os.PathLike[str], queries: int = QUERIES, seed: int = 0
) -> None:
    """Draw test photographs at the left, and next to each its nearest training photographs, as a PNG.

    A green frame and "+" mark a neighbour of the same class, a red frame and "x" one of another class. The test
    photographs are drawn at random, of different classes as far as possible.

    Args:
        found: the vectors.
        split: whose photographs to show.
        path: the file to write, .png; replaced if it exists.
        queries: number of test photographs.
        seed: of the draw.

    Raises:
        UserError: if the file is not a .png, cannot be written, or a photograph has changed and cannot be read.
    """
    check_neighbours(path)
    rows = _queries(found, split, queries, seed)
    row_height = SIDE + 2 * LINE + GAP
    width = 2 * GAP + (SIDE + GAP) * (1 + NEAREST) + GAP
    picture = Image.new("RGB", (width, 2 * GAP + LINE + row_height * len(rows)), PAPER)
    pen = _Pen(picture)
    pen.write(GAP, GAP // 2, "test photograph")
    pen.write(
        GAP * 3 + SIDE, GAP // 2, "nearest training photographs, cosine of the angle", (SIDE + GAP) * NEAREST
    )
    for at, query in enumerate(rows.tolist()):
        top = GAP + LINE + at * row_height
        pen.panel(GAP, top, found, query, INK)
        pen.write(GAP, top + SIDE, _name(found, query))
        for place, each in enumerate(neighbours(found, split, query)):
            left = 3 * GAP + SIDE + place * (SIDE + GAP)
            pen.panel(left, top, found, each.row, RIGHT if each.right else WRONG)
            pen.write(left, top + SIDE, f"{'+' if each.right else 'x'} {_name(found, each.row)}")
            pen.write(left, top + SIDE + LINE, f"{each.cosine:.3f}")
    with written_aside(Path(path)) as aside:
        picture.save(aside, format="PNG", optimize=True)


def check_neighbours(path: str | os.PathLike[str]) -> None:
    """Refuse a file that `draw_neighbours` cannot write, before any work is done.

    Raises:
        UserError: if it is not a .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise UserError(f"{os.fspath(path)}: the name of the picture must end in .png")


def _queries(found: Described, split: Split, count: int, seed: int) -> Int64[np.ndarray, " q"]:
    """Draw test photographs: one of each class in a random order, then a second one, and so on."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(split.test)
    own = (found.data.labels[order] == 1).argmax(1)
    seen: dict[int, int] = {}
    turn = []
    for each in own.tolist():
        turn.append(seen.get(each, 0))
        seen[each] = seen.get(each, 0) + 1
    chosen: Int64[np.ndarray, " q"] = order[np.argsort(turn, kind="stable")][:count]
    return chosen


def _name(found: Described, row: int) -> str:
    return (
        ", ".join(_names(found.data.classes, np.flatnonzero(found.data.labels[row] == 1).tolist())) or "no class"
    )


def _names(classes: tuple[str, ...], numbers: Iterable[int]) -> Iterator[str]:
    return (printable(classes[number]) for number in numbers)


class _Pen:
    """Draws panels and text."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        self._draw, self._font = ImageDraw.Draw(picture), ImageFont.load_default(12)

    def write(self, x: int, y: int, words: str, room: int = SIDE) -> None:
        while len(words) > 4 and self._draw.textlength(words, self._font) > room:
            words = words[:-4] + "..."
        self._draw.text((x, y), words, INK, self._font)

    def panel(self, x: int, y: int, found: Described, row: int, colour: tuple[int, int, int]) -> None:
        """Draw a photograph in a frame, reduced or enlarged to fit."""
        photograph = found.data.photographs[row]
        pixels = decode(photograph)
        if found.boxes and found.data.boxes is not None:
            x0, y0, x1, y1 = found.data.boxes[row].tolist()
            pixels = pixels[y0:y1, x0:x1]
            if not pixels.size:
                raise ImageError(None, "the box lies outside of the photograph")
        room = SIDE - 2 * FRAME
        ratio = room / max(pixels.shape[:2])
        size = max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio))
        small = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        self._draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=colour, width=FRAME)
        self._picture.paste(small, (x + (SIDE - size[0]) // 2, y + (SIDE - size[1]) // 2))
