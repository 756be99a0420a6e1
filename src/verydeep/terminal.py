"""Results on standard output, as tables that fit the terminal or as JSON."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verydeep.errors import UserError, reason
from verydeep.printable import decoded, printable

PIPE_WIDTH = 200
"""Width of tables in columns if standard output is not a terminal: programs expect each row on one line."""

_GAP = 2
_LONGEST_WORD = 16
"""Words longer than this, such as paths, may be broken."""

Cell = str | int | tuple[str, ...]
"""Text, lines of text, or a whole number, which is printed with thousands separators and never broken."""


def first_rank() -> bool:
    """Return whether this process is the one that prints results, of all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def write(text: str) -> None:
    """Write a result to standard output and flush it.

    Raises:
        UserError: if it cannot be written.
        SystemExit: if the reader has gone, as in `verydeep ... | head`; the code is 141, that of SIGPIPE.
    """
    if sys.stdout is None:  # closed by the user
        return
    with _refusals_said():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def _refusals_said() -> Iterator[None]:
    """Turn an OSError of standard output into the errors of `write`."""
    try:
        yield
    except OSError as error:
        _abandon(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from error
        raise UserError(f"cannot write the result to standard output: {reason(error)}") from error


def write_line(line: str) -> None:
    """Write a result of one line to standard output."""
    write(f"{printable(line)}\n")


def write_json(data: Any) -> None:
    r"""Write a result as JSON, in ASCII.

    A byte of a file name that is not UTF-8 becomes `\udcXX`, and `os.fsencode` turns that back into the byte.
    """
    write(f"{json.dumps(data, indent=1)}\n")


def write_csv(rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV (RFC 4180) under the names of their columns.

    A byte of a file name that is not UTF-8 becomes an escape, as in a table.
    """
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, row, lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: decoded(cell) if isinstance(cell, str) else cell for name, cell in row.items()})
    write(text.getvalue())


def write_table(title: str, rows: Iterable[Mapping[str, Cell]], numeric: Sequence[str] = ()) -> None:
    """Write a table that fits the terminal.

    Args:
        title: the line above it.
        rows: the cells of each row, by the column's name; missing cells are left empty.
        numeric: columns of numbers formatted as text. Like whole numbers, they are right-aligned and not broken.
    """
    found = list(rows)
    names = list(dict.fromkeys(name for row in found for name in row))
    columns = {name: [_cell(row.get(name, "")) for row in found] for name in names}
    rigid = {name for name in names if name in numeric or all(isinstance(row.get(name), int) for row in found)}
    console = Console()
    console = Console(width=console.width if console.is_terminal else PIPE_WIDTH)
    widths = column_widths(columns, rigid, console.width)
    table = Table(
        title=Text(printable(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),  # the box itself adds one between columns
    )
    for name in names:
        table.add_column(
            Text(name), justify="right" if name in rigid else "left", overflow="fold", width=widths[name]
        )
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    with _refusals_said(), console.capture() as drawn:  # capturing also flushes standard output
        console.print(table)
    write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def column_widths(columns: Mapping[str, Sequence[str]], rigid: Iterable[str], total: int) -> dict[str, int]:
    """Choose the width of each column of a table, so that all of them fit.

    Args:
        columns: the cells of each column, by its name.
        rigid: columns that may not be broken.
        total: width of the terminal.

    Returns:
        The widths by name. If there is room, each column is as wide as its longest line. If not, the widest
        columns of text shrink first, down to their longest words. If that is not enough, words are broken.
    """
    rigid = set(rigid)
    widths, least = {}, {}
    for name, cells in columns.items():
        lines = [cell_len(line) for cell in cells for line in cell.split("\n")]
        words = [cell_len(word) for cell in cells for word in cell.split()]
        heading = max(map(cell_len, name.split()), default=1)
        widths[name] = max(heading, *lines, *([] if name in rigid else [cell_len(name)]), 1)
        least[name] = widths[name] if name in rigid else max(heading, min(max(words, default=1), _LONGEST_WORD))
    room = total - _GAP * (len(widths) - 1)
    while sum(widths.values()) > room:
        wide = [name for name in widths if widths[name] > least[name]]
        wide = wide or [name for name in widths if name not in rigid and widths[name] > 1]
        if not wide:  # the terminal has very few columns
            break
        widths[max(wide, key=lambda name: widths[name])] -= 1
    return widths


def _cell(value: Cell) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "\n".join(map(printable, (value,) if isinstance(value, str) else value))


def open_standard_streams() -> None:
    """Open standard streams that were closed when the process started, and let standard output take any character.

    Closed streams are opened on the null device. Otherwise the next file to be opened, perhaps a checkpoint, would
    get the number of standard error, and a library's messages would end up in that file. Standard output writes
    characters that its encoding lacks as escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number: this one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_standard_streams() -> None:
    """Flush the standard streams. Discard what cannot be written: Python would complain about it at exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                _abandon(stream)


def _abandon(stream: io.IOBase | TextIO) -> None:
    """Send everything that a stream has buffered, and everything that follows, to the null device."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
