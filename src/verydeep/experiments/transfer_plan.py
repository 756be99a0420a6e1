"""Appendix B as data: the measurements behind Tables 11 and 12, and what the appendix compares.

Scales are the paper's Q in pixels, for a crop of 224; a preset maps them to other sizes. The printed numbers are
in `transfer.paper`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from verydeep.errors import UserError
from verydeep.linear import Aggregation
from verydeep.transfer.paper import ACTIONS, TABLE_11, TABLE_12, Row
from verydeep.transfer.voc import Task

NETS = {"D": "D-jitter", "E": "E-jitter"}
"""The trainings of the plan (`plan.TRAININGS`) whose nets are transferred, by configuration."""

THREE, FIVE = (256, 384, 512), (256, 384, 512, 640, 768)
"""Test scales Q of Caltech, stacked, and of PASCAL VOC, averaged."""


@dataclass(frozen=True)
class Protocol:
    """How the paper measures on a data set."""

    flag: str
    """The flag that takes its folder, without hyphens."""
    single: bool
    """Whether each photograph has exactly one class."""
    scales: tuple[int, ...]
    aggregation: Aggregation
    task: Task = "classification"
    training_images: int | None = None
    """Per class, of random splits; None for the official split."""
    test_images: int | None = None
    """The most test images per class of a random split; None for all the others."""


PROTOCOLS: dict[str, Protocol] = {
    "VOC-2007": Protocol("voc2007", False, FIVE, "average"),
    "VOC-2012": Protocol("voc2012", False, FIVE, "average"),
    "Caltech-101": Protocol("caltech101", True, THREE, "stack", training_images=30, test_images=50),
    "Caltech-256": Protocol("caltech256", True, THREE, "stack", training_images=60),
    ACTIONS: Protocol("voc2012", False, FIVE, "average", task="actions"),
}
"""The protocol of each column of Tables 11 and 12."""


@dataclass(frozen=True)
class Setting:
    """One measurement: a data set, and how its photographs are described."""

    data_set: str
    """One of `PROTOCOLS`."""
    nets: tuple[str, ...]
    """Configurations whose descriptors are stacked."""
    scales: tuple[int, ...]
    """Q of the paper."""
    aggregation: Aggregation
    boxes: bool = False
    """Whether the person's box is described, too."""

    def __str__(self) -> str:
        how = {"average": "averaged", "stack": "stacked"}[self.aggregation]
        box = ", whole image and box" if self.boxes else ""
        return f"{self.data_set}, {' & '.join(self.nets)}, Q = {', '.join(map(str, self.scales))} {how}{box}"


@dataclass(frozen=True)
class Comparison:
    """Two settings on one data set, of which the paper has found the first to be better."""

    says: str
    """The finding as a sentence."""
    better: Setting
    than: Setting


@dataclass(frozen=True)
class Table:
    """Table 11 or 12."""

    name: str
    title: str
    columns: tuple[str, ...]
    """Its data sets."""
    rows: tuple[Row, ...]


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "table11",
            "Table 11: classification of other data sets",
            ("VOC-2007", "VOC-2012", "Caltech-101", "Caltech-256"),
            TABLE_11,
        ),
        Table("table12", "Table 12: actions of people", (ACTIONS,), TABLE_12),
    )
}


def setting_of(row: Row, data_set: str) -> Setting:
    """Return the measurement for a row of ours and a column of its table."""
    protocol = PROTOCOLS[data_set]
    return Setting(data_set, row.nets, protocol.scales, protocol.aggregation, row.boxes)


def settings_of(table: Table, data_set: str) -> tuple[Setting, ...]:
    """Return the measurements of a column: those of its rows, and those that only comparisons need.

    What the first ones describe includes what the later ones need, so that each photograph is read once.
    """
    rows = [setting_of(row, data_set) for row in table.rows if row.nets and data_set in row.printed]
    compared = [each for pair in comparisons_of(table, data_set) for each in (pair.better, pair.than)]
    found = dict.fromkeys([*rows, *compared])
    return tuple(sorted(found, key=lambda each: -(len(each.nets) * len(each.scales) * (1 + each.boxes))))


def comparisons_of(table: Table, data_set: str) -> tuple[Comparison, ...]:
    """Return what Appendix B compares on a data set."""
    return tuple(_comparisons(table, data_set))


def _comparisons(table: Table, data_set: str) -> Iterator[Comparison]:
    protocol = PROTOCOLS[data_set]

    def setting(
        nets: str,
        scales: tuple[int, ...] = protocol.scales,
        how: Aggregation = protocol.aggregation,
        box: bool = False,
    ) -> Setting:
        return Setting(data_set, tuple(nets), scales, how, box)

    if protocol.task == "actions":
        says = "The person's box next to the whole image improves on the whole image."
        yield Comparison(says, setting("DE", box=True), setting("DE"))
        return
    yield Comparison("D and E together are better than D.", setting("DE"), setting("D"))
    yield Comparison("D and E together are better than E.", setting("DE"), setting("E"))
    if protocol.scales == FIVE:
        yield Comparison(
            "Five scales are better than three (by 0.3 points in the paper).", setting("D"), setting("D", THREE)
        )
    else:
        yield Comparison(
            "Stacked scales are better than averaged ones.", setting("D"), setting("D", how="average")
        )


def chosen_tables(names: Iterable[str], data_sets: Iterable[str]) -> tuple[Table, ...]:
    """Return the requested tables, in order.

    Args:
        names: of tables.
        data_sets: those whose folders are known.

    Raises:
        UserError: for another name, or a table none of whose data sets are there.
    """
    asked, there = set(names), set(data_sets)
    if unknown := sorted(asked - set(TABLES)):
        raise UserError(f"unknown table {unknown[0]!r}; choose from {', '.join(TABLES)}")
    if not asked:
        raise UserError(f"no table is named; choose from {', '.join(TABLES)}")
    found = tuple(table for table in TABLES.values() if table.name in asked)
    for table in found:
        if not there & set(table.columns):
            flags = " or ".join(dict.fromkeys(f"--{PROTOCOLS[name].flag}" for name in table.columns))
            raise UserError(f"{table.name} needs the folder of a data set; pass {flags}")
    return found
