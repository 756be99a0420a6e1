"""PASCAL VOC's layout: classification (ImageSets/Main) and actions of people (ImageSets/Action)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias
from xml.etree import ElementTree

import numpy as np

from verydeep.datasets.paths import Paths
from verydeep.errors import UserError, reason
from verydeep.files import is_file, is_folder
from verydeep.transfer.data import Part, TransferData
from verydeep.transfer.measures import Measure

Task: TypeAlias = Literal["classification", "actions"]

FOLDERS: dict[Task, str] = {"classification": "ImageSets/Main", "actions": "ImageSets/Action"}
LAST_ELEVEN_POINTS = 2009
"""The last year in which VOC took the average precision at 11 points; from 2010 on it is the area."""

MAX_BYTES = 10_000_000
"""The most bytes of a list or an annotation; those of VOC have less than 1 MB."""

_ID = re.compile(r"[\w-]+", re.ASCII)


class _Example(NamedTuple):
    """A photograph, or a person in it."""

    image: str
    person: int
    """Number of the object in the annotation, from 1 on; 0 for the whole photograph."""


def is_voc(root: Path) -> bool:
    """Return whether a folder has VOC's layout."""
    return any(is_folder(root / folder) for folder in FOLDERS.values())


def read_voc(root: Path, task: Task) -> TransferData:
    """List the examples of a VOC folder, such as VOCdevkit/VOC2007.

    Classes are those of the lists `<class>_train.txt`. The parts are train, val, and test if its labels are there
    (VOC published them for 2007). A year up to 2009 in the folder's name means the average precision at 11 points,
    and any other name the area.

    Args:
        root: the folder, with ImageSets, JPEGImages and, for actions, Annotations.
        task: what to classify: whole photographs, or the people in them.

    Raises:
        UserError: if a list or an annotation is missing, damaged or contradicts another; names file and line.
    """
    lists = root / FOLDERS[task]
    classes = sorted(
        file.name.removesuffix("_train.txt") for file in lists.glob("*_train.txt") if not file.name.startswith(".")
    )
    if not classes:
        raise UserError(f"{lists}: has no lists <class>_train.txt; pass a folder such as VOCdevkit/VOC2007")
    examples: list[_Example] = []
    columns: list[np.ndarray] = []
    parts: dict[Part, np.ndarray] = {}
    names: tuple[Part, ...] = ("train", "val", "test")
    for part in names:
        if part == "test" and not any(is_file(lists / f"{name}_test.txt") for name in classes):
            continue
        found, labels = _part(lists, classes, part, task)
        parts[part] = np.arange(len(examples), len(examples) + len(found))
        examples += found
        columns.append(labels)
    if twice := next((each for at, each in _numbered(examples) if at), None):
        raise UserError(f"{lists}: {twice.image} is in two of train, val and test; it must be in one")
    photographs = Paths.below(root / "JPEGImages", (f"{each.image}.jpg" for each in examples))
    boxes = None if task == "classification" else np.array(_boxes(root, examples), np.int64).reshape(-1, 4)
    name = f"{root.resolve().name}{' actions' if task == 'actions' else ''}"
    return TransferData(name, tuple(classes), photographs, np.concatenate(columns), _measure(root), parts, boxes)


def _measure(root: Path) -> Measure:
    year = re.search(r"(20\d\d)", root.resolve().name)
    return "ap-11" if year and int(year[1]) <= LAST_ELEVEN_POINTS else "ap-area"


def _numbered(examples: Sequence[_Example]) -> list[tuple[int, _Example]]:
    """Return each example with how often it has come before."""
    seen: dict[_Example, int] = {}
    found = []
    for each in examples:
        found.append((seen.get(each, 0), each))
        seen[each] = seen.get(each, 0) + 1
    return found


def _part(lists: Path, classes: Sequence[str], part: Part, task: Task) -> tuple[list[_Example], np.ndarray]:
    """Return the examples of a part, and their labels in all classes, from one list per class."""
    examples: list[_Example] = []
    columns = []
    for number, name in enumerate(classes):
        file = lists / f"{name}_{part}.txt"
        found, labels = _list(file, task)
        if number and found != examples:
            line = next(
                (at for at, pair in enumerate(zip(found, examples, strict=False), 1) if pair[0] != pair[1]), 0
            )
            where = f"line {line}" if line else f"the number of lines ({len(found)})"
            raise UserError(
                f"{file}: {where} differs from {classes[0]}_{part}.txt ({len(examples)} lines); all classes must "
                "list the same photographs in the same order"
            )
        examples = found
        columns.append(labels)
    return examples, np.array(columns, np.int8).reshape(len(classes), -1).T


def _list(file: Path, task: Task) -> tuple[list[_Example], list[int]]:
    """Read a list: on each line a photograph, for actions the number of a person, and 1, 0 or -1."""
    examples, labels = [], []
    wanted = "a photograph and 1, 0 or -1"
    if task == "actions":
        wanted = "a photograph, the number of an object, and 1, 0 or -1"
    for number, line in enumerate(_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        label = {"1": 1, "0": 0, "-1": -1}.get(words[-1])
        person = words[1] if task == "actions" and len(words) == 3 else "0"
        right = len(words) == (2 if task == "classification" else 3) and person.isascii() and person.isdigit()
        if label is None or not right or not _ID.fullmatch(words[0]) or (task == "actions" and int(person) < 1):
            raise UserError(f"{file}: line {number} is {line[:80]!r}; it must be {wanted}")
        examples.append(_Example(words[0], int(person)))
        labels.append(label)
    return examples, labels


def _boxes(root: Path, examples: Sequence[_Example]) -> list[tuple[int, int, int, int]]:
    """Return the box of each person: x0, y0, x1, y1, counted from 0 and x1 and y1 excluded."""
    known: dict[str, list[ElementTree.Element]] = {}
    found = []
    for each in examples:
        file = root / "Annotations" / f"{each.image}.xml"
        if each.image not in known:
            known[each.image] = _objects(file)
        objects = known[each.image]
        if each.person > len(objects) or (objects[each.person - 1].findtext("name") or "").strip() != "person":
            raise UserError(f"{file}: object {each.person} of {len(objects)} is not a person, as the list says")
        corners = [
            objects[each.person - 1].findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")
        ]
        try:
            # VOC counts pixels from 1, and the last one belongs to the box.
            x0, y0, x1, y1 = (round(float(corner or "")) for corner in corners)
            if not (1 <= x0 <= x1 <= 2**31 and 1 <= y0 <= y1 <= 2**31):
                raise ValueError
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{file}: the box of object {each.person} is {corners}; it must have 1 <= xmin <= xmax and "
                "1 <= ymin <= ymax"
            ) from error
        found.append((x0 - 1, y0 - 1, x1, y1))
    return found


def _objects(file: Path) -> list[ElementTree.Element]:
    text = _text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can expand to any size
        raise UserError(f"{file}: has a document type; annotations of VOC have none")
    try:
        return ElementTree.fromstring(text).findall("object")
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: is not an annotation in XML: {reason(error)}") from error


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file}: has more than {MAX_BYTES} bytes, so it is not a file of VOC")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 (byte {error.start})") from error
