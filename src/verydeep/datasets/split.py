"""The list of validation images of a folder of class folders without train and val."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from verydeep.errors import UserError
from verydeep.files import written_aside

SPLIT_FILE = "split.json"
"""Its file name, next to the class folders; it may be edited by hand."""

SPLIT_SHARE = 0.2
"""The share of each class that is drawn for validation if there is no list yet."""

SPLIT_SEED = 0
"""Seed of that draw, which `verydeep.datasets.dataset.held_out` makes."""


def read_split(file: Path) -> frozenset[str] | None:
    """Return the validation images listed in a file, each as `<class>/<name>`; None if there is no such file.

    Raises:
        UserError: if the file cannot be read or is not such a list.
    """
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        listed = found["val"]
        if not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
            raise TypeError("val is not a list of names")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{file}: is not a list of validation images ({type(error).__name__}: {error}), such as "
            '{"val": ["<class>/a.jpg"]}; correct it, or remove it to split the images again'
        ) from error
    return frozenset(listed)


def write_split(file: Path, listed: Iterable[str]) -> None:
    """Write the list of validation images, if the folder is writable.

    If it is not, the draw is the same each time, as long as the images are the same.
    """
    found = {"seed": SPLIT_SEED, "share": SPLIT_SHARE, "val": sorted(listed)}
    with suppress(UserError), written_aside(file) as aside:
        aside.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
