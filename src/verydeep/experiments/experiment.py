"""An experiment as it is asked for: the preset, the tables and seeds, the images, the folder."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from verydeep import procedures
from verydeep.computing import Computing, Precision
from verydeep.datasets.dataset import Dataset, held_out
from verydeep.datasets.survey import Survey
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.posteriors import Pass, passes
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


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is asked for, and on what."""

    preset: Preset
    tables: tuple[Table, ...]
    """Those to make now."""
    seeds: tuple[int, ...]
    shown_tables: tuple[Table, ...]
    """Those to report: these, and those that were made before in the same folder."""
    shown_seeds: tuple[int, ...]
    data: Data
    out: Path
    options: Options
    here: Ranks

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The trainings that the tables need, in order."""
        return needed_trainings(self.tables)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows to report, each once."""
        return measured_rows(self.shown_tables)

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

    def passes_of(self, training: str, tables: tuple[Table, ...] | None = None) -> tuple[Pass, ...]:
        """All passes of a trained net that some tables need, each once; those to make now where none are given."""
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
        """What all passes share."""
        computing = Computing(self.options.precision, procedures.reading_workers(self.options.workers))
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
    """Check what is asked for, and open the data; nothing is computed but a survey.

    Raises:
        UserError: as `reproduce` does.
    """
    chosen = size if isinstance(size, Preset) else preset(size)
    asked = chosen_tables(tables, chosen.controls)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= number < DRAWN_ANEW for number in numbers):
        raise UserError(f"seeds is {seeds}; give at least one, each once, from 0 to {DRAWN_ANEW - 1}")
    images = open_data(data, chosen, here, skip_unreadable)
    there = _there(Path(out), chosen, images)
    shown_tables, shown_seeds = asked, numbers
    if there is not None:
        names = {table.name for table in asked} | set(there.tables)
        shown_tables = tuple(table for table in TABLES.values() if table.name in names)
        shown_seeds = tuple(sorted({*numbers, *there.seeds}))
    return Experiment(chosen, asked, numbers, shown_tables, shown_seeds, images, Path(out), options, here)


def _there(out: Path, chosen: Preset, data: Data) -> Results | None:
    """The results that a folder holds already; None where there are none, or none that can be read.

    Raises:
        UserError: where they are of another preset or of other images.
    """
    if not exists(out / RESULTS):
        return None
    try:
        there = read_results(out)
    except UserError as error:
        say(f"{error}; it is made anew")
        return None
    tested = f"{there.tested_images} tested images of {len(there.classes)} classes"
    ours = f"{len(data.tested)} of {len(data.tested.classes)}"
    if there.preset.get("name") != chosen.name:
        raise UserError(
            f"{out} holds an experiment of the preset {there.preset.get('name')}, not of {chosen.name}; name "
            "another folder with --out"
        )
    if there.classes != data.tested.classes or there.tested_images != len(data.tested):
        raise UserError(
            f"{out} holds an experiment on {there.data}, {tested}; {data.name} has {ours}; name another folder "
            "with --out"
        )
    return there


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
    name, validation, held = training.name.removesuffix("/train"), tested, 0
    if chosen.hold_out:
        training, validation = held_out(training, chosen.hold_out)
        held = len(validation)
        _, found = procedures.surveyed(training, "train", False, here)
    place, colours = procedures.place_of(data), procedures.colours_of(found)
    described = procedures.description(place, training, validation, colours)
    return Data(name, training, validation, tested, names, held, sizes.sizes, described)


def _name(number: int, photograph: object) -> str:
    """What an image is called, as a line: its file and the folder that it is in, or its number."""
    if not isinstance(photograph, Path):
        return str(number)
    return printable(f"{photograph.parent.name}/{photograph.name}")


def _may_be_kept(training: Survey, tested: Survey, smallest: int) -> bool:
    """Whether photographs may be decoded once: they are small, and no file would be decoded at half its size."""
    sizes = np.concatenate((training.sizes, tested.sizes)).astype(np.int64)
    return 3 * int(sizes.prod(1).sum()) <= KEPT_BYTES and int(sizes.min(1).max()) < 4 * smallest


def _in_memory(dataset: Dataset) -> Dataset:
    return replace(dataset, photographs=tuple(example.image for example in dataset))
