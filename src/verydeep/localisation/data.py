"""Appendix A: the training and the validation photographs of a localisation, with their boxes."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from verydeep.datasets.dataset import Dataset, held_out
from verydeep.datasets.split import SPLIT_SHARE
from verydeep.errors import UserError
from verydeep.localisation.annotations import SPLITS, Annotated, read_annotations
from verydeep.localisation.made_up import digits_with_boxes
from verydeep.photographs.photograph import Photograph

DIGITS = (1600, 400)
"""Made-up training and validation photographs of "digits"."""

DIGITS_SIDE = 64
"""Their smallest side in pixels."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Photographs with boxes, for training and for validation; both have the same classes."""

    place: str
    """Where they are: an absolute path, or "digits with boxes"."""
    train: Annotated
    val: Annotated


def open_boxes(source: str | os.PathLike[str], photographs: str | os.PathLike[str] | None = None) -> Splits:
    """Open a data set of photographs with boxes.

    Args:
        source: what `read_annotations` takes, or "digits" for made-up photographs of digits. If the annotations
            name no split, a fifth of each class is held out for validation; it is the same every time.
        photographs: the folder that the files are in; see `read_annotations`.

    Raises:
        UserError: as for `read_annotations`; or if a split is empty, a class too small to hold some out, or a
            class of validation photographs has no training photographs.
    """
    if os.fspath(source) == "digits":
        train = digits_with_boxes(DIGITS[0], DIGITS_SIDE, "train")
        val = digits_with_boxes(DIGITS[1], DIGITS_SIDE, "val")
        return Splits("digits with boxes", train, val)
    whole = read_annotations(source, photographs)
    place = str(Path(source).absolute())
    if not whole.splits:
        rest, held = held_out(whole.dataset, SPLIT_SHARE)
        return Splits(
            place, replace(of_photographs(whole, rest), without=whole.without), of_photographs(whole, held)
        )
    train, val = (_part(whole, split) for split in SPLITS)
    _refuse_unknown_classes(train, val)
    return Splits(place, replace(train, without=whole.without), val)


def _refuse_unknown_classes(train: Annotated, val: Annotated) -> None:
    """Refuse validation photographs of a class that no training photograph has.

    Raises:
        UserError: names the first one.
    """
    known = set(train.dataset.labels.tolist())
    for photograph, label in zip(val.dataset.photographs, val.dataset.labels.tolist(), strict=True):
        if label not in known:
            name = val.dataset.classes[label]
            raise UserError(
                f"{photograph}: its class {name!r} has no training photograph; correct the name, or add some"
            )


def _part(whole: Annotated, split: str) -> Annotated:
    rows = [row for row, named in enumerate(whole.splits) if named == split]
    if not rows:
        raise UserError(f"{whole.dataset.name} has no photographs of the split {split}; it needs at least one")
    return _rows(whole, f"{whole.dataset.name}/{split}", rows)


def _rows(whole: Annotated, name: str, rows: Sequence[int]) -> Annotated:
    photographs = tuple(whole.dataset.photographs[row] for row in rows)
    labels = whole.dataset.labels[np.array(rows, np.int64)]
    dataset = Dataset(name, whole.dataset.classes, photographs, labels)
    return Annotated(dataset, tuple(whole.boxes[row] for row in rows))


def of_photographs(whole: Annotated, part: Dataset) -> Annotated:
    """Return the boxes of some of the photographs of `whole`, such as those that can be read."""
    places = {_identity(photograph): row for row, photograph in enumerate(whole.dataset.photographs)}
    boxes = tuple(whole.boxes[places[_identity(photograph)]] for photograph in part.photographs)
    return Annotated(part, boxes, whole.without)


def _identity(photograph: Photograph) -> Path | int:
    return photograph if isinstance(photograph, Path) else id(photograph)


def digest_of(data: Annotated) -> str:
    """Return what tells the boxes of a data set from others: a SHA-256 of their edges in order."""
    found = hashlib.sha256()
    for boxes in data.boxes:
        found.update(len(boxes).to_bytes(4, "little") + np.ascontiguousarray(boxes, np.float64).tobytes())
    return found.hexdigest()
