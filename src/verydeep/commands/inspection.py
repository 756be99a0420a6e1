"""`verydeep inspect`: check a data set."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from verydeep.commands.arguments import Json
from verydeep.terminal import Cell, write, write_json, write_line, write_table

if TYPE_CHECKING:
    from verydeep.inspection import Inspection


def inspect(data: str, /, *, json_: Json = False) -> None:
    """Check a data set: its classes, and the sizes and faults of its images.

    Lists images that cannot be read, suspicious ones (such as a photograph that ends in the middle), photographs
    that are in both train and val, and files that are left out. The exit code is 1 if an image cannot be read.

    For example:

    - `verydeep inspect photographs`

    Args:
        data: a data set, as for `verydeep train`.
    """
    from verydeep.inspection import inspect as inspect_data

    found = inspect_data(data)
    if json_:
        write_json([_inspection_data(each) for each in found])
    else:
        _show_inspections(found, data)
    if any(each.unreadable for each in found):
        sys.exit(1)


def _inspection_data(found: "Inspection") -> dict[str, Any]:
    """Return an inspection as JSON, which has no NaN."""
    mean = [None if math.isnan(value) else round(value, 4) for value in found.mean]
    return asdict(found) | {"mean": mean}


def _show_inspections(found: Sequence["Inspection"], data: str) -> None:
    """Print a table with one column per split and, below it, the lists of images and files."""
    facts = {each.split: _facts(each) for each in found}
    names = dict.fromkeys(name for each in facts.values() for name in each)
    rows: list[dict[str, Cell]] = [
        {"": name} | {split: each.get(name, "") for split, each in facts.items()} for name in names
    ]
    write_table(data, rows)
    train, val = (each.counts for each in found)
    write("\n")
    write_table("images per class", [{"class": name, "train": train[name], "val": val[name]} for name in train])
    lists = {
        "Unreadable": [line for each in found for line in each.unreadable],
        "Suspicious": [line for each in found for line in each.suspicious],
        "In train and in val": [line for each in found for line in each.also_in_train],
        "Other files, left out": [path for each in found for path in each.others],
    }
    for title, lines in lists.items():
        if lines:
            write(f"\n{title}:\n")
            for line in lines:
                write_line(line)


def _facts(found: "Inspection") -> dict[str, Cell]:
    counts = found.counts.values()
    mean = ", ".join("unknown" if math.isnan(value) else f"{value:.1f}" for value in found.mean)
    sides = "{}, {}, {}".format(*found.smallest_sides) if found.smallest_sides else "unknown"
    return {
        "images": f"{found.images:,}",
        "classes": f"{len(counts):,}",
        "images per class": f"{min(counts):,} to {max(counts):,}",
        "mean colour (R, G, B)": mean,
        "smallest side (least, median, largest)": sides,
        "unreadable images": f"{len(found.unreadable):,}",
        "other files": f"{len(found.others):,}",
    }
