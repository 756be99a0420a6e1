"""Sect. 4: the report of an experiment, or of any runs: Markdown and HTML, made from what they wrote down.

`making` puts the page of an experiment together and `runs` that of runs; the other modules are its sections.
"""

from verydeep.experiments.report.making import check_report as check_report
from verydeep.experiments.report.making import make_report as make_report
from verydeep.experiments.report.runs import runs_report as runs_report
