"""The paper's findings, each confirmed, refuted or undecided by what was measured."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from verydeep.experiments.pages.document import Block, Cell, Column, Grid, Paragraph, Section, Tone

_TONES: dict[str, Tone] = {"confirmed": "good", "refuted": "bad", "undecided": "open"}


class Finding(Protocol):
    """What is printed of a finding."""

    @property
    def name(self) -> str: ...
    @property
    def says(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def sentence(self) -> str: ...


def findings_section(findings: Sequence[Finding]) -> Section:
    """The claims with their verdicts."""
    columns = (Column("the paper", False), Column("verdict", False), Column("here", False))
    rows = tuple(
        (each.says, Cell(each.verdict, strong=True, tone=_TONES.get(each.verdict, "")), each.sentence)
        for each in findings
    )
    blocks: tuple[Block, ...] = (Grid("", columns, rows),)
    return Section("The paper's findings", blocks if rows else (Paragraph("Not tested yet."),))


def verdicts(findings: Sequence[Finding]) -> str:
    """How many findings have which verdict."""
    counts = Counter(each.verdict for each in findings)
    order = [*_TONES, *sorted(counts.keys() - _TONES.keys())]
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])
