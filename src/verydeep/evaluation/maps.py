"""Dense score maps: where in a photograph a net sees its classes (Sect. 3.2), as numbers and as a picture."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from verydeep.computing import Computing
from verydeep.configurations import STRIDE, whole_number
from verydeep.errors import UserError
from verydeep.evaluation.dense import nearest_covered
from verydeep.evaluation.images import Given, photograph_of
from verydeep.evaluation.posteriors import in_testing
from verydeep.evaluation.protocols import check_scales, passes, test_scale
from verydeep.files import written_aside
from verydeep.network import ConvNet
from verydeep.photographs.rescaling import rescale
from verydeep.printable import printable

COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)
"""Colours of posteriors from 0 to 1, increasingly bright (viridis)."""

OPACITY = 0.65
"""Opacity of the colours over the grey photograph."""

SIDE = 240
"""Longest side of a panel, in pixels."""

GAP, LINE, BAR = 14, 18, 14
"""Distance between panels, height of a line, and width of the colour bar, in pixels."""

INK, PAPER = (30, 30, 30), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Posteriors of the cells of a score map, at one scale and without mirror images."""

    scale: int
    """Test scale Q in pixels."""
    pixels: UInt8[np.ndarray, "H W 3"]
    """The photograph, rescaled to Q."""
    crop: int
    """Side of the window that a cell sees, in pixels. Cell (i, j) sees the square at row 32 i and column 32 j."""
    cells: Float32[np.ndarray, "K h w"]
    """Posteriors of the classes, from the scores of each cell alone."""
    posteriors: Float32[np.ndarray, " K"]
    """Posteriors of the whole photograph, from the mean of the cells' scores, as in dense testing."""


def class_maps(net: ConvNet, image: Given, scales: Sequence[int] | None = None) -> list[ClassMap]:
    """Apply a net densely to a photograph.

    Args:
        net: the net. It computes on its own device, and its mode is restored afterwards.
        image: a file, a Pillow image, or an RGB array of height x width x 3, uint8.
        scales: test scales Q in pixels; if None, `default_scales`.

    Returns:
        One map per scale.

    Raises:
        ImageError: if the image cannot be read.
        UserError: if a scale is wrong.
    """
    scales = default_scales(net) if scales is None else scales
    passes("dense", scales)
    check_scales(scales, net.crop)
    photograph, device, found = photograph_of(image), net.mean.device, []
    with in_testing(net, device), Computing().settings(device), torch.no_grad():
        for scale in scales:
            pixels = rescale(photograph, scale, net.card.rescaling)
            scores = net.score_map(torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None])[0].float()
            cells, whole = scores.softmax(0), scores.mean((1, 2)).softmax(0)
            found.append(ClassMap(scale, pixels, net.crop, cells.cpu().numpy(), whole.cpu().numpy()))
    return found


def default_scales(net: ConvNet) -> tuple[int, int]:
    """Return the net's default Q, and twice that, where a window sees half of the smallest side."""
    scale = test_scale(net.card)
    return scale, nearest_covered(2 * scale)


def draw_maps(
    maps: Sequence[ClassMap], names: Sequence[str], path: str | os.PathLike[str], top: int = 3
) -> list[str]:
    """Draw the maps of the most likely classes over the photograph, one row per scale, as a PNG.

    Args:
        maps: from `class_maps`.
        names: names of all classes.
        path: the file to write, .png; replaced if it exists.
        top: number of classes to show; they are ranked by their posteriors averaged over the scales.

    Returns:
        The names of the classes shown, most likely first.

    Raises:
        UserError: if `top` is below 1, or the file is not a .png or cannot be written.
    """
    check_picture(path, top)
    best = np.argsort(-np.mean([each.posteriors for each in maps], 0), kind="stable")[:top].tolist()
    picture = _picture(maps, best, [printable(names[k]) for k in best])
    with written_aside(Path(path)) as aside:
        picture.save(aside, format="PNG", optimize=True)
    return [names[k] for k in best]


