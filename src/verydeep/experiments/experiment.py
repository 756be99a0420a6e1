"""An experiment under way: what is asked for, its images, and what is known of it so far."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from verydeep import procedures
from verydeep.computing import Computing, Precision
from verydeep.datasets import Dataset, held_out
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.posteriors import Pass, passes
from verydeep.experiments.plan import (
    Row,
    Table,
    Tested,
    Training,
    chosen_tables,
    measured_rows,
    needed_trainings,
)
from verydeep.experiments.presets import Preset, preset
from verydeep.experiments.results import RESULTS, TIMES, Curve, Outcomes, Step, read_results, read_times
from verydeep.recipe import Recipe
from verydeep.survey import Survey

KEPT_BYTES = 2**31
"""Photographs of at most so many bytes of pixels are decoded once and kept, if that changes no pixel."""


@dataclass(frozen=True, eq=False)
class Data:
    """The images of an experiment."""

    name: str
    training: Dataset
    """Without what is held out."""
    validation: Dataset
    """What decides when the rate drops: the held out images, or the tested ones."""
    tested: Dataset
    names: tuple[str, ...]
    """Of the tested images."""
    held_out: int
    sizes: np.ndarray
    """Width and height of the tested images."""
    described: dict[str, Any]
    """What identifies the training set in a run."""


@dataclass(frozen=True)
class Options:
    """How to compute; changes nothing of what is computed but rounding."""

    device: str = "auto"
    precision: Precision = "fp32"
    workers: int | None = None
    micro_batch: int = 0


@dataclass(eq=False)
class Experiment:
    """An experiment under way: what is asked for, and what is known so far."""

    preset: Preset
    tables: tuple[Table, ...]
    asked: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Data
    out: Path
    options: Options
    here: Ranks
    curves: dict[tuple[int, str], Curve] = field(default_factory=dict)
    outcomes: Outcomes = field(init=False)
    steps: dict[tuple[int, str], Step] = field(default_factory=dict)
    environments: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outcomes = Outcomes(self.data.tested.labels, self.data.names)

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The trainings that the tables need, in order."""
        return needed_trainings(self.tables)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the tables that are measured, each once."""
        return measured_rows(self.tables)

    def folder(self, training: str, seed: int) -> Path:
        """The run directory of a training."""
        return self.out / f"seed-{seed}" / training

    def recipe(self, training: Training, seed: int) -> Recipe:
        """The recipe of a training."""
        start = os.fspath(self.folder(training.start, seed)) if training.start else None
        return self.preset.training(training, seed, start)

    def passes(self, tested: Tested, method: str) -> tuple[Pass, ...]:
        """The passes that a net's part of a row is the mean of."""
        scales = [self.preset.scale(pixels) for pixels in tested.scales]
        return passes(method, scales, self.flip, self.preset.grid)

    @property
    def flip(self) -> bool:
        """Whether the nets are trained with mirror images, and so tested with them."""
        return bool(self.preset.recipe.get("flip", True))

    def passes_of(self, training: str) -> tuple[Pass, ...]:
        """All passes of a trained net that the tables need, each once."""
        needed = {
            one: None
            for row in self.rows
            for tested in row.nets
            if tested.training == training
            for one in self.passes(tested, row.method)
        }
        return tuple(needed)

    def forget(self, training: str, seed: int) -> None:
        """Forget what the steps of a training have taken: it is done anew."""
        for step in list(self.steps.values()):
            if step.seed == seed and (
                step.name == f"train {training}" or step.name.startswith(f"test {training},")
            ):
                del self.steps[step.seed, step.name]

    def setup(self) -> testing.Setup:
        """What all passes share."""
        computing = Computing(self.options.precision, procedures.reading_workers(self.options.workers))
        return testing.Setup(self.data.tested, self.data.sizes, self.here, computing)


def prepare(
    data: str | Path,
    size: str | Preset,
    tables: Iterable[str],
    seeds: int | Sequence[int],
    out: str | Path,
    options: Options,
    here: Ranks,
    skip_unreadable: bool = False,
) -> Experiment:
    """Check what is asked for, and open the data; nothing is computed but a survey.

    Raises:
        UserError: as `reproduce` does.
    """
    chosen = size if isinstance(size, Preset) else preset(size)
    found = chosen_tables(tables, chosen.controls)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"seeds is {seeds}; give at least one, each once")
    experiment = Experiment(
        chosen,
        found,
        tuple(table.name for table in found),
        numbers,
        open_data(data, chosen, here, skip_unreadable),
        Path(out),
        options,
        here,
    )
    if (Path(out) / RESULTS).exists():
        there = read_results(Path(out))
        for what, ours, theirs in (
            ("preset", chosen.name, there.preset.get("name")),
            ("data", experiment.data.name, there.data),
        ):
            if ours != theirs:
                raise UserError(
                    f"{out} holds an experiment of {what} {theirs}, not {ours}; name another with --out"
                )
        if (Path(out) / TIMES).exists():
            experiment.steps = {(step.seed, step.name): step for step in read_times(Path(out)).steps}
    return experiment


def open_data(data: str | Path, chosen: Preset, here: Ranks, skip_unreadable: bool) -> Data:
    """The images of an experiment: some held out of those for training, where the preset says so."""
    largest = max(chosen.scales.values())
    held_out_of_train = largest if chosen.hold_out else None
    training, found = procedures.surveyed(data, "train", skip_unreadable, here, held_out_of_train)
    tested, sizes = procedures.surveyed(data, "val", skip_unreadable, here, largest)
    names = tuple(map(_name, range(len(tested)), tested.photographs))
    smallest = min(chosen.scales.values())
    if _may_be_kept(found, sizes, smallest):
        training, tested = (_in_memory(each) for each in (training, tested))
    described_as = training.name.removesuffix("/train")
    whole = training
    held = 0
    validation = tested
    if chosen.hold_out:
        training, validation = held_out(whole, chosen.hold_out)
        held = len(validation)
        _, found = procedures.surveyed(training, "train", False, here)
    place = procedures.place_of(data)
    described = procedures.description(place, training, validation, procedures.colours_of(found))
    return Data(described_as, training, validation, tested, names, held, sizes.sizes, described)


def _name(number: int, photograph: object) -> str:
    """What an image is called: its file and the folder that it is in, or its number."""
    return f"{photograph.parent.name}/{photograph.name}" if isinstance(photograph, Path) else str(number)


def _may_be_kept(training: Survey, tested: Survey, smallest: int) -> bool:
    """Whether photographs may be decoded once: they are small, and no file would be decoded at half its size."""
    sizes = np.concatenate((training.sizes, tested.sizes)).astype(np.int64)
    return 3 * int(sizes.prod(1).sum()) <= KEPT_BYTES and int(sizes.min(1).max()) < 4 * smallest


def _in_memory(dataset: Dataset) -> Dataset:
    return replace(dataset, photographs=tuple(example.image for example in dataset))
