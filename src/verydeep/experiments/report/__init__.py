"""Sect. 4: the report of an experiment or of any runs, in Markdown and HTML, made from their files.

`making` assembles the page of an experiment and `runs` that of runs; the other modules are its sections.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from verydeep.errors import UserError
from verydeep.experiments.localisation.results import RESULTS as BOX_RESULTS
from verydeep.experiments.report.making import check_report as check_report
from verydeep.experiments.report.making import make_report as make_report
from verydeep.experiments.report.runs import runs_report as runs_report
from verydeep.experiments.results import RESULTS
from verydeep.experiments.transfer_report import check_transfer_report, make_transfer_report
from verydeep.experiments.transfer_results import RESULTS as TRANSFER_RESULTS
from verydeep.files import is_file


def _make_boxes(folder: Path, page: Path | None) -> tuple[Path, ...]:
    from verydeep.experiments.localisation.report import make_box_report  # which uses modules of this package

    return make_box_report(folder, page)


def _check_boxes(folder: Path) -> tuple[Path, ...]:
    from verydeep.experiments.localisation.report import check_box_report

    return check_box_report(folder)


_MAKERS: dict[str, Callable[[Path, Path | None], tuple[Path, ...]]] = {
    RESULTS: make_report,
    TRANSFER_RESULTS: make_transfer_report,
    BOX_RESULTS: _make_boxes,
}
"""By the file in an experiment's folder, what makes its pages."""

CHECKS: dict[str, Callable[[Path], tuple[Path, ...]]] = {
    RESULTS: check_report,
    TRANSFER_RESULTS: check_transfer_report,
    BOX_RESULTS: _check_boxes,
}
"""The same for the pages that are missing or do not match their data."""


def report(sources: Sequence[Path], page: Path | None = None) -> tuple[Path, ...]:
    """Make the report of an experiment or of some runs.

    Args:
        sources: the folder of an experiment, or run directories.
        page: the page to make, .html or .md. If None, all are made in the folder of the experiment.

    Returns:
        The files written.

    Raises:
        UserError: if there is no source, or no page for runs; and as for `make_report` and `runs_report`.
    """
    if not sources:
        raise UserError("report takes run directories or the folder of an experiment; none was given")
    folder = sources[0]
    makers = [make for name, make in _MAKERS.items() if is_file(folder / name)] if len(sources) == 1 else []
    if makers:
        made = [make(folder, page) for make in (makers if page is None else makers[:1])]
        return tuple(path for paths in made for path in paths)
    if page is None:
        raise UserError("the report of runs needs a file name; pass one that ends in .html or .md with -o")
    return runs_report(sources, page)
