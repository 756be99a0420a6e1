"""The definition of an experiment: preset, tables, seeds, images and folder."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verydeep.computing import Computing, Precision
from verydeep.datasets.dataset import Dataset, held_out
from verydeep.datasets.survey import Survey
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.protocols import Pass, passes
from verydeep.experiments.plan import (
    TABLES,
    Row,
    Table,
    Tested,
    Training,
    chosen_tables,
    measured_rows,
    needed_trainings,
)
from verydeep.experiments.presets import DRAWN_ANEW, Preset, preset
from verydeep.experiments.results import RESULTS, Results, read_results
from verydeep.files import exists
from verydeep.printable import printable
from verydeep.progress import say
from verydeep.recipe import Recipe
from verydeep.task import colours_of, description, place_of, surveyed
from verydeep.workers import reading_workers

KEPT_BYTES = 2**31
"""Largest size of all decoded photographs, in bytes, that is kept in memory, if that changes no pixel."""


@dataclass(frozen=True, eq=False)
class Data:
    """The images of an experiment."""

    name: str
    training: Dataset
    """Without the held-out images."""
    validation: Dataset
    """Decides when the rate drops: the held-out images, or the tested ones."""
    tested: Dataset
    names: tuple[str, ...]
    """Names of the tested images."""
    held_out: int
    sizes: np.ndarray
    """Width and height of the tested images."""
    described: dict[str, Any]
    """Identifies the training set in a run."""


@dataclass(frozen=True)
class Options:
    """How to compute; affects nothing but rounding."""

    device: str = "auto"
    precision: Precision = "fp32"
    workers: int | None = None
    micro_batch: int = 0
    deterministic: bool = False

    def computing(self, device: torch.device) -> Computing:
        """Return how nets are computed on a device."""
        workers = reading_workers(self.workers, device)
        return Computing(self.precision, workers, deterministic=self.deterministic)


@dataclass(frozen=True, eq=False)
class Experiment:
    """What to train and test, and on which images."""

    preset: Preset
    tables: tuple[Table, ...]
    """Tables to make now."""
    seeds: tuple[int, ...]
    shown_tables: tuple[Table, ...]
    """Tables to report: these, and those made earlier in the same folder."""
    shown_seeds: tuple[int, ...]
    data: Data
    out: Path
    options: Options
    here: Ranks

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The trainings needed for the tables, in order."""
        return needed_trainings(self.tables)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows to report, each once."""
        return measured_rows(self.shown_tables)

    def folder(self, training: str, seed: int) -> Path:
        """Return the run directory of a training."""
        return self.out / f"seed-{seed}" / training

    def recipe(self, training: Training, seed: int) -> Recipe:
        """Return the recipe of a training."""
        start = os.fspath(self.folder(training.start, seed)) if training.start else None
        return self.preset.training(training, seed, start)

    def passes(self, tested: Tested, method: str) -> tuple[Pass, ...]:
        """Return the testing passes whose mean is a net's part of a row."""
        scales = [self.preset.scale(pixels) for pixels in tested.scales]
        return passes(method, scales, self.flip, self.preset.grid)

    @property
    def flip(self) -> bool:
        """Whether nets are trained, and therefore tested, with mirror images."""
        return bool(self.preset.recipe.get("flip", True))

    def passes_of(self, training: str, tables: tuple[Table, ...] | None = None) -> tuple[Pass, ...]:
        """Return all passes of a net that some tables need, each once; by default the tables to make now."""
        needed = {
            one: None
            for row in measured_rows(self.tables if tables is None else tables)
            for tested in row.nets
            if tested.training == training
            for one in self.passes(tested, row.method)
        }
        return tuple(needed)

    @cached_property
    def setup(self) -> testing.Setup:
        """Settings shared by all passes."""
        computing = self.options.computing(self.here.device)
        return testing.Setup(self.data.tested, self.data.sizes, self.here, computing, say, say_found=False)


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
    """Check the arguments and open the data. Nothing is computed but a survey of the images.

    Raises:
        UserError: as for `reproduce`.
    """
    chosen = size if isinstance(size, Preset) else preset(size)
    asked = chosen_tables(tables, chosen.controls)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= number < DRAWN_ANEW for number in numbers):
        raise UserError(f"seeds is {seeds}; pass at least one, each once, from 0 to {DRAWN_ANEW - 1}")
    images = open_data(data, chosen, here, skip_unreadable)
    there = _there(Path(out), chosen, images)
    shown_tables, shown_seeds = asked, numbers
    if there is not None:
        names = {table.name for table in asked} | set(there.tables)
        shown_tables = tuple(table for table in TABLES.values() if table.name in names)
        shown_seeds = tuple(sorted({*numbers, *there.seeds}))
    return Experiment(chosen, asked, numbers, shown_tables, shown_seeds, images, Path(out), options, here)


def _there(out: Path, chosen: Preset, data: Data) -> Results | None:
    """Return the results already in a folder; None if there are none, or they cannot be read.

    Raises:
        UserError: if they are from another preset or other images.
    """
    if not exists(out / RESULTS):
        return None
    try:
        there = read_results(out)
    except UserError as error:
        say(f"{error}; it will be made again")
        return None
    tested = f"{there.tested_images} tested images of {len(there.classes)} classes"
    ours = f"{len(data.tested)} of {len(data.tested.classes)}"
    if there.preset.get("name") != chosen.name:
        raise UserError(
            f"{out} contains an experiment with preset {there.preset.get('name')}, not {chosen.name}; choose "
            "another folder with --out"
        )
    if there.classes != data.tested.classes or there.tested_images != len(data.tested):
        raise UserError(
            f"{out} contains an experiment on {there.data}, {tested}; {data.name} has {ours}; choose another "
            "folder with --out"
        )
    return there


def open_data(data: str | Path, chosen: Preset, here: Ranks, skip_unreadable: bool) -> Data:
    """Open the images of an experiment, and hold out the share of the training images that the preset sets."""
    largest = max(chosen.scales.values())
    held_out_of_train = largest if chosen.hold_out else None
    training, found = surveyed(data, "train", skip_unreadable, here, held_out_of_train)
    tested, sizes = surveyed(data, "val", skip_unreadable, here, largest)
    names = tuple(map(_name, range(len(tested)), tested.photographs))
    smallest = min(chosen.scales.values())
    if _may_be_kept(found, sizes, smallest):
        training, tested = (_in_memory(each) for each in (training, tested))
    name, validation, held = training.name.removesuffix("/train"), tested, 0
    if chosen.hold_out:
        training, validation = held_out(training, chosen.hold_out)
        held = len(validation)
        _, found = surveyed(training, "train", False, here)
    place, colours = place_of(data), colours_of(found)
    described = description(place, training, validation, colours)
    return Data(name, training, validation, tested, names, held, sizes.sizes, described)


def _name(number: int, photograph: object) -> str:
    """Return the name of an image as one line: its folder and file, or its number."""
    if not isinstance(photograph, Path):
        return str(number)
    return printable(f"{photograph.parent.name}/{photograph.name}")


def _may_be_kept(training: Survey, tested: Survey, smallest: int) -> bool:
    """Return whether to decode photographs once: they fit, and none would be decoded at a reduced size."""
    sizes = np.concatenate((training.sizes, tested.sizes)).astype(np.int64)
    return 3 * int(sizes.prod(1).sum()) <= KEPT_BYTES and int(sizes.min(1).max()) < 4 * smallest


def _in_memory(dataset: Dataset) -> Dataset:
    return replace(dataset, photographs=tuple(example.image for example in dataset))