def check_picture(path: str | os.PathLike[str], top: int) -> None:
    """Refuse what `draw_maps` cannot draw, before any work is done.

    Raises:
        UserError: if `top` is below 1, or the file is not a .png.
    """
    if whole_number("top", top) < 1:
        raise UserError(f"top is {top}; use at least 1")
    if Path(path).suffix.lower() != ".png":
        raise UserError(f"{os.fspath(path)}: the name of the picture must end in .png")


def over_photograph(
    one: ClassMap, values: Float32[np.ndarray, "h w"], size: tuple[int, int]
) -> Float64[np.ndarray, "rows columns"]:
    """Return the value at each pixel of a panel: that of the cell whose window's centre is nearest.

    Args:
        one: the map.
        values: one value per cell.
        size: width and height of the panel in pixels.
    """
    height, width = one.pixels.shape[:2]
    across, down = (
        # The centre of each pixel of the panel, in pixels of the photograph.
        np.rint(((np.arange(panel) + 0.5) * (side / panel) - one.crop / 2) / STRIDE).astype(int).clip(0, count - 1)
        for panel, side, count in zip(size, (width, height), values.shape[::-1], strict=True)
    )
    found: np.ndarray = values[down[:, None], across].astype(np.float64)
    return found


def coloured(values: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape 3"]:
    """Return the RGB colours, in 0..255, of posteriors in [0, 1]."""
    at = np.linspace(0, 1, len(COLOURS))
    found: np.ndarray = np.stack([np.interp(values, at, channel) for channel in COLOURS.T], -1)
    return found


def _picture(maps: Sequence[ClassMap], best: Sequence[int], names: Sequence[str]) -> Image.Image:
    height, width = maps[-1].pixels.shape[:2]
    ratio = SIDE / max(width, height)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    column, row = max(size[0], SIDE * 2 // 3) + GAP, size[1] + 2 * LINE + GAP
    left, top = GAP, GAP + LINE
    picture = Image.new(
        "RGB",
        (left + column * (1 + len(best)) + BAR + 4 * GAP, top + row * len(maps) + 2 * LINE),
        PAPER,
    )
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)

    def text(x: int, y: int, words: str, room: int = SIDE * 9) -> None:
        while len(words) > 4 and draw.textlength(words, font) > room:
            words = words[:-4] + "..."
        draw.text((x, y), words, INK, font)

    for number, name in enumerate(names, start=1):
        text(left + number * column, GAP // 2, name, column - GAP)
    for at, one in enumerate(maps):
        y = top + at * row
        panel = Image.fromarray(one.pixels).resize(size, Image.Resampling.BILINEAR)
        grey = np.asarray(panel.convert("L"), np.float64)[..., None]
        picture.paste(panel, (left, y))
        window = one.crop * size[0] / one.pixels.shape[1]
        x0, y0 = left + (size[0] - window) / 2, y + (size[1] - window) / 2
        draw.rectangle((x0, y0, x0 + window - 1, y0 + window - 1), outline=PAPER, width=2)
        rows, columns = one.cells.shape[1:]
        text(left, y + size[1] + 2, f"Q = {one.scale}: {columns} x {rows} cells", column - GAP)
        for number, k in enumerate(best, start=1):
            colours = coloured(over_photograph(one, one.cells[k], size))
            mixed = OPACITY * colours + (1 - OPACITY) * grey
            x = left + number * column
            picture.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)), (x, y))
            words = f"whole {one.posteriors[k]:.1%}, cells up to {one.cells[k].max():.1%}"
            text(x, y + size[1] + 2, words, column - GAP)
    x, length = left + column * (1 + len(best)), size[1]
    ramp = np.repeat(np.linspace(1, 0, length)[:, None], BAR, 1)
    picture.paste(Image.fromarray(np.rint(coloured(ramp)).astype(np.uint8)), (x, top))
    for value in (1.0, 0.5, 0.0):
        text(x + BAR + 4, top + round((1 - value) * length) - LINE // 2, f"{value:.0%}")
    crop = maps[0].crop
    seen = f"White square: the window of a cell ({crop} pixels at scale Q)."
    words = f"Colour: posterior of the nearest cell; whole: posterior of the mean scores. {seen}"
    text(left, picture.height - 2 * LINE, words, picture.width - 2 * GAP)
    return picture
