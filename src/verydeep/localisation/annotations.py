"""Appendix A: photographs with boxes, from ILSVRC's or PASCAL VOC's XML files, or from a CSV file.

Every reader returns boxes in pixels of the photograph (`boxes`), checked against its size. A fault is refused in
one line with the file and the row. Photographs without a box are left out and listed.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from verydeep.datasets.dataset import IMAGE_EXTENSIONS, Dataset
from verydeep.errors import UserError, reason
from verydeep.files import is_file, is_folder
from verydeep.localisation.boxes import Boxes, rescaled
from verydeep.photographs.photograph import ImageError, photograph_size

COLUMNS = ("file", "x0", "y0", "x1", "y1", "class")
"""Columns that a CSV file must have."""

OPTIONAL_COLUMNS = ("width", "height")
"""Size of the image that the edges refer to, if the photograph has been rescaled since."""

SPLITS = ("train", "val")
"""What the optional column `split` of a CSV file may say; and the folders of XML files that are both there."""

SLACK = 1.0
"""Pixels by which a box may reach beyond its photograph; it is clipped. Annotators' tools round differently."""

LARGEST_XML = 2**20
"""Bytes. Annotations have a few kilobytes."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """Labelled photographs with boxes of their class."""

    dataset: Dataset
    """Photographs and their classes."""
    boxes: tuple[Float[np.ndarray, "_ 4"], ...]
    """For each photograph one or several boxes of its class, in pixels."""
    without: tuple[str, ...] = ()
    """Photographs that were left out since they have no box."""
    splits: tuple[str, ...] = ()
    """For each photograph train or val, if the annotations say so; else empty."""

    def __post_init__(self) -> None:
        if len(self.boxes) != len(self.dataset):
            raise UserError(
                f"{self.dataset.name}: {len(self.dataset)} photographs, but boxes for {len(self.boxes)}"
            )

    def __len__(self) -> int:
        return len(self.dataset)


class Row(NamedTuple):
    """A box as a file gives it."""

    place: str
    """File and line, for messages."""
    photograph: Path
    category: str
    """Its class."""
    edges: tuple[float, float, float, float]
    size: tuple[int, int] | None
    """Width and height that the edges refer to; None for the photograph's own."""
    split: str = ""
    """train, val, or empty if the annotations do not say."""


def read_annotations(
    source: str | os.PathLike[str], photographs: str | os.PathLike[str] | None = None
) -> Annotated:
    """Read photographs with boxes.

    Args:
        source: a CSV file with the columns file, x0, y0, x1, y1 and class, where a file may have several rows, and
            optionally width and height of the image that the edges refer to, and split (train or val); or a folder
            of XML files in the format of PASCAL VOC or ILSVRC, next to a folder of photographs. Its folders train
            and val, if it has both, are the splits.
        photographs: the folder that the files are in; by default the folder of the CSV file, or for XML files the
            folder JPEGImages next to theirs.

    Returns:
        The photographs, ordered by file. If a photograph has boxes of several classes, its class is that of the
        first box, and boxes of other classes are left out.

    Raises:
        UserError: in one line with file and row, if a file cannot be read, a column is missing, a number is not
            one, edges are in another order or fractions instead of pixels, a box has no area or reaches beyond its
            photograph, or a photograph does not exist.
    """
    path = Path(source)
    if is_folder(path):
        folder = Path(photographs) if photographs else path.parent / "JPEGImages"
        rows, empty = _xml_rows(path, folder)
    elif is_file(path):
        rows, empty = list(_csv_rows(path, Path(photographs) if photographs else path.parent)), []
    else:
        raise UserError(f"{path} does not exist; pass a CSV file of boxes, or a folder of XML annotations")
    if not rows:
        raise UserError(f"{path} holds no boxes")
    return _annotated(str(path), rows, empty)


