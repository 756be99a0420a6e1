"""List the photographs that arguments name: files, folders, patterns, and lists of paths on standard input."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from verydeep.datasets.dataset import IMAGE_EXTENSIONS
from verydeep.datasets.paths import Paths
from verydeep.errors import UserError, reason

STANDARD_INPUT = "-"
"""The argument that stands for a list of paths on standard input."""


def listed(arguments: Iterable[str | os.PathLike[str]], standard_input: Callable[[], bytes]) -> Paths:
    """List the photographs that arguments name, in the order of the arguments, without opening them.

    Args:
        arguments: each is one of

            - a file, with any extension;
            - a folder: all files below it with the extension of a photograph, sorted by name, the files of a
              folder before those of its subfolders. Hidden entries and links to folders are left out;
            - a pattern such as `*.jpg` or `photographs/**/*.png`, unless there is a file of this name: its
              matches, sorted;
            - `-`: the files and folders listed on standard input, one per line or separated by NUL bytes
              (`find -print0`).

        standard_input: returns all of standard input.

    Returns:
        The paths. They include names of missing files, which are reported when they are read.

    Raises:
        UserError: if a folder has no photographs or cannot be listed, or if nothing is named at all.
    """
    given = [os.fspath(argument) for argument in arguments]
    if given.count(STANDARD_INPUT) > 1:
        raise UserError("standard input (-) is given twice; use it once")
    paths = Paths.below(Path(), _names(given, standard_input))
    if not len(paths):
        raise UserError(
            "no photographs were given; name files, folders, patterns such as '*.jpg', or - for a list"
        )
    return paths


def _names(arguments: Iterable[str], standard_input: Callable[[], bytes]) -> Iterator[str]:
    for argument in arguments:
        if argument == STANDARD_INPUT:
            for name in _lines(standard_input()):
                yield from _expanded(name)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            # A pattern without matches counts as a name, as in a shell.
            for name in sorted(glob.iglob(argument, recursive=True)) or [argument]:
                yield from _expanded(name)
        else:
            yield from _expanded(argument)


def _expanded(name: str) -> Iterator[str]:
    """Yield the photographs below a folder, or the name itself if it is not a folder."""
    if not os.path.isdir(name):
        yield name
        return
    empty = True
    for path, folders, files in os.walk(name, onerror=_refuse):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and file.lower().endswith(IMAGE_EXTENSIONS):
                empty = False
                yield os.path.join(path, file)
    if empty:
        raise UserError(f"{name}: no photographs in this folder ({' '.join(IMAGE_EXTENSIONS)})")


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed: {reason(error)}") from error


def _lines(text: bytes) -> list[str]:
    separated = text.split(b"\0") if b"\0" in text else text.splitlines()
    return [os.fsdecode(name) for name in separated if name]
