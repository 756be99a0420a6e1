"""Appendix A: a photograph with its predicted boxes, and where the classifier sees the most likely class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from verydeep.evaluation.maps import INK, OPACITY, PAPER, ClassMap, coloured, over_photograph
from verydeep.files import written_aside
from verydeep.localisation.boxes import Boxes, overlap
from verydeep.localisation.prediction import Located
from verydeep.photographs.photograph import Photograph, decode
from verydeep.printable import printable

SIDE = 320
"""Longest side of a panel in pixels."""

GAP, LINE = 10, 17
"""Distance between panels, and height of a line, in pixels."""

COLOURS = ((214, 39, 40), (31, 119, 180), (255, 127, 14), (44, 160, 44), (148, 103, 189))
"""Of the boxes, the most likely class first; they repeat after the fifth."""

TRUTH = (255, 255, 255)
"""Of true boxes, on a dark outline."""


def draw_boxes(
    photograph: Photograph,
    located: Sequence[Located],
    path: str | os.PathLike[str],
    one: ClassMap | None = None,
    number: int = 0,
) -> None:
    """Draw the boxes of a photograph, and beside it the map of its most likely class with its box, as a PNG.

    Args:
        photograph: the photograph.
        located: its classes with their boxes, the most likely class first.
        path: the file to write; replaced if it exists.
        one: the classifier's map of the photograph; None for no map.
        number: the place of the most likely class among those of the map.

    Raises:
        ImageError: if the photograph cannot be read.
        UserError: if the file cannot be written.
    """
    pixels = decode(photograph)
    panels = [boxes_panel(pixels, located)]
    if one is not None and located:
        panels.append(map_panel(pixels, one, number, located[0]))
    room = max(2 * SIDE + GAP if len(panels) > 1 else SIDE, sum(each.width for each in panels) + GAP)
    high = max(each.height for each in panels)
    picture = Image.new("RGB", (room + 2 * GAP, high + 3 * GAP + LINE * (len(located) + 1)), PAPER)
    left = GAP
    for panel in panels:
        picture.paste(panel, (left, GAP))
        left += panel.width + GAP
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    y = high + 2 * GAP
    for rank, each in enumerate(located):
        x0, y0, x1, y1 = each.box
        name = printable(each.name)
        words = (
            f"{name} {each.posterior:.1%}: ({x0:.0f}, {y0:.0f}) to ({x1:.0f}, {y1:.0f}), {each.windows} windows"
        )
        draw.text((GAP, y + rank * LINE), words, COLOURS[rank % len(COLOURS)], font)
    if one is not None and located:
        words = f"right: posteriors of {printable(located[0].name)}, Q = {one.scale}"
        draw.text((GAP, y + len(located) * LINE), words, INK, font)
    with written_aside(Path(path)) as aside:
        picture.save(aside, format="PNG", optimize=True)


def boxes_panel(
    pixels: UInt8[np.ndarray, "h w 3"], located: Sequence[Located], truth: Boxes | None = None
) -> Image.Image:
    """Return a photograph, at most `SIDE` pixels per side, with its boxes; the most likely class is drawn last.

    Args:
        pixels: the photograph, RGB.
        located: classes with their boxes in its pixels.
        truth: true boxes, drawn in white; None if unknown.
    """
    panel = Image.fromarray(pixels).resize(_panel_size(pixels), Image.Resampling.BILINEAR)
    draw, ratio = ImageDraw.Draw(panel), panel.width / pixels.shape[1]
    for box in [] if truth is None else truth.tolist():
        _outline(draw, box, ratio, INK, 4)
        _outline(draw, box, ratio, TRUTH, 2)
    for rank in reversed(range(len(located))):
        _outline(draw, located[rank].box, ratio, COLOURS[rank % len(COLOURS)], 3 if rank == 0 else 1)
    return panel


def map_panel(pixels: UInt8[np.ndarray, "h w 3"], one: ClassMap, number: int, first: Located) -> Image.Image:
    """Return the map of a class over the photograph in grey, with the box of that class.

    Args:
        pixels: the photograph, RGB.
        one: the classifier's map of it.
        number: the place of the class in the map.
        first: the class with its box.
    """
    size = _panel_size(pixels)
    panel = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    grey = np.asarray(panel.convert("L"), np.float64)[..., None]
    mixed = OPACITY * coloured(over_photograph(one, one.cells[number], size)) + (1 - OPACITY) * grey
    drawn = Image.fromarray(np.rint(mixed).astype(np.uint8))
    _outline(ImageDraw.Draw(drawn), first.box, size[0] / pixels.shape[1], COLOURS[0], 3)
    return drawn


def _panel_size(pixels: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    ratio = SIDE / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _outline(
    draw: ImageDraw.ImageDraw, box: Sequence[float], ratio: float, colour: tuple[int, int, int], width: int
) -> None:
    x0, y0, x1, y1 = (round(edge * ratio) for edge in box)
    draw.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=colour, width=width)


COLUMNS = 5
"""Photographs per row of a sheet."""

RIGHT, WRONG = (0, 120, 0), (190, 0, 0)
"""Colours of captions."""


@dataclass(frozen=True, eq=False)
class Example:
    """A photograph with a prediction and the truth."""

    pixels: UInt8[np.ndarray, "h w 3"]
    located: Located
    """Its most likely class, with the box."""
    name: str
    """Its true class."""
    truth: Boxes
    right: bool
    """Whether class and box are right."""


def draw_examples(examples: Sequence[Example], path: str | os.PathLike[str]) -> None:
    """Draw photographs with their predicted box in red and the true ones in white, as a PNG.

    Raises:
        UserError: if the file cannot be written.
    """
    side = SIDE + GAP
    rows = -(-len(examples) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * side + GAP, rows * (side + 2 * LINE) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, example in enumerate(examples):
        x, y = GAP + place % COLUMNS * side, GAP + place // COLUMNS * (side + 2 * LINE)
        sheet.paste(boxes_panel(example.pixels, [example.located], example.truth), (x, y))
        best = float(overlap(np.array([example.located.box]), example.truth).max())
        found = f"{printable(example.located.name)} {example.located.posterior:.0%}, overlap {best:.2f}"
        draw.text((x, y + SIDE + 2), found, RIGHT if example.right else WRONG, font)
        draw.text((x, y + SIDE + 2 + LINE), f"true: {printable(example.name)}", INK, font)
    with written_aside(Path(path)) as aside:
        sheet.save(aside, format="PNG", optimize=True)
