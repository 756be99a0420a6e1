"""The page of Tables 11 and 12: what was measured next to what the paper printed, and what Appendix B compares."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from verydeep.experiments.pages.document import (
    Block,
    Cell,
    Column,
    Document,
    Grid,
    Items,
    Paragraph,
    Section,
    Tone,
)
from verydeep.experiments.pages.written import page_files, stale, write_files
from verydeep.experiments.transfer_plan import (
    PROTOCOLS,
    TABLES,
    Comparison,
    Table,
    comparisons_of,
    setting_of,
    settings_of,
)
from verydeep.experiments.transfer_results import Measured, TransferTables, read_transfer_tables
from verydeep.transfer.measures import NAMES, limits
from verydeep.transfer.paper import Row

PAGES = ("transfer-tables.md", "transfer-tables.html")
"""The pages in the folder of an experiment."""

NOT_YET = "not yet"
_NOTE = (
    "Percent. ± is the standard deviation over splits. The 95% interval is a bootstrap interval about the choice "
    "of test photographs. The paper's numbers are of its own nets, pre-trained on ILSVRC-2012."
)
_COMPARED = (
    "Both settings are measured on the same test photographs; points are percentage points. Confirmed: the 95% "
    "interval of the difference is above 0. Refuted: it is below. Undecided: it contains 0."
)


def make_transfer_report(folder: Path, page: Path | None = None) -> tuple[Path, ...]:
    """Make the page of Tables 11 and 12 from transfer-tables.json. The same data give the same bytes.

    Args:
        folder: folder of an experiment.
        page: the page to make, .html or .md; if None, both in the folder.

    Returns:
        The files written.

    Raises:
        UserError: if the data are missing or damaged, or a file that is not a report is in the way.
    """
    return _write(read_transfer_tables(folder), [folder / name for name in PAGES] if page is None else [page])


def write_transfer_report(found: TransferTables, folder: Path) -> tuple[Path, ...]:
    """Write the pages of tables that are in memory; the rest is as for `make_transfer_report`."""
    return _write(found, [folder / name for name in PAGES])


def check_transfer_report(folder: Path) -> tuple[Path, ...]:
    """Return the pages that are missing or do not match their data.

    Raises:
        UserError: if the data are missing or damaged.
    """
    document = transfer_document(read_transfer_tables(folder))
    return tuple(path for name in PAGES for path in stale(page_files(document, folder / name)))


def _write(found: TransferTables, pages: Iterable[Path]) -> tuple[Path, ...]:
    document, files = transfer_document(found), dict[Path, str]()
    for path in pages:
        files |= page_files(document, path)
    write_files(files)
    return tuple(files)


def transfer_document(found: TransferTables) -> Document:
    """Assemble the page."""
    tables = [table for table in TABLES.values() if table.name in found.tables]
    sections = [Section(table.title, tuple(_table_blocks(table, found))) for table in tables]
    sections.append(Section("What Appendix B compares", (Paragraph(_COMPARED), _compared(tables, found))))
    sections.append(Section("Settings", (_settings(tables, found),)))
    return Document("Transfer to other data sets: Tables 11 and 12", (_lead(tables, found),), tuple(sections))


def transfer_grids(found: TransferTables) -> Iterator[Grid]:
    """Yield the tables that have a measurement, one per data set."""
    for table in TABLES.values():
        for name in table.columns if table.name in found.tables else ():
            if any(each.setting.data_set == name for each in found.measured):
                yield _column(table, name, found)


def _lead(tables: Iterable[Table], found: TransferTables) -> Items:
    settings = [each for table in tables for name in table.columns for each in settings_of(table, name)]
    done = sum(bool(found.of(each)) for each in settings)
    measured = {each.setting.data_set for each in found.measured}
    missing = [name for table in tables for name in table.columns if name not in measured]
    items = [
        "Appendix B of Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition."
        " The penultimate layer of a net, averaged over the map and the mirror image, describes a photograph. A "
        "linear SVM per class learns from these vectors, with C chosen on a held-out fifth of the training "
        "images.",
        f"Preset: {found.preset}. Measured: {done} of {len(settings)} settings.",
    ]
    if missing:
        flags = (f"{name} (--{PROTOCOLS[name].flag})" for name in missing)
        items.append(f"Nothing measured yet: {', '.join(flags)}.")
    return Items(tuple(items))


def _table_blocks(table: Table, found: TransferTables) -> Iterator[Block]:
    yield Paragraph(_NOTE)
    for name in table.columns:
        yield _column(table, name, found)


def _column(table: Table, name: str, found: TransferTables) -> Grid:
    """Return a table of one data set: the paper's rows that have a number for it, and ours next to them."""
    protocol = PROTOCOLS[name]
    here = next((each.result for each in found.measured if each.setting.data_set == name), None)
    measure = "mean class recall" if protocol.single else "mean average precision"
    columns = (
        Column("method", False),
        Column("seed"),
        Column(NAMES[here.measure] if here else measure),
        Column("95% interval"),
        Column("C", False),
        Column("paper"),
    )
    rows = [cells for row in table.rows if name in row.printed for cells in _rows(row, name, found)]
    title = f"{name}, measured on {here.data}: {len(here.classes)} classes" if here else f"{name}, not measured"
    return _without_seed(Grid(title, columns, tuple(rows)))


