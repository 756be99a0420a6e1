"""Print Tables 11 and 12, or the plan of them, on standard output."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verydeep.terminal import Cell, first_rank, write, write_line, write_table

if TYPE_CHECKING:
    from verydeep.experiments.pages.document import Grid
    from verydeep.experiments.transfer_dry_run import Planned

_NUMERIC = ("seed", "C", "paper", "photographs", "images through nets")


def transfer_tables(arguments: Any, options: dict[str, Any], dry_run: bool, json_: bool) -> Any:
    """Make Tables 11 and 12, print them unless they will be printed as JSON, and return what JSON shows.

    Args:
        arguments: the positional ones of `reproduce_transfer`.
        options: its named ones.
        dry_run: whether to only show the plan.
        json_: whether the caller prints JSON.
    """
    from verydeep.experiments.transfer_dry_run import plan_transfer
    from verydeep.experiments.transfer_report import PAGES, transfer_grids
    from verydeep.experiments.transfer_tables import reproduce_transfer

    if dry_run:
        planned = plan_transfer(*arguments, **options)
        if first_rank() and not json_:
            _write_plan(planned)
        return [asdict(each) for each in planned]
    found = reproduce_transfer(*arguments, **options)
    if first_rank() and not json_:
        for grid in transfer_grids(found):
            _write_grid(grid)
            write("\n")
        write_line(f"report: {Path(arguments[-1]) / PAGES[1]}")
    shown = asdict(found)
    for each in shown["measured"]:
        del each["draws"]  # a thousand numbers, which only the report needs
    return shown


def _write_grid(grid: "Grid") -> None:
    """Print a table, without columns that are empty in all rows."""
    rows: list[dict[str, Cell]] = [
        {
            column.name: cell if isinstance(cell, str) else cell.text
            for column, cell in zip(grid.columns, cells, strict=True)
        }
        for cells in grid.rows
    ]
    shown = [column for column in grid.columns if any(row[column.name] for row in rows)]
    table = [{column.name: row[column.name] for column in shown} for row in rows]
    write_table(grid.caption, table, [column.name for column in shown if column.numeric])


def _write_plan(planned: "tuple[Planned, ...]") -> None:
    rows: list[dict[str, Cell]] = [
        {
            "setting, at the paper's scales": str(each.setting),
            "data": each.data,
            "nets": ", ".join(each.nets),
            "photographs": f"{each.photographs:,}",
            "images through nets": f"{each.images:,}",
            "state": each.state,
        }
        for each in planned
    ]
    write_table("Tables 11 and 12", rows, _NUMERIC)
