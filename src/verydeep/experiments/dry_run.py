"""The plan of `reproduce` with the cost of each step: images, multiply-adds, time. Nothing is trained."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from verydeep import weights
from verydeep.computing import Precision
from verydeep.distributed import ranks
from verydeep.evaluation import testing
from verydeep.evaluation.protocols import Pass, middle
from verydeep.experiments.cost import pass_images, pass_multiply_adds
from verydeep.experiments.experiment import Experiment, Options, prepare
from verydeep.experiments.gpus import GpuEstimate, gpu_estimates
from verydeep.experiments.plan import Training
from verydeep.experiments.presets import Preset
from verydeep.experiments.rates import NetRate, crop_reading, net_rate, pass_reading
from verydeep.recipe import Recipe
from verydeep.training.checkpoint import CHECKPOINT
from verydeep.training.cost import training_images, training_multiply_adds
from verydeep.training.run import RECIPE, changes, read_run

State = Literal["done", "unfinished", "to do", "again"]
"""State of a training: ended; begun; not begun; or to be repeated because something has changed."""

FULL_SIZE = (224, 1.0)
"""Crop and width of the nets with which GPUs were measured."""


@dataclass(frozen=True)
class Work:
    """An amount of computing, and an estimate of its time on this machine."""

    images: int = 0
    """Images passed through the net. Crops and mirror images each count; in training, those of all epochs."""
    multiply_adds: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.images + other.images, self.multiply_adds + other.multiply_adds, self.seconds + other.seconds
        )

    def part(self, share: float) -> "Work":
        """Return a share of this work, in [0, 1]."""
        return Work(round(self.images * share), self.multiply_adds * share, self.seconds * share)


@dataclass(frozen=True)
class PlannedStep:
    """One training of the plan, and the tests of its net."""

    seed: int
    name: str
    net: str
    """Configuration of Table 1."""
    start: str | None
    """Name of the training it starts from; None for random weights."""
    training_scale: tuple[int, ...]
    """S in pixels: one number, or S_min and S_max."""
    tests: Mapping[str, tuple[int, ...]]
    """Q in pixels by method: dense, multi-crop, centre-crop, windows."""
    state: State
    reasons: tuple[str, ...]
    """Reasons to train again, one per line; empty in every other state."""
    training: Work
    """The whole training, up to its limit of epochs."""
    testing: Work
    """All passes."""
    left: Work
    """The remaining part of both."""


@dataclass(frozen=True)
class DryRun:
    """The plan of an experiment, and the part that remains to be done."""

    preset: str
    data: str
    training_images: int
    tested_images: int
    device: str
    """Device on which the rates were measured: cpu, cuda:0, ..."""
    steps: tuple[PlannedStep, ...]
    """In order of execution."""
    total: Work
    """All steps, including finished ones."""
    left: Work
    rates: tuple[NetRate, ...]
    """Measured on this machine, one per net of the plan."""
    gpus: tuple[GpuEstimate, ...]
    """The remaining work on GPUs, from published measurements; empty unless nets have full size."""


def dry_run(
    data: str | Path,
    size: str | Preset,
    tables: Iterable[str] = (),
    seeds: int | Sequence[int] = 1,
    out: str | Path = "reproduction",
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    micro_batch: int = 0,
    deterministic: bool = False,
    skip_unreadable: bool = False,
) -> DryRun:
    """Return the plan of `reproduce` with the same arguments, and estimate its time on this machine.

    Each net is timed on synthetic images, and reading on some photographs of the data set. This takes seconds for
    a miniature and half a minute for nets at full size on a CPU. The estimate assumes that every training runs to
    its limit of epochs; patience may end it sooner. Nothing is trained. The only file written is the survey of the
    data set, in the user's cache.

    Returns:
        Every step, finished or not, and totals.

    Raises:
        UserError: as for `reproduce`.
    """
    options = Options(device, precision, workers, micro_batch, deterministic)
    with ranks(device, deterministic) as here, options.computing(here.device).settings(here.device):
        experiment = prepare(data, size, tables, seeds, out, options, here, skip_unreadable)
        stands = [stand for seed in experiment.seeds for stand in _stands(experiment, seed)]
        machine = _Machine(experiment)
        steps = tuple(_planned(experiment, machine, stand) for stand in stands)
        total = sum((step.training + step.testing for step in steps), Work())
        left = sum((step.left for step in steps), Work())
        sizes = experiment.preset.training(experiment.trainings[0], 0, None)
        return DryRun(
            experiment.preset.name,
            experiment.data.name,
            len(experiment.data.training),
            len(experiment.data.tested),
            str(here.device),
            steps,
            total,
            left,
            tuple(machine.rates.values()),
            gpu_estimates(left.multiply_adds) if (sizes.crop, sizes.width) == FULL_SIZE else (),
        )


@dataclass(frozen=True)
class _Stand:
    """The progress of a training of the plan."""

    seed: int
    training: Training
    state: State
    reasons: tuple[str, ...]
    training_left: float
    """Share of its epochs, in [0, 1]."""
    passes_left: tuple[Pass, ...]


def _stands(experiment: Experiment, seed: int) -> list[_Stand]:
    """Return the progress of each training of a seed, in order."""
    found: dict[str, _Stand] = {}
    setup = experiment.setup
    for training in experiment.trainings:
        start = found[training.start] if training.start else None
        state, reasons, share = _state(experiment, training, seed, start)
        passes = experiment.passes_of(training.name)
        if state == "done":
            tested = testing.tested(experiment.folder(training.name, seed))
            passes = testing.missing_passes(setup, tested, passes)
        found[training.name] = _Stand(seed, training, state, reasons, share, passes)
    return list(found.values())


def _state(
    experiment: Experiment, training: Training, seed: int, start: _Stand | None
) -> tuple[State, tuple[str, ...], float]:
    """Return the state of a training, reasons to train it again, and the share of its epochs left, in [0, 1]."""
    folder, recipe = experiment.folder(training.name, seed), experiment.recipe(training, seed)
    begun = (folder / CHECKPOINT).exists() or (folder / weights.FILE_NAME).exists()
    if not begun or not (folder / RECIPE).exists():
        return "to do", (), 1.0
    if start is not None and start.state != "done":  # its weights will change, or cannot be compared yet
        return "again", (f"it starts from {start.training.name}, which is trained first",), 1.0
    if reasons := changes(folder, recipe, experiment.data.described):
        return "again", tuple(reasons), 1.0
    run = read_run(folder)
    if run.ended:
        return ("done" if (folder / weights.FILE_NAME).exists() else "unfinished"), (), 0.0
    return "unfinished", (), 1 - len(run.epochs) / recipe.epochs


class _Machine:
    """The speed of this machine; each rate is measured when first needed."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.classes = len(experiment.data.tested.classes)
        self.computing = experiment.setup.computing
        self.sizes = [(int(width), int(height)) for width, height in experiment.data.sizes]
        self.rates: dict[str, NetRate] = {}
        self._training_reads: dict[tuple[int, ...], float] = {}
        self._tests: dict[tuple[str, Pass], Work] = {}
        self._testing_read = cache(pass_reading)

    def rate(self, net: str) -> NetRate:
        """Return the speed of a net."""
        if net not in self.rates:
            experiment = self.experiment
            training = next(training for training in experiment.trainings if training.net == net)
            recipe = experiment.preset.training(training, 0, training.start)
            self.rates[net] = net_rate(
                recipe, self.classes, self.computing, experiment.here.device, experiment.options.micro_batch
            )
        return self.rates[net]

    def training(self, recipe: Recipe) -> Work:
        """Estimate a training up to its limit of epochs; the time includes validation after each epoch."""
        data, rate = self.experiment.data, self.rate(recipe.net)
        images = len(data.training)
        passed = training_images(recipe, images)
        multiply_adds = training_multiply_adds(recipe, self.classes, images)
        epochs = math.ceil(passed / images)
        iterations = min(recipe.iterations, epochs * math.ceil(images / recipe.batch))
        computing = multiply_adds / rate.training + iterations * rate.update
        seconds = self._seconds(computing, passed * self._training_read(recipe))
        centre_crop = Pass("centre-crop", middle(*recipe.scales), flip=False)
        validated = epochs * len(data.validation)
        computing = validated * recipe.architecture(self.classes).multiply_adds() / rate.testing
        reading = validated * self._testing_read(data.validation, centre_crop, recipe.crop, recipe.rescaling)
        return Work(passed, multiply_adds, seconds + self._seconds(computing, reading))

    def test(self, recipe: Recipe, one: Pass) -> Work:
        """Estimate a testing pass; it is the same for all trainings of a net."""
        if (recipe.net, one) not in self._tests:
            tested, architecture = self.experiment.data.tested, recipe.architecture(self.classes)
            multiply_adds = pass_multiply_adds(architecture, one, self.sizes)
            reading = len(tested) * self._testing_read(tested, one, recipe.crop, recipe.rescaling)
            self._tests[recipe.net, one] = Work(
                pass_images(one, self.sizes, recipe.crop),
                multiply_adds,
                self._seconds(multiply_adds / self.rate(recipe.net).testing, reading),
            )
        return self._tests[recipe.net, one]

    def _training_read(self, recipe: Recipe) -> float:
        if recipe.training_scale not in self._training_reads:
            self._training_reads[recipe.training_scale] = crop_reading(self.experiment.data.training, recipe)
        return self._training_reads[recipe.training_scale]

    def _seconds(self, computing: float, reading: float) -> float:
        """Combine computing and reading, which overlap if there are workers and alternate if not."""
        workers = self.computing.workers
        both = max(computing, reading / workers) if workers else computing + reading
        return both / self.experiment.here.world


def _planned(experiment: Experiment, machine: _Machine, stand: _Stand) -> PlannedStep:
    training = stand.training
    recipe = experiment.recipe(training, stand.seed)
    trained = machine.training(recipe)
    tests = {one: machine.test(recipe, one) for one in experiment.passes_of(training.name)}
    scales: dict[str, tuple[int, ...]] = {}
    for one in tests:
        scales[one.method] = tuple(sorted((*scales.get(one.method, ()), one.scale)))
    return PlannedStep(
        stand.seed,
        training.name,
        training.net,
        training.start,
        recipe.training_scale,
        scales,
        stand.state,
        stand.reasons,
        trained,
        sum(tests.values(), Work()),
        trained.part(stand.training_left) + sum((tests[one] for one in stand.passes_left), Work()),
    )
