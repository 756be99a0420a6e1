"""Which photographs a user means: files, folders, patterns of names, and lists of paths on standard input."""

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
    """List the photographs that some arguments name, in the order of the arguments; no photograph is opened.

    Args:
        arguments: each is one of

            - a file, whatever its name;
            - a folder: all files below it with the extension of a photograph, sorted by name, the files of a
              folder before those of its subfolders. Hidden entries and links to folders are left out;
            - a pattern such as `*.jpg` or `photographs/**/*.png`, if no file has this name: its matches, sorted;
            - `-`: the files and folders that standard input lists, one per line, or separated by NUL bytes
              (`find -print0`).

        standard_input: returns all of standard input.

    Returns:
        The paths. A name that no file has is among them, to be reported when it is read.

    Raises:
        UserError: if a folder holds no photograph or cannot be listed, or if there is no photograph at all.
    """
    given = [os.fspath(argument) for argument in arguments]
    if given.count(STANDARD_INPUT) > 1:
        raise UserError("standard input (-) is given twice; give it once")
    paths = Paths.below(Path(), _names(given, standard_input))
    if not len(paths):
        raise UserError("no photograph was given; name files, folders, patterns such as '*.jpg', or - for a list")
    return paths


def _names(arguments: Iterable[str], standard_input: Callable[[], bytes]) -> Iterator[str]:
    for argument in arguments:
        if argument == STANDARD_INPUT:
            for name in _lines(standard_input()):
                yield from _expanded(name)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            # A pattern that nothing matches is taken for a name, as shells do.
            for name in sorted(glob.iglob(argument, recursive=True)) or [argument]:
                yield from _expanded(name)
        else:
            yield from _expanded(argument)


def _expanded(name: str) -> Iterator[str]:
    """The photographs below a folder; anything else is itself."""
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
        raise UserError(f"{name}: there is no photograph in this folder ({' '.join(IMAGE_EXTENSIONS)})")


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed: {reason(error)}") from error


def _lines(text: bytes) -> list[str]:
    separated = text.split(b"\0") if b"\0" in text else text.splitlines()
    return [os.fsdecode(name) for name in separated if name]
