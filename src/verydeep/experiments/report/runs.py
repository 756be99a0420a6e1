"""The report of any runs: curves, differences between recipes, starts and times."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verydeep import recipe as recipes
from verydeep.errors import UserError
from verydeep.experiments.pages.charts import HUES, Axis, Panel, Point, Series
from verydeep.experiments.pages.document import Block, Column, Document, Figure, Grid, Items, Paragraph, Section
from verydeep.experiments.pages.written import page_files, write_files
from verydeep.experiments.report.facts import duration, environment_grids
from verydeep.experiments.report.tables import pixels
from verydeep.files import read_json
from verydeep.recipe import Recipe
from verydeep.training.journal import Epoch
from verydeep.training.run import ENVIRONMENT, Run, read_run

_FEW = 4
"""Largest number of runs named in the title."""


def runs_report(runs: Sequence[str | os.PathLike[str]], page: Path) -> tuple[Path, ...]:
    """Make the report of some runs, ended or not.

    Args:
        runs: run directories.
        page: the page to make: .html, or .md with its charts next to it.

    Returns:
        The files written.

    Raises:
        UserError: if none is given, one is not a run directory, or a file that is not a report is in the way.
    """
    if not runs:
        raise UserError("report takes at least one run directory; none was given")
    files = page_files(runs_document([read_run(run) for run in runs]), page)
    write_files(files)
    return tuple(files)


def runs_document(runs: Sequence[Run]) -> Document:
    """Assemble the report of some runs."""
    names = _names(runs)
    lead = Items(tuple(str(run) for run in runs))
    sections = (
        _curves(runs, names),
        _recipes(runs, names),
        _starts(runs, names),
        _times(runs, names),
        _environments(runs, names),
    )
    title = f"Training of {', '.join(names)}" if len(names) <= _FEW else f"{len(names)} trainings"
    return Document(title, (lead,), sections)


def _names(runs: Sequence[Run]) -> list[str]:
    """What runs are called: their paths below the folder that they share, and how far they are if not ended."""
    paths = [run.path.resolve() for run in runs]
    shared = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(shared).as_posix() for path in paths]
    marks = [f" ({run.unfinished})" if run.unfinished else "" for run in runs]
    return [name + mark for name, mark in zip(names, marks, strict=True)]


def _curves(runs: Sequence[Run], names: Sequence[str]) -> Section:
    if not any(run.epochs for run in runs):
        return Section("Training curves", (Paragraph("No epoch has ended yet."),))

    def panel(title: str, label: str, value: Callable[[Epoch], float | None], logarithmic: bool = False) -> Panel:
        series = []
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            measured = ((float(epoch.epoch), value(epoch)) for epoch in run.epochs)
            points = tuple(Point(epoch, found) for epoch, found in measured if found is not None)
            if points:
                series.append(Series(name, points, number % HUES, "curve", dashed=number // HUES % 2 == 1))
        return Panel(title, Axis("epoch"), Axis(label, logarithmic=logarithmic), tuple(series))

    protocols = sorted({epoch.validation_protocol for run in runs for epoch in run.epochs})
    with_loss = any(epoch.validation_loss is not None for run in runs for epoch in run.epochs)
    panels = (
        panel("Validation error", "top-1 error, %", lambda epoch: 100 * epoch.validation_error),
        panel("Training error", "top-1 error, %", lambda epoch: 100 * epoch.training_error),
        panel("Training loss", "loss", lambda epoch: epoch.loss),
        *([panel("Validation loss", "loss", lambda epoch: epoch.validation_loss)] if with_loss else []),
        panel("Learning rate", "rate", lambda epoch: epoch.rate, logarithmic=True),
    )
    caption = (
        f"By epoch. Validation: {'; '.join(protocols)}. Training error and training loss are measured on "
        "augmented crops, with dropout."
    )
    return Section("Training curves", (Figure("curves", caption, panels),))


def _recipes(runs: Sequence[Run], names: Sequence[str]) -> Section:
    first = runs[0].recipe
    differ = {name for run in runs for name in recipes.differing(first, run.recipe)}
    columns = (Column("field", False), *(Column(name, False) for name in names))
    rows = tuple(
        (field, *(_value(getattr(run.recipe, field)) for run in runs))
        for field in Recipe.model_fields
        if field in differ
    )
    same = tuple((field, _value(getattr(first, field))) for field in Recipe.model_fields if field not in differ)
    blocks: list[Block] = [Grid("Differences", columns, rows)] if rows else []
    if len(runs) > 1 and not rows:
        blocks.append(Paragraph("All runs have the same recipe."))
    title = "Common fields" if len(runs) > 1 else "All fields"
    blocks.append(Grid(title, (Column("field", False), Column("value", False)), same, folded=len(runs) > 1))
    return Section("Recipes", tuple(blocks))


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _starts(runs: Sequence[Run], names: Sequence[str]) -> Section:
    columns = (
        Column("run", False),
        Column("net", False),
        Column("S"),
        Column("starts from", False),
        Column("net of the start", False),
        Column("SHA-256 of its weights", False),
        Column("initial learning rate"),
    )
    rows = tuple(
        (
            name,
            run.recipe.net,
            pixels(run.recipe.training_scale),
            run.start.path or "random weights",
            run.start.configuration or "",
            (run.start.weights or "")[:12],
            f"{run.start.rate:g}",
        )
        for run, name in zip(runs, names, strict=True)
    )
    return Section("Start", (Grid("", columns, rows),))


def _times(runs: Sequence[Run], names: Sequence[str]) -> Section:
    columns = (
        Column("run", False),
        Column("epochs"),
        Column("iterations"),
        Column("time"),
        Column("an epoch"),
        Column("images/s"),
        Column("waiting for images"),
        Column("ended by", False),
    )
    rows = []
    for run, name in zip(runs, names, strict=True):
        epochs = run.epochs
        if not epochs:
            rows.append((name, "0", "0", "", "", "", "", run.ended or "not ended"))
            continue
        seconds = sum(epoch.seconds for epoch in epochs)
        images = sum(epoch.images_per_second * epoch.seconds for epoch in epochs)
        waited = sum(epoch.waiting_share * epoch.seconds for epoch in epochs)
        rows.append(
            (
                name,
                str(len(epochs)),
                f"{epochs[-1].iteration:,}",
                duration(seconds),
                duration(seconds / len(epochs)),
                f"{images / seconds:,.0f}" if seconds else "",
                f"{waited / seconds:.1%}" if seconds else "",
                run.ended or "not ended",
            )
        )
    note = "Training time only: excludes validation, and the part of an epoch before an interruption."
    return Section("Time", (Grid("", columns, tuple(rows)), Paragraph(note)))


def _environments(runs: Sequence[Run], names: Sequence[str]) -> Section:
    blocks: list[Block] = []
    for run, name in zip(runs, names, strict=True):
        starts = _recorded(run.path / ENVIRONMENT)
        for grid in environment_grids(starts[-1:]):
            count = f" (last of {len(starts)} starts)" if len(starts) > 1 else ""
            blocks.append(Grid(f"{name}{count}", grid.columns, grid.rows, folded=True))
    return Section("Versions and hardware", tuple(blocks) or (Paragraph("Not recorded."),))


def _recorded(file: Path) -> tuple[dict[str, Any], ...]:
    """Read the environments of a run's starts; empty if they are lost, since a report can do without."""
    try:
        starts = read_json(file)
    except UserError:
        return ()
    return tuple(start for start in starts if isinstance(start, dict)) if isinstance(starts, list) else ()
