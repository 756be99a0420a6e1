"""The conditions of an experiment: preset, trainings, seeds, versions, hardware, and the time of each step."""

from collections.abc import Iterable, Iterator
from typing import Any

from verydeep.experiments.pages.document import Block, Code, Column, Grid, Paragraph, Section
from verydeep.experiments.plan import TRAININGS
from verydeep.experiments.report.measurements import Measurements
from verydeep.experiments.report.tables import pixels
from verydeep.experiments.results import Curve, Step


def conditions_section(found: Measurements) -> Section:
    """Make the section on the preset, the trainings, the versions and the machines."""
    blocks: list[Block] = []
    if found.times.command:
        blocks.append(Code(found.times.command))
    preset = tuple(flat(found.results.preset))
    blocks.append(Grid("Preset", (Column("field", False), Column("value", False)), preset))
    blocks.append(_trainings(found))
    blocks += environment_grids(found.times.environments)
    return Section("Preset, trainings, versions, hardware", tuple(blocks))


def environment_grids(environments: tuple[dict[str, Any], ...]) -> Iterator[Grid]:
    """Yield a table per environment: versions, processor, ranks."""
    for number, environment in enumerate(environments, 1):
        title = "Versions and hardware" + (f", {number} of {len(environments)}" if len(environments) > 1 else "")
        yield Grid(title, (Column("field", False), Column("value", False)), tuple(flat(environment)))


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested values to dotted names and texts; empty ones are left out."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            if value:
                yield f"{prefix}{name}", ", ".join(map(str, value))
        elif value is not None and value != "":
            yield f"{prefix}{name}", str(value)


def _trainings(found: Measurements) -> Grid:
    columns = (
        Column("training", False),
        Column("net", False),
        Column("S"),
        Column("starts from", False),
        Column("seed"),
        Column("epochs"),
        Column("iterations"),
        Column("final loss"),
        Column("final training error, %"),
        Column("final validation error, %"),
        Column("ended by", False),
    )
    places = {name: place for place, name in enumerate(TRAININGS)}
    curves = sorted(found.results.curves, key=lambda curve: (places.get(curve.training, len(places)), curve.seed))
    return Grid("Trainings (one row per seed)", columns, tuple(_training(curve) for curve in curves), folded=True)


def _training(curve: Curve) -> tuple[str, ...]:
    def last(values: tuple[float, ...], factor: int, digits: int) -> str:
        return f"{factor * values[-1]:.{digits}f}" if values else ""

    return (
        curve.training + (" (control)" if curve.control else ""),
        curve.net,
        pixels(curve.scale),
        curve.start or "random weights",
        str(curve.seed),
        str(curve.epochs),
        f"{curve.iterations:,}",
        last(curve.loss, 1, 3),
        last(curve.training_error, 100, 2),
        last(curve.validation_error, 100, 2),
        curve.ended or "not ended",
    )


def times_section(found: Measurements) -> Section:
    """Make the section on the cost of each step: time, images, multiply-adds."""
    steps = found.times.steps
    columns = (
        Column("step", False),
        Column("seeds"),
        Column("time per seed"),
        Column("images per seed"),
        Column("images/s"),
        Column("multiply-adds per seed, 10^12"),
    )
    names = dict.fromkeys(step.name for step in steps)
    rows = tuple(_times(name, [step for step in steps if step.name == name]) for name in names)
    parts = [("training", "train "), ("testing", "test ")]
    sums = [(what, _seconds(step for step in steps if step.name.startswith(start))) for what, start in parts]
    adds = sum(step.multiply_adds for step in steps)
    total = _seconds(steps)
    split = ", ".join(f"{duration(seconds)} of {what}" for what, seconds in sums if seconds)
    note = f"Total: {duration(total)}{f' ({split})' if split else ''}, {adds:.2e} multiply-adds."
    if not steps:
        note = "No step has finished yet."
    return Section("Time and computing cost", (Paragraph(note), Grid("Steps", columns, rows, folded=True)))


def _times(name: str, steps: list[Step]) -> tuple[str, ...]:
    seconds = _seconds(steps)
    images = sum(step.images for step in steps)
    return (
        name,
        str(len(steps)),
        duration(seconds / len(steps)),
        f"{images / len(steps):,.0f}",
        f"{images / seconds:,.0f}" if seconds else "",
        f"{sum(step.multiply_adds for step in steps) / len(steps) / 1e12:,.2f}",
    )


def _seconds(steps: Iterable[Step]) -> float:
    return sum((step.seconds for step in steps), 0.0)


def duration(seconds: float) -> str:
    """Format seconds as a duration."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
