"""What `reproduce` would do: each step with its images, multiply-adds and time here; nothing is trained."""

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
from verydeep.evaluation.posteriors import Pass, middle
from verydeep.experiments.cost import pass_images, pass_multiply_adds, training_images, training_multiply_adds
from verydeep.experiments.experiment import Experiment, Options, prepare
from verydeep.experiments.gpus import GpuEstimate, gpu_estimates
from verydeep.experiments.plan import Training
from verydeep.experiments.presets import Preset
from verydeep.experiments.rates import NetRate, crop_reading, net_rate, pass_reading
from verydeep.recipe import Recipe
from verydeep.training.checkpoint import CHECKPOINT
from verydeep.training.run import RECIPE, changes, read_run

State = Literal["done", "unfinished", "to do", "again"]
"""Of a training: it has ended; it has begun; it has not; or it has begun, and something has changed since."""

FULL_SIZE = (224, 1.0)
"""Crop and width of the nets that GPUs were measured with."""


@dataclass(frozen=True)
class Work:
    """What is computed, and about how long this machine takes."""

    images: int = 0
    """That pass through the net: crops and mirror images each count, in training those of all epochs."""
    multiply_adds: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.images + other.images, self.multiply_adds + other.multiply_adds, self.seconds + other.seconds
        )

    def part(self, share: float) -> "Work":
        """A share of it."""
        return Work(round(self.images * share), self.multiply_adds * share, self.seconds * share)


@dataclass(frozen=True)
class PlannedStep:
    """One training of the plan and the tests of its net."""

    seed: int
    name: str
    net: str
    """Configuration of Table 1."""
    start: str | None
    """Name of the training that it starts from; None for random weights."""
    training_scale: tuple[int, ...]
    """S in pixels: one number, or Smin and Smax."""
    tests: Mapping[str, tuple[int, ...]]
    """Q in pixels by method: dense, multi-crop, centre-crop, windows."""
    state: State
    reasons: tuple[str, ...]
    """Why it is trained again, a line each; empty in every other state."""
    training: Work
    """All of it, to its limit of epochs."""
    testing: Work
    """All of it."""
    left: Work
    """What of both is not done yet."""


@dataclass(frozen=True)
class DryRun:
    """The plan of an experiment, and what is left of it."""

    preset: str
    data: str
    training_images: int
    tested_images: int
    device: str
    """What the rates were measured on: cpu, cuda:0, ..."""
    steps: tuple[PlannedStep, ...]
    """In the order in which they are done."""
    total: Work
    """All steps, those that are done, too."""
    left: Work
    rates: tuple[NetRate, ...]
    """Measured here, one for each net of the plan."""
    gpus: tuple[GpuEstimate, ...]
    """What is left, on GPUs by published measurements; only of nets at full size."""


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
    skip_unreadable: bool = False,
) -> DryRun:
    """Say what `reproduce` would do with the same arguments, and about how long it would take here.

    Each net is timed on made-up images, and reading on some of the data set's own photographs: seconds for a
    miniature, half a minute for nets at full size on a CPU. The estimate takes every training to its limit of
    epochs; patience may end it sooner. Nothing is trained, and nothing is written but the survey of the data set,
    in the user's cache.

    Returns:
        Every step, done or not, and totals.

    Raises:
        UserError: as `reproduce` does.
    """
    options = Options(device, precision, workers, micro_batch)
    with ranks(device) as here:
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
    """How far a training of the plan has come."""

    seed: int
    training: Training
    state: State
    reasons: tuple[str, ...]
    training_left: float
    """Share of its epochs."""
    passes_left: tuple[Pass, ...]


def _stands(experiment: Experiment, seed: int) -> list[_Stand]:
    """How far each training of a seed has come, in order."""
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
    """The state of a training, why it is trained again, and the share of its epochs that is left."""
    folder, recipe = experiment.folder(training.name, seed), experiment.recipe(training, seed)
    begun = (folder / CHECKPOINT).exists() or (folder / weights.FILE_NAME).exists()
    if not begun or not (folder / RECIPE).exists():
        return "to do", (), 1.0
    if start is not None and start.state != "done":  # its weights will be others, or cannot be compared yet
        return "again", (f"what it starts from, {start.training.name}, is trained first",), 1.0
    if reasons := changes(folder, recipe, experiment.data.described):
        return "again", tuple(reasons), 1.0
    run = read_run(folder)
    if run.ended:
        return ("done" if (folder / weights.FILE_NAME).exists() else "unfinished"), (), 0.0
    return "unfinished", (), 1 - len(run.epochs) / recipe.epochs


class _Machine:
    """What things take here; each rate is measured when it is first asked for."""

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
        """How fast a net is computed."""
        if net not in self.rates:
            experiment = self.experiment
            training = next(training for training in experiment.trainings if training.net == net)
            recipe = experiment.preset.training(training, 0, training.start)
            self.rates[net] = net_rate(
                recipe, self.classes, self.computing, experiment.here.device, experiment.options.micro_batch
            )
        return self.rates[net]

    def training(self, recipe: Recipe) -> Work:
        """A training to its limit of epochs; its time has the validation after each epoch in it."""
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
        """A testing pass; it is the same for all trainings of a net."""
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
        """Reading processes work while the net is computed; without them one waits for the other."""
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
