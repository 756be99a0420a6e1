"""Sect. 4 as data: the nets to train, what each starts from, and the tests that make up Tables 3 to 7.

All sizes are the paper's: the smallest side in pixels, for a crop of 224. A preset maps them to other sizes.
Errors are those printed in the paper, in percent on the validation images of ILSVRC-2012.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from verydeep.errors import UserError

Stage = Literal["random", "deeper", "fine-tuning", "jittering"]
"""What determines the schedule of a training: a start from random weights, from a shallower net, from the same net
at a smaller S, or from the same net at a fixed S."""


@dataclass(frozen=True)
class Training:
    """One training of the plan."""

    name: str
    net: str
    """Configuration of Table 1."""
    scale: tuple[int, ...]
    """S: one number, or S_min and S_max."""
    stage: Stage
    start: str | None = None
    """Name of the training it starts from; None for random weights."""
    learns: tuple[str, ...] = ()
    """Layers to train; all if empty."""
    control: bool = False
    """Not in the paper: trained as long as another net, without the change whose effect is to be measured."""


FIXED, LARGE, JITTERED = (256,), (384,), (256, 512)
FULLY_CONNECTED = ("fc6", "fc7", "fc8")


def _plan() -> Iterator[Training]:
    yield Training("A", "A", FIXED, "random")
    yield Training("A-LRN", "A-LRN", FIXED, "random")
    yield Training(
        "B-5x5", "B-5x5", FIXED, "random"
    )  # Sect. 4.1: each pair of 3x3 layers replaced by one 5x5 layer
    for net in ("B", "C", "D", "E"):
        yield Training(net, net, FIXED, "deeper", start="A")
    for net in ("C", "D", "E"):
        yield Training(f"{net}-384", net, LARGE, "fine-tuning", start=net)
    for net in ("C", "D", "E"):
        yield Training(f"{net}-jitter", net, JITTERED, "jittering", start=f"{net}-384")
    # Part of the submission in Table 6; only its fully connected layers were fine-tuned.
    yield Training("D-jitter-fc", "D", JITTERED, "jittering", start="D-384", learns=FULLY_CONNECTED)
    # Controls: as long as the nets from A; from random weights, like B-5x5; as long as each X-384 and X-jitter.
    yield Training("A-longer", "A", FIXED, "deeper", start="A", control=True)
    yield Training("B-random", "B", FIXED, "random", control=True)
    for net in ("C", "D", "E"):
        yield Training(f"{net}-longer", net, FIXED, "fine-tuning", start=net, control=True)
        yield Training(f"{net}-384-longer", net, LARGE, "jittering", start=f"{net}-384", control=True)


TRAININGS: dict[str, Training] = {training.name: training for training in _plan()}
"""All trainings by name, each after the one it starts from."""


def generation(training: Training) -> int:
    """Count the earlier trainings of the same net in the chain: 2 for D-jitter, after D and D-384."""
    before = TRAININGS[training.start] if training.start else None
    return 0 if before is None or before.net != training.net else 1 + generation(before)


@dataclass(frozen=True)
class Tested:
    """A trained net and the scales it is tested at."""

    training: str
    scales: tuple[int, ...]
    """Q."""

    def __str__(self) -> str:
        return f"{self.training}@{','.join(map(str, self.scales))}"


@dataclass(frozen=True)
class Printed:
    """Errors in percent as printed in the paper; None if the paper has no value."""

    top1: float | None = None
    top5: float | None = None
    top5_test: float | None = None
    """On the test images, whose labels only the challenge's server has."""


Method = Literal["dense", "multi-crop", "both", "centre-crop", "windows"]


@dataclass(frozen=True)
class Row:
    """One row of a table: one net or several, tested by one method and averaged."""

    nets: tuple[Tested, ...]
    """Empty for a row of other authors, which has printed errors only."""
    method: Method = "dense"
    printed: Printed = Printed()
    label: str = ""
    """The paper's name for the row, if that is not the name of a net."""

    @property
    def key(self) -> str:
        """Identifies the measurement: rows of different tables with the same key are the same measurement."""
        return f"{' + '.join(map(str, self.nets))} {self.method}" if self.nets else ""


@dataclass(frozen=True)
class Table:
    """A table of results."""

    name: str
    title: str
    rows: tuple[Row, ...]
    control: bool = False
    """Not in the paper: measured if the preset trains the controls."""