def _annotated(name: str, rows: Sequence[Row], without: Sequence[str]) -> Annotated:
    """Collect rows by photograph, and check every box against the size of its photograph."""
    by_photograph: dict[Path, list[Row]] = {}
    for row in rows:
        by_photograph.setdefault(row.photograph, []).append(row)
    classes = tuple(sorted({of[0].category for of in by_photograph.values()}))
    numbers = {category: number for number, category in enumerate(classes)}
    found, labels = [], []
    for photograph, of in sorted(by_photograph.items()):
        own = _size(photograph, of[0])
        found.append(np.concatenate([_checked(row, own) for row in of if row.category == of[0].category]))
        labels.append(numbers[of[0].category])
    dataset = Dataset(name, classes, tuple(sorted(by_photograph)), np.array(labels, np.int64))
    return Annotated(dataset, tuple(found), tuple(without), _splits(by_photograph))


def _splits(by_photograph: dict[Path, list[Row]]) -> tuple[str, ...]:
    """Return the split of each photograph, in the order of the data set; empty if the annotations name none.

    Raises:
        UserError: if a row differs from the others of its photograph, or from the first one in naming a split.
    """
    rows = [of for _, of in sorted(by_photograph.items())]
    for of in rows:
        for row in of:
            if row.split != of[0].split:
                raise UserError(f"{row.place}: split is {row.split!r}, but {of[0].split!r} at {of[0].place}")
    return tuple(of[0].split for of in rows) if rows[0][0].split else ()


def _size(photograph: Path, row: Row) -> tuple[int, int]:
    try:
        return photograph_size(photograph)
    except ImageError as error:
        raise UserError(f"{row.place}: {error}") from error


def _checked(row: Row, own: tuple[int, int]) -> Boxes:
    """Return a box in pixels of its photograph, clipped to it.

    Raises:
        UserError: if it is not a box of this photograph.
    """
    x0, y0, x1, y1 = row.edges
    width, height = row.size or own
    shown = f"box ({', '.join(f'{edge:g}' for edge in row.edges)})"
    if max(row.edges) <= 1 and max(width, height) > 2:
        raise UserError(f"{row.place}: {shown} looks like fractions of the image; give edges in pixels")
    if x1 <= x0 or y1 <= y0:
        raise UserError(f"{row.place}: {shown} has no area; give x0 < x1 and y0 < y1: left, top, right, bottom")
    if x0 < -SLACK or y0 < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        raise UserError(f"{row.place}: {shown} reaches beyond the image of {width} x {height} pixels")
    box = np.clip(np.array([row.edges]), 0, np.array([width, height, width, height]))
    return rescaled(box, (width, height), own)


