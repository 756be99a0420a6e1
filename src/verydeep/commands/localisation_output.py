"""Print the localisation experiments on standard output: errors, baselines, the paper's errors, findings."""

from pathlib import Path

from verydeep.experiments.localisation.plan import TABLES
from verydeep.experiments.localisation.report import box_grid, findings_grid
from verydeep.experiments.localisation.results import BoxMeasurements
from verydeep.experiments.pages.document import Grid
from verydeep.terminal import Cell, write, write_line, write_table

_INTERVAL = "95% interval"


def write_box_experiment(found: BoxMeasurements, folder: Path) -> None:
    """Print the tables and the findings of the localisation experiments, and the path of their report."""
    for name in found.results.tables:
        _write(box_grid(TABLES[name], found))
        write("\n")
    _write(findings_grid(found), "The paper's findings")
    write("\n")
    write_line(f"report: {folder / 'localisation.html'}")


def _write(grid: Grid, title: str = "") -> None:
    """Print a table, with each interval below its error."""
    names = [column.name for column in grid.columns]
    rows: list[dict[str, Cell]] = []
    for cells in grid.rows:
        texts = [cell if isinstance(cell, str) else cell.text for cell in cells]
        row: dict[str, Cell] = {}
        for at, (name, text) in enumerate(zip(names, texts, strict=True)):
            if name == _INTERVAL:
                row[names[at - 1]] = tuple(filter(None, (texts[at - 1], text)))
            else:
                row[name] = text
        rows.append(row)
    numeric = [column.name for column in grid.columns if column.numeric and column.name != _INTERVAL]
    write_table(title or grid.caption, rows, numeric)
