"""Appendix A: boxes of a photograph, from the score maps of a regressor and of a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from verydeep.configurations import STRIDE
from verydeep.localisation.boxes import boxes_of, clipped, rescaled
from verydeep.localisation.merging import THRESHOLD, Merged, merged
from verydeep.localisation.regressor import Outputs


@dataclass(frozen=True, eq=False)
class Maps:
    """What a regressor and a classifier say of a photograph at one test scale Q."""

    size: tuple[int, int]
    """Width and height of the rescaled photograph, in pixels."""
    crop: int
    """Side of the window that a cell sees, in pixels. Cell (i, j) sees the square at row 32 i and column 32 j."""
    outputs: Float[np.ndarray, "outputs h w"]
    """Outputs of the regressor: boxes relative to the window of each cell."""
    named: Outputs
    """What they mean."""
    posteriors: Float[np.ndarray, "K h w"]
    """Posteriors of the classes for each cell, in [0, 1]; the classifier has the same crop."""


@dataclass(frozen=True)
class Located:
    """A class of a photograph with its box."""

    name: str
    """The class."""
    posterior: float
    """Its posterior for the whole photograph, in [0, 1]."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom edge in pixels of the photograph, inside it."""
    windows: int
    """Number of windows whose boxes were merged into it."""


def window_corners(rows: int, columns: int) -> Float[np.ndarray, "N 2"]:
    """Return left and top edge of the window of each cell, row by row, in pixels."""
    top, left = np.mgrid[:rows, :columns] * float(STRIDE)
    return np.stack([left.ravel(), top.ravel()], axis=1)


def boxes_of_class(
    maps: Sequence[Maps], name: str, number: int, size: tuple[int, int], threshold: float = THRESHOLD
) -> Merged:
    """Merge the boxes that all windows at all scales, and of all nets, predict for a class.

    Args:
        maps: of one photograph: one per scale and net.
        name: the class.
        number: its place among the classes of the classifier.
        size: width and height of the photograph in pixels.
        threshold: as for `merging.merged`.

    Returns:
        Merged boxes in pixels of the photograph, the best rated first, rated by the sums of the posteriors of the
        class in the windows that they come from.
    """
    boxes, scores = [], []
    for each in maps:
        count, rows, columns = each.outputs.shape
        outputs = each.named.of_class(each.outputs.reshape(count, -1).T.astype(np.float64), name)
        found = boxes_of(outputs, window_corners(rows, columns), each.crop)
        boxes.append(rescaled(found, each.size, size))
        scores.append(each.posteriors[number].ravel().astype(np.float64))
    return merged(clipped(np.concatenate(boxes), *size), np.concatenate(scores), threshold)


def located(
    maps: Sequence[Maps],
    posteriors: Float[np.ndarray, " K"],
    names: Sequence[str],
    size: tuple[int, int],
    top: int = 5,
    threshold: float = THRESHOLD,
) -> list[Located]:
    """Return the most likely classes of a photograph, each with the best rated of its boxes (Appendix A).

    Args:
        maps: of the photograph: one per scale and net.
        posteriors: of the whole photograph, from the classifier.
        names: all classes.
        size: width and height of the photograph in pixels.
        top: number of classes.
        threshold: as for `merging.merged`.

    Returns:
        One box per class, the most likely class first.
    """
    best = np.argsort(-posteriors, kind="stable")[:top].tolist()
    found = []
    for number in best:
        of_class = boxes_of_class(maps, names[number], number, size, threshold)
        x0, y0, x1, y1 = of_class.boxes[0].tolist()
        located_here = Located(names[number], float(posteriors[number]), (x0, y0, x1, y1), int(of_class.counts[0]))
        found.append(located_here)
    return found
