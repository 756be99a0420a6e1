"""The report of the localisation experiments: tables, findings, trainings; as a page."""

from pathlib import Path

import numpy as np

from verydeep.evaluation.metrics import wilson
from verydeep.experiments.localisation.findings import BoxFinding, box_findings
from verydeep.experiments.localisation.plan import TABLES, TRAININGS, BoxRow, BoxTable
from verydeep.experiments.localisation.results import BoxMeasurements, read_box_measurements
from verydeep.experiments.pages.document import Cell, Column, Document, Grid, Items, Paragraph, Section, Tone
from verydeep.experiments.pages.written import page_files, stale, write_files
from verydeep.experiments.report.facts import duration, flat
from verydeep.localisation.errors import BASELINES

PAGES = ("localisation.md", "localisation.html")
"""The pages in an experiment's folder."""

_TONES: dict[str, Tone] = {"confirmed": "good", "refuted": "bad", "undecided": "open", "not measured": ""}
_NOTE = (
    "A box is right if its intersection over union with a true box of its class exceeds 0.5. Errors are in "
    "percent: the mean over seeds ± the standard deviation over seeds. The 95% interval is over photographs. The "
    "baselines need no net: the box of the whole image, and the mean box of the training set; by the dense "
    "protocol they get the classes of the same row. The paper's errors are on ILSVRC-2012: compare them with each "
    "other, not with ours."
)
_FINDINGS_NOTE = (
    "Each finding is tested on the same photographs and over all seeds: by the error of the box for Table 8, and "
    "by the top-5 error for Table 9. Confirmed: the 95% interval of the difference lies on the paper's side. "
    "Refuted: it lies on the other side. Undecided: neither, or one seed only. The p values are not corrected for "
    "multiple comparisons."
)


def write_box_report(found: BoxMeasurements, folder: Path) -> tuple[Path, ...]:
    """Write the pages of the localisation experiments in their folder.

    Raises:
        UserError: if a file that is not a report is in the way.
    """
    files = _files(found, folder)
    write_files(files)
    return tuple(files)


def make_box_report(folder: Path, page: Path | None = None) -> tuple[Path, ...]:
    """Make the pages again from the results in a folder.

    Args:
        folder: folder of an experiment.
        page: the page to make, .html or .md; if None, both in the folder.

    Returns:
        The files written; none if the folder has no such results.

    Raises:
        UserError: if the results are damaged, or a file that is not a report is in the way.
    """
    found = read_box_measurements(folder)
    if found is None:
        return ()
    if page is None:
        return write_box_report(found, folder)
    files = page_files(box_document(found), page)
    write_files(files)
    return tuple(files)


def check_box_report(folder: Path) -> tuple[Path, ...]:
    """Return the pages that are missing or do not match the results in a folder.

    Raises:
        UserError: if the results are damaged.
    """
    found = read_box_measurements(folder)
    return () if found is None else tuple(stale(_files(found, folder)))


def _files(found: BoxMeasurements, folder: Path) -> dict[Path, str]:
    document = box_document(found)
    files: dict[Path, str] = {}
    for name in PAGES:
        files |= page_files(document, folder / name)
    return files


def box_document(found: BoxMeasurements) -> Document:
    """Assemble the report."""
    results = found.results
    without = f"; {results.without_boxes} without a box left out" if results.without_boxes else ""
    lead = Items(
        (
            "Appendix A of Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image "
            f"Recognition, at the sizes of the preset {results.preset.get('name')}.",
            f"Data: {results.data}; {len(results.classes)} classes; {results.training_images:,} training and "
            f"{results.tested_images:,} test photographs with boxes{without}.",
            f"Classification nets: {results.classifiers}.",
            f"Seeds: {', '.join(map(str, results.seeds))}.",
        )
    )
    grids = [box_grid(TABLES[name], found) for name in results.tables]
    return Document(
        f"Localisation on {results.data}",
        (lead,),
        (
            Section("The paper's findings", (Paragraph(_FINDINGS_NOTE), findings_grid(found), _one_by_one(found))),
            Section("Tables", (Paragraph(_NOTE), *grids)),
            Section("Trainings, preset, versions", (_trainings(found), _facts(found))),
        ),
    )


def box_grid(table: BoxTable, found: BoxMeasurements) -> Grid:
    """Return a table: errors with intervals, the baselines, the classes, and the paper's errors."""
    dense = any(row.protocol == "dense" for row in table.rows if row.nets)
    tops = ("top-1", "top-5") if dense else ("error",)
    columns = [Column("net", False), Column("protocol", False), Column("seeds")]
    for top in tops:
        columns += [Column(top), Column("95% interval")]
    columns += [Column(f"{tops[-1]}, {name}") for name in BASELINES]
    columns += [Column("top-5, classes alone")] if dense else []
    columns += [Column("paper, val"), Column("paper, test")]
    return Grid(table.title, tuple(columns), tuple(_cells(row, found, dense) for row in table.rows))


