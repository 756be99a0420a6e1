"""Sect. 4 as data: which nets are trained from which, and which tests Tables 3 to 7 are made of.

All sizes are the paper's, in pixels of the smallest side, for crops of 224; a preset says what they are at another
crop. Errors are those that the paper prints, in percent on the validation images of ILSVRC-2012.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from verydeep.errors import UserError

Stage = Literal["random", "deeper", "fine-tuning", "jittering"]
"""What the schedule of a training follows from: random weights, a shallower net, the same net at a smaller S, the
same net at one S."""


@dataclass(frozen=True)
class Training:
    """One training of the plan."""

    name: str
    net: str
    """Configuration of Table 1."""
    scale: tuple[int, ...]
    """S: one number, or Smin and Smax."""
    stage: Stage
    start: str | None = None
    """Name of the training that it starts from; None for random weights."""
    learns: tuple[str, ...] = ()
    """Layers that learn; all where none is named."""
    control: bool = False
    """Not the paper's: trained as long as another one, without what that one is to show."""


FIXED, LARGE, JITTERED = (256,), (384,), (256, 512)
FULLY_CONNECTED = ("fc6", "fc7", "fc8")


def _plan() -> Iterator[Training]:
    yield Training("A", "A", FIXED, "random")
    yield Training("A-LRN", "A-LRN", FIXED, "random")
    yield Training("B-5x5", "B-5x5", FIXED, "random")  # Sect. 4.1: pairs of 3x3 layers replaced by 5x5
    for net in ("B", "C", "D", "E"):
        yield Training(net, net, FIXED, "deeper", start="A")
    for net in ("C", "D", "E"):
        yield Training(f"{net}-384", net, LARGE, "fine-tuning", start=net)
    for net in ("C", "D", "E"):
        yield Training(f"{net}-jitter", net, JITTERED, "jittering", start=f"{net}-384")
    # The submission's in Table 6, of which only the fully connected layers were fine-tuned.
    yield Training("D-jitter-fc", "D", JITTERED, "jittering", start="D-384", learns=FULLY_CONNECTED)
    # As long as the nets from A; from random weights, as B-5x5; as long as each X-384, and each X-jitter.
    yield Training("A-longer", "A", FIXED, "deeper", start="A", control=True)
    yield Training("B-random", "B", FIXED, "random", control=True)
    for net in ("C", "D", "E"):
        yield Training(f"{net}-longer", net, FIXED, "fine-tuning", start=net, control=True)
        yield Training(f"{net}-384-longer", net, LARGE, "jittering", start=f"{net}-384", control=True)


TRAININGS: dict[str, Training] = {training.name: training for training in _plan()}
"""All trainings by name, each after the one that it starts from."""


def generation(training: Training) -> int:
    """How many trainings of the same net lie before this one in its chain: 2 for D-jitter, after D and D-384."""
    before = TRAININGS[training.start] if training.start else None
    return 0 if before is None or before.net != training.net else 1 + generation(before)


@dataclass(frozen=True)
class Tested:
    """A trained net and the scales that it is tested at."""

    training: str
    scales: tuple[int, ...]
    """Q."""

    def __str__(self) -> str:
        return f"{self.training}@{','.join(map(str, self.scales))}"


@dataclass(frozen=True)
class Printed:
    """Errors in percent as the paper prints them; None where it has none."""

    top1: float | None = None
    top5: float | None = None
    top5_test: float | None = None
    """On the test images, whose labels nobody has but the challenge's server."""


Method = Literal["dense", "multi-crop", "both", "centre-crop", "windows"]


@dataclass(frozen=True)
class Row:
    """One row of a table: nets, tested by one method and averaged."""

    nets: tuple[Tested, ...]
    """Empty for a row of other authors, which is only printed."""
    method: Method = "dense"
    printed: Printed = Printed()
    label: str = ""
    """What the paper calls it, where that is no net."""

    @property
    def key(self) -> str:
        """Names what is measured: rows of several tables with the same key are the same measurement."""
        return f"{' + '.join(map(str, self.nets))} {self.method}" if self.nets else ""


