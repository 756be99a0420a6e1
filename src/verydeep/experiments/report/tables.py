"""Tables 3 to 7: the paper's errors and ours, with intervals over images, spreads over seeds, and protocols."""

from verydeep.experiments.pages.document import Cell, Column, Grid, Paragraph, Section
from verydeep.experiments.plan import TRAININGS, Row, Table
from verydeep.experiments.report.measurements import Measurements
from verydeep.experiments.report.pooled import PooledError

NOT_YET = "not yet"
_NOTE = (
    "Errors are in percent: the mean over seeds ± the standard deviation over seeds. The 95% interval is over "
    "images. S, the training scale, is in pixels, with the paper's S in brackets. Q, the test scale, is in pixels "
    "too, under protocol. The paper's errors are on the validation images of ILSVRC-2012: compare them with each "
    "other, not with ours."
)


def tables_section(found: Measurements) -> Section:
    """Make the section of all requested tables."""
    return Section("Tables", (Paragraph(_NOTE), *(_grid(table, found) for table in found.tables)))


def percent(error: PooledError) -> str:
    """Format an error in percent, with its spread over seeds."""
    spread = "" if error.spread is None else f" ± {100 * error.spread:.2f}"
    return f"{100 * error.mean:.2f}{spread}"


def interval(error: PooledError) -> str:
    """Format the interval of an error over images, in percent."""
    low, high = error.interval
    return f"{100 * low:.2f}–{100 * high:.2f}"


def net_name(row: Row) -> str:
    """Return the name of a row: its label and its nets."""
    names = " + ".join(tested.training for tested in row.nets)
    if row.label and len(row.nets) > 2:
        names = ", ".join(tested.training for tested in row.nets)
    return f"{row.label}: {names}" if row.label and names else row.label or names


def pixels(scale: tuple[int, ...]) -> str:
    """Format S or Q: one number, or the ends of a range."""
    return "–".join(map(str, scale))


def _grid(table: Table, found: Measurements) -> Grid:
    test_images = any(row.printed.top5_test is not None for row in table.rows)
    printed = any(row.printed.top1 is not None for row in table.rows)
    columns = [
        Column("net", False),
        Column("S"),
        Column("Q in the paper"),
        Column("protocol", False),
        Column("seeds"),
    ]
    for k in (1, 5):
        columns += [Column(f"top-{k}"), Column("95% interval")]
        columns += [Column(f"paper, top-{k}")] if printed else []
    columns += [Column("paper, top-5, test images")] if test_images else []
    rows = tuple(_cells(row, found, printed, test_images) for row in table.rows)
    return Grid(table.title, tuple(columns), rows)


def _cells(row: Row, found: Measurements, printed: bool, test_images: bool) -> tuple[str | Cell, ...]:
    cells: list[str | Cell] = [
        net_name(row),
        _training_scale(row, found),
        _test_scales(row),
        _protocol(row, found),
    ]
    seeds = found.seeds(row)
    asked = len(found.results.seeds)
    cells.append("" if not row.nets else str(len(seeds)) if len(seeds) == asked else f"{len(seeds)} of {asked}")
    for k, paper in ((1, row.printed.top1), (5, row.printed.top5)):
        error = found.error(row, k)
        if error is not None and k >= len(found.results.classes):
            cells += ["–", ""]  # with so few classes it is always 0
        elif error is not None:
            cells += [Cell(percent(error), strong=k == 1), interval(error)]
        else:
            cells += [NOT_YET if row.nets else "", ""]
        cells += [_paper(paper)] if printed else []
    cells += [_paper(row.printed.top5_test)] if test_images else []
    return tuple(cells)


def _paper(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _training_scale(row: Row, found: Measurements) -> str:
    scales = {TRAININGS[tested.training].scale for tested in row.nets}
    if len(scales) != 1:
        return "several" if scales else ""
    (paper,) = scales
    here = tuple(found.pixels(value) or 0 for value in paper)
    if not all(here):
        return f"({pixels(paper)})"
    return pixels(here) if here == paper else f"{pixels(here)} ({pixels(paper)})"


def _test_scales(row: Row) -> str:
    scales = {tested.scales for tested in row.nets}
    return "several" if len(scales) > 1 else ", ".join(map(str, next(iter(scales), ())))


def _protocol(row: Row, found: Measurements) -> str:
    if row.key in found.rows:
        return found.rows[row.key].protocol
    return row.method if row.nets else ""
