"""The measurements of an experiment, as its report needs them: by row of the plan."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from verydeep.errors import UserError
from verydeep.experiments.findings import Checked, check_claims
from verydeep.experiments.plan import PAPER_TABLES, TABLES, TRAININGS, Row, Table
from verydeep.experiments.report.pooled import PooledError, pooled_error
from verydeep.experiments.results import (
    OUTCOMES,
    RESULTS,
    Outcomes,
    Results,
    RowResult,
    Times,
    read_outcomes,
    read_results,
    read_times,
)


@dataclass(frozen=True)
class Measurements:
    """The contents of an experiment's folder, and the findings that follow from them."""

    results: Results
    times: Times
    outcomes: Outcomes

    @cached_property
    def checked(self) -> Checked:
        """The paper's findings, checked once, however often they are shown."""
        return check_claims(self.outcomes)

    @cached_property
    def rows(self) -> dict[str, RowResult]:
        """The rows that at least one seed has measured, by key."""
        return {row.key: row for row in self.results.rows if row.seeds}

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The requested tables, in the order of the plan."""
        return tuple(table for table in TABLES.values() if table.name in self.results.tables)

    def seeds(self, row: Row) -> tuple[int, ...]:
        """Return the seeds that measured a row of the plan."""
        return tuple(measured.seed for measured in self.rows[row.key].seeds) if row.key in self.rows else ()

    def error(self, row: Row, k: int = 1) -> PooledError | None:
        """Return the top-k error of a row of the plan; None if no seed has measured it."""
        return pooled_error(self.outcomes, row.key, seeds, k) if (seeds := self.seeds(row)) else None

    def pixels(self, paper: int) -> int | None:
        """Convert one of the paper's S or Q to that of the preset; None if the preset does not list it."""
        scales = self.results.preset.get("scales")
        found = scales.get(str(paper), scales.get(paper)) if isinstance(scales, dict) else None
        return found if isinstance(found, int) else None

    def nets(self) -> tuple[Row, ...]:
        """Return one row per net, for comparing nets: the last row of Table 3 that is measured for it."""
        rows = (row for row in TABLES["table3"].rows if row.key in self.rows)
        return tuple({TRAININGS[row.nets[0].training].net: row for row in rows}.values())

    def best(self) -> Row | None:
        """Return the measured row of the paper's tables with the lowest top-1 error; the first if several tie."""
        tables = [table for table in self.tables if table.name in PAPER_TABLES]
        rows = [row for table in tables for row in table.rows if row.key in self.rows]
        return min(rows, key=self._mean, default=None)

    def _mean(self, row: Row) -> float:
        error = self.error(row)
        return 1.0 if error is None else error.mean


def read_measurements(folder: Path) -> Measurements:
    """Read the folder of an experiment.

    Raises:
        UserError: if a file is missing or damaged, or if the files contradict each other.
    """
    found = Measurements(read_results(folder), read_times(folder), read_outcomes(folder))
    if problem := next(_contradictions(found), None):
        raise UserError(
            f"{folder / RESULTS} and {folder / OUTCOMES} belong to different experiments: {problem}; "
            "run verydeep reproduce again to rewrite both"
        )
    return found


def _contradictions(found: Measurements) -> Iterator[str]:
    results, outcomes = found.results, found.outcomes
    if found.rows and outcomes.labels.size != results.tested_images:
        yield f"the first has {results.tested_images} tested images, the second {outcomes.labels.size}"
    for row in found.rows.values():
        for measured in row.seeds:
            rank = outcomes.rank.get((row.key, measured.seed))
            what = f"{row.key} of seed {measured.seed}"
            if rank is None:
                yield f"{what} is only in the first"
                continue
            first = measured.top1_wrong, measured.top5_wrong
            second = int((rank > 0).sum()), int((rank >= 5).sum())
            if first != second:
                yield f"errors (top-1, top-5) of {what} are {first} in the first, {second} in the second"