@dataclass(frozen=True)
class Table:
    """A table of results."""

    name: str
    title: str
    rows: tuple[Row, ...]
    control: bool = False
    """Not the paper's: measured where a preset trains the controls."""


def _one(net: str, scales: Iterable[int], top1: float, top5: float, method: Method = "dense") -> Row:
    return Row((Tested(net, tuple(scales)),), method, Printed(top1, top5))


def _unprinted(method: Method, scales: tuple[int, ...], *nets: str) -> tuple[Row, ...]:
    return tuple(Row((Tested(net, scales),), method) for net in nets)


def _single_scales() -> Iterator[Row]:
    """Rows at the scales that Table 4 averages over and Table 3 does not test at; they need no other pass."""
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
            "Sect. 4.1: small filters against 5x5, one centre crop (the paper: B-5x5 is 7% worse)",
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
            "Table 5: dense against multi-crop, and both",
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
            "Table 6: several nets together",
            (
                _SUBMITTED,
                Row((_D, _E), "dense", Printed(24.0, 7.1, 7.0), "post-submission, dense"),
                Row((_D, _E), "multi-crop", Printed(23.9, 7.2), "post-submission, multi-crop"),
                Row((_D, _E), "both", Printed(23.7, 6.8, 6.8), "post-submission, multi-crop & dense"),
            ),
        ),
        Table(
            "table7",
            "Table 7: other systems of the time",
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
        Table("scales", "The scales of Table 4, each alone", tuple(_single_scales())),
        Table(
            "depth",
            "Depth by centre crop and multi-crop, and the windows of a dense map as crops",
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
            "Fine-tuning against as much of it at one S",
            (
                *_unprinted("dense", (256,), "C-longer", "D-longer", "E-longer"),
                *_unprinted("dense", (384,), "C-384-longer", "D-384-longer", "E-384-longer"),
                *_unprinted("dense", AROUND_384, "C-384-longer", "D-384-longer", "E-384-longer"),
            ),
            control=True,
        ),
    )
}
"""The tables in the paper's order, and three of our own."""

PAPER_TABLES = ("table3", "table4", "table5", "table6", "table7")
"""What `verydeep reproduce` takes; Table 3 brings Sect. 4.1 along, and with controls the tables of our own;
Table 4 its scales alone."""


def chosen_tables(names: Iterable[str], controls: bool) -> tuple[Table, ...]:
    """The tables that are made where these are asked for, in order; all where none is.

    Raises:
        UserError: for another name.
    """
    asked = set(names) or set(PAPER_TABLES)
    if unknown := sorted(asked - set(PAPER_TABLES)):
        raise UserError(
            f"there is no table {unknown[0]!r}; give some of {', '.join(PAPER_TABLES)}, or none for all"
        )
    if "table3" in asked:
        asked |= {"section4.1"} | (
            {table.name for table in TABLES.values() if table.control} if controls else set()
        )
    if "table4" in asked:
        asked |= {"scales"}
    return tuple(table for table in TABLES.values() if table.name in asked)


def needed_trainings(tables: Iterable[Table]) -> tuple[Training, ...]:
    """The trainings that some tables need, with all that those start from, each after what it starts from."""
    needed = {tested.training for table in tables for row in table.rows for tested in row.nets}
    for name in reversed(TRAININGS):
        start = TRAININGS[name].start
        if name in needed and start is not None:
            needed.add(start)
    return tuple(training for training in TRAININGS.values() if training.name in needed)


def measured_rows(tables: Iterable[Table]) -> tuple[Row, ...]:
    """The rows that are measured, each once, in order."""
    rows = {row.key: row for table in tables for row in table.rows if row.nets}
    return tuple(rows.values())