def _one(net: str, scales: Iterable[int], top1: float, top5: float, method: Method = "dense") -> Row:
    return Row((Tested(net, tuple(scales)),), method, Printed(top1, top5))


def _unprinted(method: Method, scales: tuple[int, ...], *nets: str) -> tuple[Row, ...]:
    return tuple(Row((Tested(net, scales),), method) for net in nets)


def _single_scales() -> Iterator[Row]:
    """Yield the scales that Table 4 averages and Table 3 does not have, one per row; they need no further pass."""
    for nets, scales in (
        (("B", "C", "D", "E"), (224, 288)),
        (("C-384", "D-384", "E-384"), (352, 416)),
        (("C-jitter", "D-jitter", "E-jitter"), (256, 512)),
    ):
        for net in nets:
            for scale in scales:
                yield Row((Tested(net, (scale,)),))


AROUND_256, AROUND_384, WIDE = (224, 256, 288), (352, 384, 416), (256, 384, 512)
_D, _E = Tested("D-jitter", WIDE), Tested("E-jitter", WIDE)
_SUBMISSION = (
    Tested("D", AROUND_256),
    Tested("D-384", AROUND_384),
    Tested("D-jitter-fc", WIDE),
    Tested("C", AROUND_256),
    Tested("C-384", AROUND_384),
    Tested("E", AROUND_256),
    Tested("E-384", AROUND_384),
)
_SUBMITTED = Row(_SUBMISSION, "dense", Printed(24.7, 7.5, 7.3), "ILSVRC submission, 7 nets")

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "table3",
            "Table 3: one test scale",
            (
                _one("A", (256,), 29.6, 10.4),
                _one("A-LRN", (256,), 29.7, 10.5),
                _one("B", (256,), 28.7, 9.9),
                _one("C", (256,), 28.1, 9.4),
                _one("C-384", (384,), 28.1, 9.3),
                _one("C-jitter", (384,), 27.3, 8.8),
                _one("D", (256,), 27.0, 8.8),
                _one("D-384", (384,), 26.8, 8.7),
                _one("D-jitter", (384,), 25.6, 8.1),
                _one("E", (256,), 27.3, 9.0),
                _one("E-384", (384,), 26.9, 8.7),
                _one("E-jitter", (384,), 25.5, 8.0),
            ),
        ),
        Table(
            "section4.1",
            "Sect. 4.1: 3x3 against 5x5 filters, centre crop (in the paper, B-5x5 is 7% worse)",
            _unprinted("centre-crop", (256,), "B", "B-5x5"),
        ),
        Table(
            "table4",
            "Table 4: several test scales",
            (
                _one("B", AROUND_256, 28.2, 9.6),
                _one("C", AROUND_256, 27.7, 9.2),
                _one("C-384", AROUND_384, 27.8, 9.2),
                _one("C-jitter", WIDE, 26.3, 8.2),
                _one("D", AROUND_256, 26.6, 8.6),
                _one("D-384", AROUND_384, 26.5, 8.6),
                _one("D-jitter", WIDE, 24.8, 7.5),
                _one("E", AROUND_256, 26.9, 8.7),
                _one("E-384", AROUND_384, 26.7, 8.6),
                _one("E-jitter", WIDE, 24.8, 7.5),
            ),
        ),
        Table(
            "table5",
            "Table 5: dense and multi-crop testing, and both together",
            (
                _one("D-jitter", WIDE, 24.8, 7.5),
                _one("D-jitter", WIDE, 24.6, 7.5, "multi-crop"),
                _one("D-jitter", WIDE, 24.4, 7.2, "both"),
                _one("E-jitter", WIDE, 24.8, 7.5),
                _one("E-jitter", WIDE, 24.6, 7.4, "multi-crop"),
                _one("E-jitter", WIDE, 24.4, 7.1, "both"),
            ),
        ),
        Table(
            "table6",
            "Table 6: combinations of nets",
            (
                _SUBMITTED,
                Row((_D, _E), "dense", Printed(24.0, 7.1, 7.0), "post-submission, dense"),
                Row((_D, _E), "multi-crop", Printed(23.9, 7.2), "post-submission, multi-crop"),
                Row((_D, _E), "both", Printed(23.7, 6.8, 6.8), "post-submission, multi-crop & dense"),
            ),
        ),
        Table(
            "table7",
            "Table 7: comparison with other systems of the time",
            (
                Row((_D, _E), "both", Printed(23.7, 6.8, 6.8), "VGG (2 nets, multi-crop & dense)"),
                Row((_E,), "both", Printed(24.4, 7.1, 7.0), "VGG (1 net, multi-crop & dense)"),
                Row(_SUBMISSION, "dense", Printed(24.7, 7.5, 7.3), "VGG (ILSVRC submission, 7 nets, dense)"),
                Row((), label="GoogLeNet (1 net)", printed=Printed(None, 7.9)),
                Row((), label="GoogLeNet (7 nets)", printed=Printed(None, 6.7)),
                Row((), label="MSRA (11 nets)", printed=Printed(None, None, 8.1)),
                Row((), label="MSRA (1 net)", printed=Printed(27.9, 9.1, 9.1)),
                Row((), label="Clarifai (multiple nets)", printed=Printed(None, None, 11.7)),
                Row((), label="Clarifai (1 net)", printed=Printed(None, None, 12.5)),
                Row((), label="Zeiler & Fergus (6 nets)", printed=Printed(36.0, 14.7, 14.8)),
                Row((), label="Zeiler & Fergus (1 net)", printed=Printed(37.5, 16.0, 16.1)),
                Row((), label="OverFeat (7 nets)", printed=Printed(34.0, 13.2, 13.6)),
                Row((), label="OverFeat (1 net)", printed=Printed(35.7, 14.2, None)),
                Row((), label="Krizhevsky et al. (5 nets)", printed=Printed(38.1, 16.4, 16.4)),
                Row((), label="Krizhevsky et al. (1 net)", printed=Printed(40.7, 18.2, None)),
            ),
        ),
        Table("scales", "The test scales of Table 4, one at a time", tuple(_single_scales())),
        Table(
            "depth",
            "Depth, tested on crops: the centre crop, multi-crop, and the windows of the dense map",
            (
                *_unprinted("centre-crop", (256,), "A", "A-LRN", "B", "C", "D", "E", "A-longer", "B-random"),
                *_unprinted("multi-crop", (256,), "A", "A-longer", "D", "E"),
                *_unprinted("windows", (256,), "A", "A-longer", "D", "E"),
                *_unprinted("dense", (256,), "A-longer", "B-random", "B-5x5"),
            ),
            control=True,
        ),
        Table(
            "controls",
            "Controls for fine-tuning: trained equally long at unchanged S",
            (
                *_unprinted("dense", (256,), "C-longer", "D-longer", "E-longer"),
                *_unprinted("dense", (384,), "C-384-longer", "D-384-longer", "E-384-longer"),
                *_unprinted("dense", AROUND_384, "C-384-longer", "D-384-longer", "E-384-longer"),
            ),
            control=True,
        ),
    )
}
"""The tables in the paper's order, and three additional ones."""

