"""Tables 11 and 12 as data: what the paper printed, in percent."""

from dataclasses import dataclass

from verydeep.transfer.procedure import TransferResult

DATA_SETS = ("VOC-2007", "VOC-2012", "Caltech-101", "Caltech-256")
"""The columns of Table 11: mean average precision on VOC, mean class recall on Caltech."""


@dataclass(frozen=True)
class Printed:
    """A number of the paper, in percent."""

    value: float
    deviation: float | None = None
    """Standard deviation over the random splits of Caltech."""

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


@dataclass(frozen=True)
class Row:
    """A row of Table 11 or 12."""

    method: str
    printed: dict[str, Printed]
    """By data set."""
    nets: tuple[str, ...] = ()
    """Configurations whose descriptors are stacked; empty for other authors."""
    boxes: bool = False
    """Whether the person's box is described, too."""
    note: str = ""


def _row(method: str, *values: Printed | float | None, nets: tuple[str, ...] = (), note: str = "") -> Row:
    pairs = zip(DATA_SETS, values, strict=True)
    printed = {
        name: value if isinstance(value, Printed) else Printed(value) for name, value in pairs if value is not None
    }
    return Row(method, printed, nets, note=note)


TABLE_11 = (
    _row("Zeiler & Fergus (2013)", None, 79.0, Printed(86.5, 0.5), Printed(74.2, 0.3)),
    _row("Chatfield et al. (2014)", 82.4, 83.2, Printed(88.4, 0.6), Printed(77.6, 0.1)),
    _row("He et al. (2014)", 82.4, None, Printed(93.4, 0.5), None),
    _row("Wei et al. (2014)", 81.5, 81.7, None, None),
    _row(
        "Wei et al. (2014), extended",
        *(85.2, 90.3, None, None),
        note="pre-trained on an extended ILSVRC data set of 2000 classes",
    ),
    _row("VGG Net-D (16 layers)", 89.3, 89.0, Printed(91.8, 1.0), Printed(85.0, 0.2), nets=("D",)),
    _row("VGG Net-E (19 layers)", 89.3, 89.0, Printed(92.3, 0.5), Printed(85.1, 0.3), nets=("E",)),
    _row("VGG Net-D & Net-E", 89.7, 89.3, Printed(92.7, 0.5), Printed(86.2, 0.3), nets=("D", "E")),
)

ACTIONS = "VOC-2012 actions"
"""The column of Table 12: mean average precision."""

TABLE_12 = (
    Row("Oquab et al. (2014)", {ACTIONS: Printed(70.2)}, note="pre-trained on 1512 classes"),
    Row("Gkioxari et al. (2014)", {ACTIONS: Printed(73.6)}),
    Row("Hoai (2014)", {ACTIONS: Printed(76.3)}),
    Row("VGG Net-D & Net-E, image only", {ACTIONS: Printed(79.2)}, ("D", "E")),
    Row("VGG Net-D & Net-E, image and bounding box", {ACTIONS: Printed(84.0)}, ("D", "E"), boxes=True),
)


def printed(data_set: str, nets: tuple[str, ...], boxes: bool = False) -> Printed | None:
    """Return what the paper printed for some nets on a data set; None if it has no such row.

    Args:
        data_set: one of `DATA_SETS`, or `ACTIONS`.
        nets: the configurations, in any order.
        boxes: whether the person's box is described, too.
    """
    rows = (row for row in (*TABLE_11, *TABLE_12) if row.nets == tuple(sorted(nets)) and row.boxes == boxes)
    return next((row.printed[data_set] for row in rows if data_set in row.printed), None)


def printed_for(result: TransferResult) -> Printed | None:
    """Return what the paper printed for the same nets and data set, which is recognised by name and classes."""
    name = result.data.lower().replace("-", "").replace("_", "")
    known = {"voc2007": "VOC-2007", "voc2012": "VOC-2012", "voc2012 actions": ACTIONS}.get(name)
    if name.startswith(("caltech", "101object")) and len(result.classes) in (101, 102):
        known = "Caltech-101"
    if name.startswith(("caltech", "256object")) and len(result.classes) in (256, 257):
        known = "Caltech-256"
    return printed(known, result.nets, "and box" in result.protocol) if known else None