def _cells(row: BoxRow, found: BoxMeasurements, dense: bool) -> tuple[str | Cell, ...]:
    results, seeds = found.results, found.results.seeds_of(row.key)
    name = " + ".join(map(str, row.nets))
    cells: list[str | Cell] = [f"{row.label}: {name}" if row.label and name else row.label or name]
    measured = [one for seed in seeds if (one := results.measured(row.key, seed)) is not None]
    cells.append(measured[0].protocol if measured else "")
    cells.append(f"{len(seeds)}" if row.nets else "")
    if measured:
        for top in ("top1", "top5") if dense else ("top1",):
            missed = np.stack([~getattr(found.hits[row.key, seed], top) for seed in seeds])
            cells += [Cell(_spread(missed.mean(1)), strong=top == "top5" or not dense), _interval(missed)]
        last = "top5" if dense else "top1"
        for baseline in BASELINES:
            wrong = [getattr(one.baselines[baseline], last) for one in measured]
            cells.append(_spread(np.array(wrong) / results.tested_images))
        if dense:
            alone = [one.classes.top5 for one in measured if one.classes is not None]
            cells.append(_spread(np.array(alone, np.float64) / results.tested_images))
    else:
        cells += [""] * (4 + len(BASELINES) + 1 if dense else 2 + len(BASELINES))
    return (*cells, *("" if value is None else f"{value:.1f}" for value in (row.printed.val, row.printed.test)))


def _spread(errors: np.ndarray) -> str:
    spread = f" ± {100 * errors.std(ddof=1):.1f}" if len(errors) > 1 else ""
    return f"{100 * errors.mean():.1f}{spread}"


def _interval(missed: np.ndarray) -> str:
    """Return Wilson's 95% interval, for as many independent answers as the spread over photographs shows."""
    share, images = float(missed.mean()), missed.shape[1]
    variance = float(missed.mean(0).var()) / images
    low, high = wilson(share, share * (1 - share) / variance if variance > 0 else float(images))
    return f"{100 * low:.1f}–{100 * high:.1f}"


def findings_grid(found: BoxMeasurements) -> Grid:
    """Return the verdicts on the paper's findings."""
    columns = (
        Column("the paper's finding", False),
        Column("verdict", False),
        Column("seeds"),
        Column("error lower by, points"),
        Column("95% interval"),
        Column("p"),
        Column("in the paper, points"),
        Column("smallest detectable difference, points (80% power)"),
    )
    return Grid("", columns, tuple(_finding(each) for each in box_findings(found)))


def _finding(each: BoxFinding) -> tuple[str | Cell, ...]:
    verdict = Cell(each.verdict, strong=True, tone=_TONES[each.verdict])
    printed = "" if each.printed is None else f"{100 * each.printed:.1f}"
    if each.errors is None:
        return each.claim.says, verdict, "0", "", "", "", printed, ""
    errors = each.errors
    return (
        each.claim.says,
        verdict,
        str(len(each.seeds)),
        f"{100 * errors.mean:.1f}",
        f"{100 * errors.low:.1f} to {100 * errors.high:.1f}",
        "< 0.001" if errors.p < 0.001 else f"{errors.p:.2g}",
        printed,
        f"{100 * errors.detectable:.1f}",
    )


def _one_by_one(found: BoxMeasurements) -> Grid:
    columns = (
        Column("finding", False),
        Column("seed"),
        Column("photographs that only the first gets right"),
        Column("only the other"),
        Column("p"),
    )
    rows = tuple(
        (each.claim.name, str(seed), str(gained), str(lost), f"{p:.2g}")
        for each in box_findings(found)
        for seed, gained, lost, p in each.one_by_one
    )
    return Grid("Each seed alone: McNemar's exact test", columns, rows, folded=True)


def _trainings(found: BoxMeasurements) -> Grid:
    columns = (
        Column("regressor", False),
        Column("layers", False),
        Column("S"),
        Column("seed"),
        Column("epochs"),
        Column("iterations"),
        Column("first loss"),
        Column("final loss"),
        Column("final training error, %"),
        Column("validation error, %"),
        Column("time"),
    )
    order = {name: place for place, name in enumerate(TRAININGS)}
    curves = sorted(found.results.curves, key=lambda curve: (order[curve.training], curve.seed))
    rows = tuple(
        (
            curve.training,
            curve.trained_layers,
            "–".join(map(str, curve.scale)),
            str(curve.seed),
            str(curve.epochs),
            f"{curve.iterations:,}",
            f"{curve.loss[0]:.4f}",
            f"{curve.loss[-1]:.4f}",
            f"{100 * curve.training_error[-1]:.1f}",
            f"{100 * curve.validation_error[-1]:.1f}",
            duration(curve.seconds),
        )
        for curve in curves
    )
    return Grid("Trainings of box regressors", columns, rows, folded=True)


def _facts(found: BoxMeasurements) -> Grid:
    facts = (*flat(found.results.preset), *flat(found.results.environment))
    return Grid("Preset and versions", (Column("field", False), Column("value", False)), facts, folded=True)