def _csv_rows(path: Path, folder: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise UserError(
                    f"{path}: the first line lacks {', '.join(missing)}; it must name {', '.join(COLUMNS)}"
                )
            for fields in reader:
                place = f"{path}, line {reader.line_num}"
                if None in fields or None in fields.values():
                    raise UserError(f"{place}: it has another number of fields than the first line")
                yield _csv_row(place, fields, folder)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error


def _csv_row(place: str, fields: dict[str, str], folder: Path) -> Row:
    for name in ("file", "class"):
        if not fields[name].strip():
            raise UserError(f"{place}: {name} is empty")
    x0, y0, x1, y1 = (_number(place, name, fields[name]) for name in COLUMNS[1:5])
    size = None
    if all(fields.get(name) for name in OPTIONAL_COLUMNS):
        width, height = (_number(place, name, fields[name]) for name in OPTIONAL_COLUMNS)
        if min(width, height) < 1:
            raise UserError(f"{place}: an image of {width:g} x {height:g} pixels; give sizes of 1 or more")
        size = int(width), int(height)
    split = fields.get("split", "").strip()
    if "split" in fields and split not in SPLITS:
        raise UserError(f"{place}: split is {split!r}; give {' or '.join(SPLITS)}")
    photograph = _inside(place, folder, fields["file"])
    return Row(place, photograph, fields["class"].strip(), (x0, y0, x1, y1), size, split)


def _number(place: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"{place}: {name} is {text!r}; give a number of pixels")
    return value


def _inside(place: str, folder: Path, name: str) -> Path:
    """Return the path of a photograph in a folder.

    Raises:
        UserError: if the name leads out of the folder, or there is no such file.
    """
    path = folder / name.strip()
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{place}: {name} is not below {folder}; give a path relative to it")
    if not is_file(path):
        raise UserError(f"{place}: {path} does not exist; pass the folder of the photographs")
    return path


def _xml_rows(folder: Path, photographs: Path) -> tuple[list[Row], list[str]]:
    """Return the boxes in a folder of XML files, and the photographs without one."""
    files = sorted(path for path in folder.rglob("*.xml") if is_file(path))
    if not files:
        raise UserError(f"{folder} contains no .xml files; pass the folder of the annotations")
    rows: list[Row] = []
    empty: list[str] = []
    split_in_two = all(is_folder(folder / split) for split in SPLITS)
    for file in files:
        split = file.relative_to(folder).parts[0] if split_in_two else ""
        if split_in_two and split not in SPLITS:
            raise UserError(f"{file} is in neither of the folders {' and '.join(SPLITS)} of {folder}; move it")
        found = [row._replace(split=split) for row in _xml_file(file, folder, photographs)]
        rows += found
        if not found:
            empty.append(str(file))
    return rows, empty


def _xml_file(file: Path, folder: Path, photographs: Path) -> list[Row]:
    root = _parsed(file)
    text = _text_of(file)
    objects = root.findall("object")
    if not objects:
        return []
    width, height = (int(_number(str(file), name, text(root, f"size/{name}"))) for name in ("width", "height"))
    # VOC's pixels are counted from 1 and the last one belongs to the box; ILSVRC's are counted from 0.
    first = 1 if (root.findtext("folder") or "").startswith("VOC") else 0
    photograph = _photograph(file, folder, photographs, root.findtext("filename") or file.stem)
    rows = []
    for number, each in enumerate(objects, start=1):
        place = f"{file}, object {number}"
        x0, y0, x1, y1 = (
            _number(place, name, text(each, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")
        )
        edges = (x0 - first, y0 - first, x1 + 1 - first, y1 + 1 - first)
        rows.append(Row(place, photograph, text(each, "name"), edges, (width, height)))
    return rows


def _text_of(file: Path) -> Callable[[ElementTree.Element, str], str]:
    def text(element: ElementTree.Element, path: str) -> str:
        found = element.findtext(path)
        if found is None or not found.strip():
            raise UserError(f"{file}: <{path}> is missing")
        return found.strip()

    return text


def _parsed(file: Path) -> ElementTree.Element:
    """Parse an XML file. Document types are refused, so entities cannot grow without bound."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_XML + 1)
        if len(content) > LARGEST_XML:
            raise UserError(f"{file} has more than {LARGEST_XML:,} bytes; annotations are smaller")
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise UserError(f"{file} has a document type; annotations have none")
        return ElementTree.fromstring(content)
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"cannot read {file}: {reason(error)}") from error


def _photograph(file: Path, folder: Path, photographs: Path, name: str) -> Path:
    """Return the photograph of an annotation: at the same place below its own folder, with any extension."""
    place = photographs / file.parent.relative_to(folder)
    names = [name] if Path(name).suffix.lower() in IMAGE_EXTENSIONS else []
    stems = [Path(name).name, file.stem]
    names += [stem + end for stem in stems for ext in IMAGE_EXTENSIONS for end in (ext, ext.upper())]
    for each in names:
        if "/" not in each and is_file(place / each):
            return place / each
    raise UserError(f"{file}: there is no photograph {place / file.stem} with {', '.join(IMAGE_EXTENSIONS)}")