def _rows(row: Row, name: str, found: TransferTables) -> Iterator[tuple[str | Cell, ...]]:
    method, paper = row.method + (f", {row.note}" if row.note else ""), str(row.printed[name])
    if not row.nets:
        yield method, "", "", "", "", paper
        return
    measured = found.of(setting_of(row, name))
    if not measured:
        yield method, "", NOT_YET, "", "", paper
    for each in measured:
        seed = "" if each.seed is None else str(each.seed)
        yield method, seed, Cell(_value(each), strong=True), _interval(each.result.interval), _costs(each), paper


def _value(each: Measured) -> str:
    spread = "" if each.result.deviation is None else f" ± {100 * each.result.deviation:.1f}"
    return f"{100 * each.result.value:.1f}{spread}"


def _interval(found: tuple[float, float]) -> str:
    return f"{100 * found[0]:.1f} to {100 * found[1]:.1f}"


def _costs(each: Measured) -> str:
    return ", ".join(dict.fromkeys(f"{split.cost:g}" for split in each.result.splits))


def _compared(tables: Iterable[Table], found: TransferTables) -> Grid:
    columns = (
        Column("data set", False),
        Column("the paper's finding", False),
        Column("seed"),
        Column("verdict", False),
        Column("points"),
        Column("95% interval"),
    )
    rows = [
        cells
        for table in tables
        for name in table.columns
        for pair in comparisons_of(table, name)
        for cells in _comparison(pair, name, found)
    ]
    return _without_seed(Grid("", columns, tuple(rows)))


def _comparison(pair: Comparison, name: str, found: TransferTables) -> Iterator[tuple[str | Cell, ...]]:
    than = {each.seed: each for each in found.of(pair.than)}
    both = [(each, than[each.seed]) for each in found.of(pair.better) if each.seed in than]
    if not both:
        yield name, pair.says, "", "not measured", "", ""
    for better, other in both:
        low, high = difference_limits(better, other)
        verdict, tone = _verdict(low, high)
        points = 100 * (better.result.value - other.result.value)
        seed = "" if better.seed is None else str(better.seed)
        interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
        yield name, pair.says, seed, Cell(verdict, strong=True, tone=tone), f"{points:+.1f}", interval


def difference_limits(first: Measured, second: Measured) -> tuple[float, float]:
    """Return the 95% interval of how much the first exceeds the second, on the same test photographs."""
    pairs = [
        one - other
        for one, other in zip(first.draws, second.draws, strict=True)
        if one is not None and other is not None
    ]
    return limits(np.array(pairs or [np.nan]))


def _verdict(low: float, high: float) -> tuple[str, Tone]:
    if low > 0:
        return "confirmed", "good"
    return ("refuted", "bad") if high < 0 else ("undecided", "open")


def _settings(tables: Iterable[Table], found: TransferTables) -> Grid:
    """Return how everything was measured, as it ran here."""
    columns = (
        Column("setting, at the paper's scales", False),
        Column("seed"),
        Column("here", False),
        Column("nets", False),
        Column("splits"),
        Column("training images"),
        Column("test images"),
        Column("value, %"),
    )
    rows = []
    for setting in (each for table in tables for name in table.columns for each in settings_of(table, name)):
        for each in found.of(setting):
            result, first = each.result, each.result.splits[0]
            rows.append(
                (
                    str(setting),
                    "" if each.seed is None else str(each.seed),
                    result.protocol,
                    ", ".join(result.sources),
                    str(len(result.splits)),
                    f"{first.training_images:,}",
                    f"{first.test_images:,}",
                    _value(each),
                )
            )
    return _without_seed(Grid("", columns, tuple(rows)))


def _without_seed(grid: Grid) -> Grid:
    """Return a table without the column of seeds if the nets were given, and have none."""
    at = [column.name for column in grid.columns].index("seed")
    if any(row[at] for row in grid.rows):
        return grid
    rows = tuple((*row[:at], *row[at + 1 :]) for row in grid.rows)
    return Grid(grid.caption, (*grid.columns[:at], *grid.columns[at + 1 :]), rows)
