"""Data sets for transfer (Appendix B): photographs, labels, official splits and the boxes of people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Int8, Int64

from verydeep.datasets.dataset import selected
from verydeep.errors import UserError
from verydeep.photographs.photograph import Photograph
from verydeep.transfer.measures import Measure

Part: TypeAlias = Literal["train", "val", "test"]


@dataclass(frozen=True, eq=False)
class TransferData:
    """A data set to transfer a net to. Its photographs are not opened yet.

    Raises:
        UserError: if the fields do not fit together, or a class has no photographs.
    """

    name: str
    """Name for tables and messages, such as VOC2007."""
    classes: tuple[str, ...]
    photographs: Sequence[Photograph]
    """One per example; the same one several times if there are several people in it."""
    labels: Int8[np.ndarray, "N K"]
    """For each example and class: 1 if it belongs to the class, -1 if not, 0 if that is difficult to say."""
    measure: Measure
    """The measure of the data set. For class-recall, each example belongs to exactly one class."""
    parts: Mapping[Part, Int64[np.ndarray, " n"]] = field(default_factory=dict)
    """The examples of each part of the official split; empty if there is none."""
    boxes: Int64[np.ndarray, "N 4"] | None = None
    """The person of each example: x0, y0, x1, y1 in pixels, x1 and y1 excluded; None if there are no boxes."""

    def __post_init__(self) -> None:
        shape = (len(self.photographs), len(self.classes))
        if not all(shape):
            raise UserError(f"{self.name}: {shape[0]} photographs and {shape[1]} classes; there must be some")
        if self.labels.shape != shape:
            raise UserError(f"{self.name}: labels have shape {self.labels.shape}; they must have {shape}")
        if len(set(self.classes)) < len(self.classes):
            raise UserError(f"{self.name}: a class name is given twice; each class needs its own")
        if not ((self.labels >= -1) & (self.labels <= 1)).all():
            raise UserError(f"{self.name}: labels must be 1, 0 or -1")
        if self.measure not in get_args(Measure):
            raise UserError(f"{self.name}: measure is {self.measure!r}; use one of {', '.join(get_args(Measure))}")
        if self.single and not ((self.labels == 1).sum(1) == 1).all():
            raise UserError(f"{self.name}: the class recall needs exactly one class per photograph")
        for name, rows in self.parts.items():
            if name not in get_args(Part) or (len(rows) and not 0 <= rows.min() <= rows.max() < shape[0]):
                raise UserError(f"{self.name}: part {name!r} of the split is not one of its examples")
        if self.boxes is not None:
            x0, y0, x1, y1 = self.boxes.T
            if self.boxes.shape != (shape[0], 4) or not ((x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0)).all():
                raise UserError(f"{self.name}: each box must be x0 < x1, y0 < y1, from 0 on")
        for at in np.flatnonzero(~(self.labels == 1).any(0)).tolist():
            raise UserError(f"{self.name}: class {self.classes[at]} has no photographs; add some, or leave it out")

    def __len__(self) -> int:
        return len(self.photographs)

    @property
    def single(self) -> bool:
        """Whether each example belongs to exactly one class."""
        return self.measure == "class-recall"

    def without(self, rows: Sequence[int]) -> "TransferData":
        """Return the data set without some examples, which could not be read.

        Raises:
            UserError: if a class would have no photographs left.
        """
        if not rows:
            return self
        kept = np.setdiff1d(np.arange(len(self)), np.array(rows, np.int64))
        place = np.full(len(self), -1, np.int64)
        place[kept] = np.arange(len(kept))
        parts = {name: place[numbers] for name, numbers in self.parts.items()}
        return replace(
            self,
            photographs=selected(self.photographs, kept),
            labels=self.labels[kept],
            parts={name: numbers[numbers >= 0] for name, numbers in parts.items()},
            boxes=None if self.boxes is None else self.boxes[kept],
        )


def single_labels(labels: Int64[np.ndarray, " N"], classes: int) -> Int8[np.ndarray, "N K"]:
    """Return the matrix of labels of photographs that belong to one class each, given by its number."""
    found = np.full((len(labels), classes), -1, np.int8)
    found[np.arange(len(labels)), labels] = 1
    return found
