"""Sect. 3.2, 4.1 to 4.3: protocols of testing, and the passes over a data set that each of them averages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from verydeep.card import Card
from verydeep.configurations import whole_number
from verydeep.errors import UserError
from verydeep.evaluation.dense import nearest_covered
from verydeep.evaluation.multicrop import GRID
from verydeep.recipe import paper_scale

Method = Literal["dense", "multi-crop", "centre-crop", "windows"]

PROTOCOLS: dict[str, tuple[Method, ...]] = {
    "dense": ("dense",),
    "multi-crop": ("multi-crop",),
    "both": ("dense", "multi-crop"),
    "centre-crop": ("centre-crop",),
    "windows": ("windows",),
}
"""The kinds of pass that each method averages. "both" is dense and multi-crop (Sect. 4.3). "centre-crop" is one
crop per image. "windows" cuts out the crops that the cells of a score map see, and tests each by itself."""


@dataclass(frozen=True)
class Pass:
    """One testing pass over a data set."""

    method: Method
    scale: int
    """Test scale Q: the smallest side of the rescaled image, in pixels."""
    flip: bool = True
    """Whether the posteriors of an image and its mirror image are averaged."""
    grid: int = field(default=GRID, repr=False)
    """Crops along each side in multi-crop testing; 5 in the paper."""

    def __repr__(self) -> str:
        """Return a text that stored matrices are found by. For the paper's grid it is that of earlier versions."""
        grid = f", grid={self.grid}" if self.grid != GRID else ""
        return f"Pass(method={self.method!r}, scale={self.scale!r}, flip={self.flip!r}{grid})"


def passes(method: str, scales: Sequence[int], flip: bool = True, grid: int = GRID) -> tuple[Pass, ...]:
    """Return the passes that a protocol averages.

    Args:
        method: dense, multi-crop, both, centre-crop, or windows.
        scales: test scales Q in pixels.
        flip: whether to average each image with its mirror image.
        grid: crops along each side in multi-crop testing.

    Raises:
        UserError: if the method is unknown, there is no scale, a scale is given twice, or `scales` is not a list.
    """
    kinds = kinds_of(method)
    if not isinstance(scales, Sequence) or isinstance(scales, str):
        raise UserError(f"scales is {scales!r}; pass a list of test scales Q in pixels, such as [256, 384, 512]")
    scales = [whole_number("a test scale Q", scale) for scale in scales]
    if not scales or len(set(scales)) < len(scales):
        raise UserError(f"scales are {scales}; pass at least one test scale Q, each once")
    return tuple(
        Pass(kind, scale, flip, grid if kind == "multi-crop" else GRID) for kind in kinds for scale in scales
    )


def kinds_of(method: str) -> tuple[Method, ...]:
    """Return the kinds of pass that a protocol averages.

    Raises:
        UserError: if the method is unknown.
    """
    if not isinstance(method, str) or method not in PROTOCOLS:
        raise UserError(f"method is {method!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[method]


def check_scales(scales: Sequence[int], crop: int) -> None:
    """Refuse test scales below a net's crop, before any work is done.

    Raises:
        UserError: if there is one; names the smallest.
    """
    if min(scales) < crop:
        raise UserError(f"test scale Q is {min(scales)} pixels, below the net's crop; use at least {crop}")


def protocol(method: str, scales: Sequence[int], flip: bool) -> str:
    """Return the protocol that is printed with every error: method, test scales and mirror images."""
    mirror = "with mirror images" if flip else "no mirror images"
    return f"{'dense & multi-crop' if method == 'both' else method}, Q = {', '.join(map(str, scales))}, {mirror}"


def test_scale(card: Card, method: str = "dense") -> int:
    """Return the default test scale Q of a net, in pixels: S, or 0.5 (Smin + Smax) (Sect. 4.1).

    If the method uses score maps, Q is the nearest multiple of 32, so that no pixel of the smallest side is left
    out. All values of Q in the paper are multiples of 32. A net of unknown training scale is assumed to be trained
    at S = crop + 32.

    Raises:
        UserError: if the method is unknown.
    """
    scale = middle(*(card.training_scale or (paper_scale(card.architecture.crop),) * 2))
    return nearest_covered(scale) if {"dense", "windows"} & set(kinds_of(method)) else scale


def middle(low: int, high: int) -> int:
    """Return 0.5 (Smin + Smax), in whole pixels."""
    return (low + high) // 2
