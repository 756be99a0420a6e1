"""What the command line prints on standard output: results, as tables of the terminal's width or as JSON."""

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
"""Width of a table in columns if standard output is not a terminal: programs want each row on one line."""

_GAP = 2
_LONGEST_WORD = 16
"""A longer word, such as a path, may be broken."""

Cell = str | int | tuple[str, ...]
"""A text, or its lines; whole numbers are grouped by thousands and never broken."""


def write(text: str) -> None:
    """Write a result on standard output, all of it and now.

    Raises:
        UserError: if it cannot be written.
        SystemExit: if its reader has gone, as in `verydeep ... | head`; the code is 141, that of SIGPIPE.
    """
    if sys.stdout is None:  # the user closed it
        return
    with _refusals_said():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def _refusals_said() -> Iterator[None]:
    """Raise what `write` does for an OSError of standard output."""
    try:
        yield
    except OSError as error:
        _abandon(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from error
        raise UserError(f"cannot write the result on standard output: {reason(error)}") from error


def write_line(line: str) -> None:
    """Write a result of one line."""
    write(f"{printable(line)}\n")


def write_json(data: Any) -> None:
    r"""Write a result as JSON, in ASCII.

    A byte of a file name that is not UTF-8 becomes `\udcXX`, of which Python's `os.fsencode` makes the byte again.
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
        title: stands above it.
        rows: what stands in each column, by the column's name; what a row lacks is left empty.
        numeric: columns of texts that are numbers: as whole numbers, these are set to the right and not broken.
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
        padding=(0, _GAP - 1, 0, 0),  # the box itself sets columns apart by one
    )
    for name in names:
        table.add_column(
            Text(name), justify="right" if name in rigid else "left", overflow="fold", width=widths[name]
        )
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    with _refusals_said(), console.capture() as drawn:  # which flushes standard output, too
        console.print(table)
    write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def column_widths(columns: Mapping[str, Sequence[str]], rigid: Iterable[str], total: int) -> dict[str, int]:
    """How wide each column of a table is, so that all of them fit.

    Args:
        columns: the cells of each column, by its name.
        rigid: columns that may not be broken.
        total: width of the terminal.

    Returns:
        The width that its longest line needs, if there is room. If not, the widest columns of text shrink first,
        as far as their longest words; if that is not enough, words are broken.
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
        if not wide:  # a terminal of very few columns
            break
        widths[max(wide, key=lambda name: widths[name])] -= 1
    return widths


def _cell(value: Cell) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "\n".join(map(printable, (value,) if isinstance(value, str) else value))


def open_standard_streams() -> None:
    """Open standard streams that were closed when the process started, and let standard output take any character.

    They are opened on the null device. Otherwise the next file to be opened, perhaps a checkpoint, would get the
    number of standard error, and what a library writes there would end up in that file. If the encoding of
    standard output lacks a character, its escape is written.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it is the lowest free number: this one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_standard_streams() -> None:
    """Flush the standard streams, and drop what cannot be written: at exit Python would complain about it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                _abandon(stream)


def _abandon(stream: io.IOBase | TextIO) -> None:
    """Send what a stream still holds, and all that follows, to the null device."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
