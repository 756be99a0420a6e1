"""A CSV table of photographs and their classes."""

import csv
from pathlib import Path
from typing import get_args

import numpy as np

from verydeep.datasets.paths import Paths
from verydeep.errors import UserError, reason
from verydeep.transfer.data import Part, TransferData

COLUMNS = ("file", "classes", "split")
"""Names of the columns; the last may be missing."""

SEPARATOR = ";"
"""Between the classes of a photograph."""


def read_table(file: Path) -> TransferData:
    """List the photographs of a CSV table.

    Its columns are `file`, a path relative to the table's folder; `classes`, separated by semicolons and possibly
    empty; and optionally `split`: train, val or test. If every photograph has exactly one class, the measure is
    the class recall; otherwise the average precision (area).

    Raises:
        UserError: if the table cannot be read, or a row is wrong; names its line.
    """
    rows = _rows(file)
    classes = sorted({name for _, names, _ in rows for name in names})
    number = {name: at for at, name in enumerate(classes)}
    labels = np.full((len(rows), len(classes)), -1, np.int8)
    for row, (_, names, _) in enumerate(rows):
        labels[row, [number[name] for name in names]] = 1
    parts: dict[Part, np.ndarray] = {}
    if rows and rows[0][2] is not None:
        parts = {
            part: np.array([r for r, (_, _, of) in enumerate(rows) if of == part], np.int64)
            for part in get_args(Part)
        }
        parts = {part: found for part, found in parts.items() if len(found)}
    single = all(len(names) == 1 for _, names, _ in rows)
    return TransferData(
        file.name,
        tuple(classes),
        Paths.below(file.parent, (name for name, _, _ in rows)),
        labels,
        "class-recall" if single else "ap-area",
        parts,
    )


def _rows(file: Path) -> list[tuple[str, tuple[str, ...], str | None]]:
    """Return file, classes and part of each row."""
    found: list[tuple[str, tuple[str, ...], str | None]] = []
    seen: dict[str, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            header = tuple(reader.fieldnames or ())
            if not {"file", "classes"} <= set(header) <= set(COLUMNS) or len(set(header)) < len(header):
                raise UserError(
                    f"{file}: line 1 is {','.join(header)[:80]!r}; it must be file,classes or file,classes,split"
                )
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise UserError(f"{file}: line {line} does not have the {len(header)} columns of line 1")
                name, part = row["file"].strip(), row.get("split")
                names = tuple(
                    dict.fromkeys(word for each in row["classes"].split(SEPARATOR) if (word := each.strip()))
                )
                if not name or "\0" in name:
                    raise UserError(f"{file}: line {line} names no file")
                if name in seen:
                    raise UserError(f"{file}: line {line} has {name}, as line {seen[name]} does; give each once")
                if part is not None and (part := part.strip()) not in get_args(Part):
                    raise UserError(f"{file}: line {line} has the split {part!r}; use train, val or test")
                seen[name] = line
                found.append((name, names, part))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 (byte {error.start})") from error
    except csv.Error as error:
        raise UserError(f"{file}: is not a CSV table: {error}") from error
    return found
