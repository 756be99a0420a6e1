"""How it was done: preset, trainings, seeds, versions, hardware, and what each step took."""

from collections.abc import Iterable, Iterator
from typing import Any

from verydeep.experiments.pages.document import Block, Code, Column, Grid, Paragraph, Section
from verydeep.experiments.plan import TRAININGS
from verydeep.experiments.report.measurements import Measurements
from verydeep.experiments.report.tables import pixels
from verydeep.experiments.results import Curve, Step


def conditions_section(found: Measurements) -> Section:
    """The preset, the trainings, the versions and the machines."""
    blocks: list[Block] = []
    if found.times.command:
        blocks.append(Code(found.times.command))
    preset = tuple(flat(found.results.preset))
    blocks.append(Grid("Preset", (Column("field", False), Column("value", False)), preset))
    blocks.append(_trainings(found))
    blocks += environment_grids(found.times.environments)
    return Section("Seeds, sizes, versions, hardware", tuple(blocks))


def environment_grids(environments: tuple[dict[str, Any], ...]) -> Iterator[Grid]:
    """A table of each environment: versions, processor, ranks."""
    for number, environment in enumerate(environments, 1):
        title = "Versions and hardware" + (f", {number} of {len(environments)}" if len(environments) > 1 else "")
        yield Grid(title, (Column("what", False), Column("value", False)), tuple(flat(environment)))


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as names with points in them and texts; what is empty is left out."""
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
        Column("from", False),
        Column("seed"),
        Column("epochs"),
        Column("iterations"),
        Column("loss"),
        Column("training error, %"),
        Column("validation error, %"),
        Column("ended", False),
    )
    places = {name: place for place, name in enumerate(TRAININGS)}
    curves = sorted(found.results.curves, key=lambda curve: (places.get(curve.training, len(places)), curve.seed))
    return Grid("Trainings, one row per seed", columns, tuple(_training(curve) for curve in curves), folded=True)


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
        curve.ended or "not yet",
    )


def times_section(found: Measurements) -> Section:
    """What each step took: time, images, multiply-adds."""
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
    note = f"{duration(total)} in all{f': {split}' if split else ''}; {adds:.2e} multiply-adds."
    if not steps:
        note = "No step is done yet."
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
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
