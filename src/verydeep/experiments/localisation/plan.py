"""Appendix A as data: the box regressors to train, the tests of Tables 8, 9 and 10, and the paper's findings.

Sizes are the paper's: the smallest side in pixels, for a crop of 224. Errors are those printed in the paper, in
percent on ILSVRC-2012.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from verydeep.errors import UserError
from verydeep.experiments.plan import FULLY_CONNECTED
from verydeep.localisation.regressor import Regression

Protocol = Literal["centre-crop", "dense"]
"""Protocol 1, with the true class; or protocol 2, with predicted classes."""


@dataclass(frozen=True)
class BoxTraining:
    """A box regressor of the plan."""

    name: str
    scale: int
    """S."""
    start: str
    """The classification net that it starts from: its name in the plan of Sect. 4."""
    regression: Regression
    learns: tuple[str, ...] = ()
    """Layers to train; all if empty."""


TRAININGS: dict[str, BoxTraining] = {
    each.name: each
    for each in (
        BoxTraining("SCR-fc", 256, "D", "SCR", FULLY_CONNECTED),
        BoxTraining("PCR-fc", 256, "D", "PCR", FULLY_CONNECTED),
        BoxTraining("PCR", 256, "D", "PCR"),
        BoxTraining("PCR-384", 384, "D-384", "PCR"),
    )
}
"""All box regressors by name."""

CLASSIFIERS = {256: "D", 384: "D-384"}
"""The classification nets by S."""


@dataclass(frozen=True)
class BoxTested:
    """A box regressor and its test scales."""

    training: str
    scales: tuple[int, ...]
    """Q."""

    def __str__(self) -> str:
        return f"{self.training}@{','.join(map(str, self.scales))}"


@dataclass(frozen=True)
class BoxPrinted:
    """Localisation errors in percent as printed in the paper; None if the paper has no value."""

    val: float | None = None
    test: float | None = None


@dataclass(frozen=True)
class BoxRow:
    """A row of a table: one regressor or several, tested together."""

    nets: tuple[BoxTested, ...]
    """Empty for a row of other authors."""
    protocol: Protocol = "dense"
    printed: BoxPrinted = BoxPrinted()
    label: str = ""

    @property
    def key(self) -> str:
        """Identifies the measurement."""
        return f"{' + '.join(map(str, self.nets))} {self.protocol}" if self.nets else ""


@dataclass(frozen=True)
class BoxTable:
    """A table of Appendix A."""

    name: str
    title: str
    rows: tuple[BoxRow, ...]


def _centre(name: str, printed: float, label: str) -> BoxRow:
    return BoxRow((BoxTested(name, (256,)),), "centre-crop", BoxPrinted(printed), label)


_AT_256, _AT_384, _TWO_SCALES = (
    BoxTested("PCR", (256,)),
    BoxTested("PCR-384", (384,)),
    BoxTested("PCR-384", (352, 384)),
)
SCR_FC = _centre("SCR-fc", 36.4, "1st and 2nd FC layers, SCR")
PCR_FC = _centre("PCR-fc", 34.3, "1st and 2nd FC layers, PCR")
PCR_ALL = _centre("PCR", 33.1, "all layers, PCR")
S256 = BoxRow((_AT_256,), printed=BoxPrinted(29.5))
S384 = BoxRow((_AT_384,), printed=BoxPrinted(28.2, 26.7))
S384_TWO = BoxRow((_TWO_SCALES,), printed=BoxPrinted(27.5))
FUSION = BoxRow((_AT_256, _TWO_SCALES), printed=BoxPrinted(26.9, 25.3), label="both nets")

TABLES: dict[str, BoxTable] = {
    table.name: table
    for table in (
        BoxTable("table8", "Table 8: bounding-box regression, centre crop, true class", (SCR_FC, PCR_FC, PCR_ALL)),
        BoxTable("table9", "Table 9: localisation, dense, top-5", (S256, S384, S384_TWO, FUSION)),
        BoxTable(
            "table10",
            "Table 10: comparison with other systems of the time",
            (
                BoxRow(FUSION.nets, printed=FUSION.printed, label="VGG"),
                BoxRow((), label="GoogLeNet", printed=BoxPrinted(None, 26.7)),
                BoxRow((), label="OverFeat", printed=BoxPrinted(30.0, 29.9)),
                BoxRow((), label="Krizhevsky et al.", printed=BoxPrinted(None, 34.2)),
            ),
        ),
    )
}


@dataclass(frozen=True)
class BoxClaim:
    """A finding of Appendix A: `row` has a lower error than `against`."""

    name: str
    says: str
    row: BoxRow
    against: BoxRow


CLAIMS: tuple[BoxClaim, ...] = (
    BoxClaim("per class", "One box per class (PCR) is better than one for all (SCR).", PCR_FC, SCR_FC),
    BoxClaim("all layers", "Fine-tuning all layers is better than the fully connected ones.", PCR_ALL, PCR_FC),
    BoxClaim("scale", "A net trained and tested at S = 384 is better than one at S = 256.", S384, S256),
    BoxClaim("two scales", "Two test scales are better than one.", S384_TWO, S384),
    BoxClaim("two nets", "Two nets are better than the better one alone.", FUSION, S384_TWO),
)
"""The paper's findings, each as two rows of a table."""


def chosen_box_tables(names: Iterable[str]) -> tuple[BoxTable, ...]:
    """Return the tables of some names, in order; all if there are none.

    Raises:
        UserError: for an unknown name.
    """
    asked = set(names) or set(TABLES)
    if unknown := sorted(asked - set(TABLES)):
        raise UserError(f"unknown table {unknown[0]!r}; choose from {', '.join(TABLES)}")
    return tuple(table for table in TABLES.values() if table.name in asked)


def measured_box_rows(tables: Iterable[BoxTable]) -> tuple[BoxRow, ...]:
    """Return the rows to measure, each once, in order."""
    rows: dict[str, BoxRow] = {}
    for table in tables:
        for row in table.rows:
            if row.nets:
                rows.setdefault(row.key, row)
    return tuple(rows.values())
