"""Sect. 4: the report of an experiment or of any runs, in Markdown and HTML, made from their files.

`making` assembles the page of an experiment and `runs` that of runs; the other modules are its sections.
"""

from collections.abc import Sequence
from pathlib import Path

from verydeep.errors import UserError
from verydeep.experiments.report.making import check_report as check_report
from verydeep.experiments.report.making import make_report as make_report
from verydeep.experiments.report.runs import runs_report as runs_report
from verydeep.experiments.results import RESULTS
from verydeep.files import is_file


def report(sources: Sequence[Path], page: Path | None = None) -> tuple[Path, ...]:
    """Make the report of an experiment or of some runs.

    Args:
        sources: the folder of an experiment, or run directories.
        page: the page to make, .html or .md. If None, both are made in the folder of the experiment.

    Returns:
        The files written.

    Raises:
        UserError: if there is no source, or no page for runs; and as for `make_report` and `runs_report`.
    """
    if not sources:
        raise UserError("report takes run directories or the folder of an experiment; none was given")
    if len(sources) == 1 and is_file(sources[0] / RESULTS):
        return make_report(sources[0], page)
    if page is None:
        raise UserError("the report of runs needs a file name; pass one that ends in .html or .md with -o")
    return runs_report(sources, page)
