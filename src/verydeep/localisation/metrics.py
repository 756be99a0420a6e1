"""Appendix A: the localisation error, and the two boxes that anybody could predict without a net."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from verydeep.localisation.annotations import Annotated
from verydeep.localisation.boxes import Boxes, overlap
from verydeep.localisation.prediction import Located
from verydeep.photographs.photograph import photograph_size

HIT = 0.5
"""A box is right if its intersection over union with a true box exceeds this."""


def is_hit(box: Sequence[float], truth: Boxes) -> bool:
    """Return whether a predicted box is right: it overlaps one of the true boxes by more than half."""
    return bool(overlap(np.array([box], np.float64), truth).max(initial=0.0) > HIT)


def hits(predictions: Sequence[Sequence[Located]], truth: Annotated, top: int) -> Bool[np.ndarray, " N"]:
    """Return for each photograph whether one of its first `top` predictions has the right class and a right box.

    Args:
        predictions: of each photograph, the most likely class first.
        truth: classes and boxes.
        top: 1 or 5.
    """
    names = [truth.dataset.classes[label] for label in truth.dataset.labels.tolist()]
    found = [
        any(each.name == name and is_hit(each.box, boxes) for each in predicted[:top])
        for predicted, name, boxes in zip(predictions, names, truth.boxes, strict=True)
    ]
    return np.array(found, bool)


def whole_image_boxes(data: Annotated) -> Float[np.ndarray, "N 4"]:
    """Return the box of the whole image for each photograph: the first baseline."""
    sizes = [photograph_size(photograph) for photograph in data.dataset.photographs]
    return np.array([[0, 0, width, height] for width, height in sizes], np.float64).reshape(-1, 4)


def mean_boxes(training: Annotated, data: Annotated) -> Float[np.ndarray, "N 4"]:
    """Return the mean box of a training set for each photograph: the second baseline.

    The mean is taken over the first box of each training photograph, relative to its width and height.
    """
    size = np.tile(whole_image_boxes(training)[:, 2:], 2)
    mean = (np.stack([each[0] for each in training.boxes]) / size).mean(0)
    found: np.ndarray = mean * np.tile(whole_image_boxes(data)[:, 2:], 2)
    return found
