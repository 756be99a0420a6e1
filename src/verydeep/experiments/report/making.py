"""The report of an experiment: assemble its page, write it, and check it against its data."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from verydeep.datasets.dataset import Dataset
from verydeep.experiments.findings import Finding
from verydeep.experiments.pages.document import Block, Document, Figure, Items, Paragraph, Section
from verydeep.experiments.pages.written import page_files, stale, write_files
from verydeep.experiments.plan import Row, measured_rows, needed_trainings
from verydeep.experiments.report.facts import conditions_section, duration, times_section
from verydeep.experiments.report.figures import curve_figures, depth_figure, scales_figure, test_scale_figure
from verydeep.experiments.report.findings import findings_section, verdicts
from verydeep.experiments.report.measurements import Measurements, read_measurements
from verydeep.experiments.report.mistakes import confusion_section, photographs_section
from verydeep.experiments.report.tables import interval, net_name, percent, tables_section

PAGES = ("report.md", "report.html")
"""The pages in an experiment's folder. The charts of the first are next to it, as `report-*.svg`."""


def make_report(folder: Path, page: Path | None = None, photographs: Dataset | None = None) -> tuple[Path, ...]:
    """Make the pages of an experiment from the data in its folder. The same data give the same bytes.

    Args:
        folder: folder of an experiment, finished or not, with results.json, times.json and outcomes.safetensors.
        page: the page to make, .html or .md; if None, both in the folder.
        photographs: the tested photographs, in order; the HTML page then shows those most often misclassified.

    Returns:
        The files written.

    Raises:
        UserError: if the folder's data are missing or damaged, the photographs are not those that were tested, or
            a file that is not a report is in the way.
    """
    pages = [folder / name for name in PAGES] if page is None else [page]
    return write_report(read_measurements(folder), pages, photographs)


def write_report(
    found: Measurements, pages: Iterable[Path], photographs: Dataset | None = None
) -> tuple[Path, ...]:
    """Write the pages of an experiment that has been read; the rest is as for `make_report`."""
    document = experiment_document(found, photographs)
    files: dict[Path, str] = {}
    for path in pages:
        files |= page_files(document, path)
    write_files(files)
    return tuple(files)


def check_report(folder: Path) -> tuple[Path, ...]:
    """Return the files of an experiment's pages that are missing or do not match its data.

    Raises:
        UserError: if its data are missing or damaged.
    """
    document = experiment_document(read_measurements(folder))
    return tuple(path for name in PAGES for path in stale(page_files(document, folder / name)))


def experiment_document(found: Measurements, photographs: Dataset | None = None) -> Document:
    """Assemble the report of an experiment."""
    title = f"The paper's experiments on {found.results.data}"
    checked = found.checked
    sections = (
        findings_section(checked.findings, checked.border),
        tables_section(found),
        _charts("Error against depth", depth_figure(found)),
        _charts("Error against test scales", scales_figure(found), test_scale_figure(found)),
        _charts("Training curves", *curve_figures(found)),
        confusion_section(found),
        photographs_section(found, photographs),
        conditions_section(found),
        times_section(found),
    )
    return Document(title, _lead(found, checked.findings), sections)


def _charts(title: str, *figures: Figure | None) -> Section:
    there: tuple[Block, ...] = tuple(figure for figure in figures if figure is not None)
    return Section(title, there or (Paragraph("Not measured yet."),))


def _lead(found: Measurements, checked: Sequence[Finding]) -> tuple[Block, ...]:
    results = found.results
    held_out = results.held_out_images
    validated = (
        f"{held_out:,} held out of the training images for validation"
        if held_out
        else "which also serve for validation between epochs"
    )
    preset = results.preset.get("name")
    trainings = len(needed_trainings(found.tables)) * len(results.seeds)
    ended = sum(bool(curve.ended) for curve in results.curves)
    rows = measured_rows(found.tables)
    complete = sum(len(found.seeds(row)) == len(results.seeds) for row in rows)
    seconds = sum((step.seconds for step in found.times.steps), 0.0)
    items = [
        "Sect. 4 of Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition"
        + (f", at the sizes of the preset {preset}." if preset else "."),
        f"Data: {results.data}; {len(results.classes)} classes; {results.training_images:,} training images; "
        f"{results.tested_images:,} test images; {validated}.",
        f"Seeds: {', '.join(map(str, results.seeds))}. Finished: {ended} of {trainings} trainings, and {complete} "
        f"of {len(rows)} rows of the tables with every seed. Computing time: {duration(seconds)}.",
    ]
    if (best := found.best()) is not None:
        items.append(_headline(best, found))
    items.append(f"The paper's findings: {verdicts(checked)}.")
    return (Items(tuple(items)),)


def _headline(row: Row, found: Measurements) -> str:
    top1, top5 = found.error(row), found.error(row, 5)
    if top1 is None or top5 is None:
        return ""
    text = f"Lowest top-1 error: {net_name(row)} ({found.rows[row.key].protocol}), {percent(top1)}% "
    text += f"(95% interval {interval(top1)}), top-5 {percent(top5)}%."
    paper = row.printed
    if paper.top1 is not None and paper.top5 is not None:
        text += f" In the paper, on ILSVRC-2012: {paper.top1:.1f}% and {paper.top5:.1f}%."
    return text
