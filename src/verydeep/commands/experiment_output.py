"""Print an experiment or the plan of one on standard output: errors next to the paper's, findings, costs."""

from collections.abc import Sequence
from pathlib import Path

from verydeep.experiments.dry_run import DryRun, PlannedStep, Work
from verydeep.experiments.gpus import GpuEstimate
from verydeep.experiments.pages.document import Grid
from verydeep.experiments.report.facts import duration
from verydeep.experiments.report.measurements import Measurements
from verydeep.experiments.report.tables import tables_section
from verydeep.terminal import Cell, write, write_line, write_table

_INTERVAL = "95% interval"
_LEFT_OUT = ("Q in the paper", "seeds", "paper, top-5, test images")
"""Columns of the report that a terminal has no room for."""


def write_experiment(found: Measurements, folder: Path) -> None:
    """Print the tables and the findings of an experiment, and the path of its report."""
    for grid in (block for block in tables_section(found).blocks if isinstance(block, Grid)):
        _write_errors(grid)
        write("\n")
    checked = [each for each in found.checked.findings if each.verdict != "not measured"]
    if checked:
        write_table("The paper's findings", [{"finding": each.claim.says, "here": each.says} for each in checked])
        write("\n")
    write_line(f"report: {folder / 'report.html'}")


def _write_errors(grid: Grid) -> None:
    """Print a table of errors, with the interval of each top-1 error below it and without `_LEFT_OUT`."""
    names = [column.name for column in grid.columns]
    rows: list[dict[str, Cell]] = []
    for cells in grid.rows:
        texts = [cell if isinstance(cell, str) else cell.text for cell in cells]
        row: dict[str, Cell] = {
            name: text
            for name, text in zip(names, texts, strict=True)
            if name != _INTERVAL and name not in _LEFT_OUT
        }
        first = names.index("top-1")
        row["top-1"] = tuple(filter(None, (texts[first], texts[first + 1])))
        rows.append(row)
    numeric = [name for name in rows[0] if name.startswith(("top-", "paper"))] if rows else []
    write_table(grid.caption, rows, numeric)


def write_plan(plan: DryRun) -> None:
    """Print the steps of an experiment with their costs, and what the remaining ones cost on some GPUs."""
    several = len({step.seed for step in plan.steps}) > 1
    title = f"{plan.preset} on {plan.data}, speed measured on {plan.device}"
    rows = [_step_row(step, several) for step in plan.steps]
    write_table(title, rows, numeric=["mult-adds, 10^12", "time here"])
    write("\n")
    write_line(f"in all {_amount(plan.total)}; left to do: {_amount(plan.left)}")
    if plan.gpus:
        write("\n")
        title = "Time and cost of the remaining steps on GPUs, from published training speeds of net D"
        write_table(title, _gpu_rows(plan.gpus), numeric=["images/s of D", "days"])


def _step_row(step: PlannedStep, seeds: bool) -> dict[str, Cell]:
    return {
        "step": f"{step.name}, seed {step.seed}" if seeds else step.name,
        "from": step.start or "random weights",
        "S": " to ".join(map(str, step.training_scale)),
        "tests": "; ".join(f"{method} {', '.join(map(str, q))}" for method, q in step.tests.items()),
        "mult-adds, 10^12": f"{(step.training.multiply_adds + step.testing.multiply_adds) / 1e12:,.1f}",
        "time here": duration((step.training + step.testing).seconds),
        "state": "; ".join((step.state, *step.reasons)),
    }


def _amount(work: Work) -> str:
    return f"{work.images:,} images, {work.multiply_adds:.3g} multiply-adds, {duration(work.seconds)}"


def _gpu_rows(gpus: Sequence[GpuEstimate]) -> list[dict[str, Cell]]:
    return [
        {
            "GPU": each.gpu.name,
            "precision": each.gpu.precision,
            "images/s of D": f"{each.gpu.images_per_second:,.0f}",
            "days": f"{each.hours / 24:.1f}",
            "US dollars": "no known price" if each.dollars is None else f"{each.dollars:,.0f}",
            "source": "; ".join(filter(None, (each.gpu.source, each.gpu.price_source))),
        }
        for each in gpus
    ]