PAPER_TABLES = ("table3", "table4", "table5", "table6", "table7")
"""The tables that can be requested. Table 3 includes Sect. 4.1 and, with controls, the additional tables; Table 4
includes its test scales one at a time."""


def chosen_tables(names: Iterable[str], controls: bool) -> tuple[Table, ...]:
    """Return the tables to make for the requested ones, in order; all if none is requested.

    Raises:
        UserError: for any other name.
    """
    asked = set(names) or set(PAPER_TABLES)
    if unknown := sorted(asked - set(PAPER_TABLES)):
        raise UserError(
            f"unknown table {unknown[0]!r}; choose from {', '.join(PAPER_TABLES)}, or name none to make all"
        )
    if "table3" in asked:
        asked |= {"section4.1"} | (
            {table.name for table in TABLES.values() if table.control} if controls else set()
        )
    if "table4" in asked:
        asked |= {"scales"}
    return tuple(table for table in TABLES.values() if table.name in asked)


def needed_trainings(tables: Iterable[Table]) -> tuple[Training, ...]:
    """Return the trainings that some tables need, including those they start from, in order."""
    needed = {tested.training for table in tables for row in table.rows for tested in row.nets}
    for name in reversed(TRAININGS):
        start = TRAININGS[name].start
        if name in needed and start is not None:
            needed.add(start)
    return tuple(training for training in TRAININGS.values() if training.name in needed)


def measured_rows(tables: Iterable[Table]) -> tuple[Row, ...]:
    """Return the rows to measure, each once, in order."""
    rows = {row.key: row for table in tables for row in table.rows if row.nets}
    return tuple(rows.values())
