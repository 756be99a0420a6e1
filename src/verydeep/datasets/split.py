"""The list of validation images of a folder of class folders that has no train and val."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from verydeep.errors import UserError
from verydeep.files import written_aside

SPLIT_FILE = "split.json"
"""Its name, beside the class folders; a person may change what it lists."""

SPLIT_SHARE = 0.2
"""How much of each class is drawn for validation where there is no list yet."""

SPLIT_SEED = 0
"""Of that draw, by `verydeep.datasets.dataset.held_out`."""


def read_split(file: Path) -> frozenset[str] | None:
    """The validation images that a file lists, each as `<class>/<name>`; None if there is no such file.

    Raises:
        UserError: where it cannot be read, or is no such list.
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
            '{"val": ["<class>/a.jpg"]}; correct it, or remove it to have the images split anew'
        ) from error
    return frozenset(listed)


def write_split(file: Path, listed: Iterable[str]) -> None:
    """Write down which images are for validation, if the folder can be written.

    If it cannot, the draw is the same each time, as long as the images are the same.
    """
    found = {"seed": SPLIT_SEED, "share": SPLIT_SHARE, "val": sorted(listed)}
    with suppress(UserError), written_aside(file) as aside:
        aside.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
