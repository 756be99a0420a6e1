"""Appendix A: the errors of box predictions, beside those of two boxes that need no net."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from verydeep.evaluation.metrics import Error
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.boxes import Boxes
from verydeep.localisation.metrics import hits, is_hit, mean_boxes, whole_image_boxes
from verydeep.localisation.prediction import Located

TOP = 5
"""Classes per photograph in protocol 2."""

BASELINES = ("whole image", "mean training box")


@dataclass(frozen=True, eq=False)
class Hits:
    """Whether each photograph is located."""

    top1: Bool[np.ndarray, " N"]
    """By the most likely class and its box; in protocol 1, by the box of the true class."""
    top5: Bool[np.ndarray, " N"] | None = None
    """By any of the five most likely classes; None in protocol 1, where the class is given."""

    @property
    def errors(self) -> tuple[Error, Error | None]:
        """The top-1 and the top-5 error."""
        return _error(self.top1), None if self.top5 is None else _error(self.top5)


def _error(hit: Bool[np.ndarray, " N"]) -> Error:
    return Error(int((~hit).sum()), len(hit))


def hits_of_boxes(boxes: Float64[np.ndarray, "N 4"], data: Annotated) -> Hits:
    """Return whether one box per photograph is right: protocol 1."""
    found = [is_hit(box.tolist(), truth) for box, truth in zip(boxes, data.boxes, strict=True)]
    return Hits(np.array(found, bool))


def hits_of_classes(predictions: Sequence[Sequence[Located]], data: Annotated) -> Hits:
    """Return whether class and box are right: protocol 2."""
    return Hits(hits(predictions, data, 1), hits(predictions, data, TOP))


def class_errors(predictions: Sequence[Sequence[Located]], data: Annotated) -> tuple[Error, Error]:
    """Return the top-1 and the top-5 error of the classes alone, whatever the boxes."""
    names = [data.dataset.classes[label] for label in data.dataset.labels.tolist()]
    found = [
        np.array([name in [each.name for each in of[:top]] for of, name in zip(predictions, names, strict=True)])
        for top in (1, TOP)
    ]
    return _error(found[0]), _error(found[1])


def baseline_boxes(training: Annotated, data: Annotated) -> dict[str, Float64[np.ndarray, "N 4"]]:
    """Return the boxes of the two baselines by name: `BASELINES`."""
    return dict(zip(BASELINES, (whole_image_boxes(data), mean_boxes(training, data)), strict=True))


def with_boxes(predictions: Sequence[Sequence[Located]], boxes: Boxes) -> list[list[Located]]:
    """Return predictions with the box of each photograph replaced, for all of its classes."""
    return [
        [replace(each, box=(x0, y0, x1, y1), windows=0) for each in of]
        for of, (x0, y0, x1, y1) in zip(predictions, boxes.tolist(), strict=True)
    ]
