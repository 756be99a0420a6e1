"""Sect. 4 as one function: train what the asked tables need, test it as the paper does, keep what it gave."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from verydeep import procedures
from verydeep.computing import Computing, Precision
from verydeep.datasets import Dataset, held_out
from verydeep.distributed import Ranks, ranks
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.posteriors import PROTOCOLS, Pass, average, passes, protocol
from verydeep.experiments.cost import (
    pass_images,
    pass_multiply_adds,
    training_images,
    training_multiply_adds,
)
from verydeep.experiments.plan import (
    PAPER_TABLES,
    Row,
    Table,
    Tested,
    Training,
    chosen_tables,
    measured_rows,
    needed_trainings,
)
from verydeep.experiments.presets import Preset, preset
from verydeep.experiments.report import make_report
from verydeep.experiments.results import (
    OUTCOMES,
    RESULTS,
    TIMES,
    Curve,
    Measured,
    Outcomes,
    Results,
    RowResult,
    Step,
    Times,
    read_results,
    read_times,
    write_json,
    write_outcomes,
)
from verydeep.progress import say
from verydeep.recipe import Recipe
from verydeep.survey import Survey
from verydeep.training.run import ENVIRONMENT, Run, changes, read_run

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

    def setup(self) -> testing.Setup:
        """What all passes share."""
        computing = Computing(self.options.precision, procedures.reading_workers(self.options.workers))
        return testing.Setup(self.data.tested, self.data.sizes, self.here, computing)


def reproduce(
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
) -> Results:
    """Run the paper's experiments (Sect. 4), or go on with them: what is done already is not done again.

    Args:
        data: a folder of photographs or "digits"; see `open_dataset`.
        size: a preset, or the name of one: ilsvrc, imagenette or digits.
        tables: table3 to table7; all where none is named.
        seeds: how many, from 0 on, or which.
        out: the folder of the experiment: run directories below seed-0, seed-1, ..., what was measured, and its
            report as report.html and report.md.
        device: cpu, cuda, mps, or auto for the fastest that is there.
        precision: bf16 computes with bfloat16 where torch's autocast does.
        workers: processes that read images ahead, for each rank; by the number of cores where None.
        micro_batch: images that pass through the net at once on each rank; 0 for its whole share of the batch.
        skip_unreadable: go on without images that cannot be read; each is named.

    Returns:
        What was measured. It is in `out` too, and there it is written anew after each step.

    Raises:
        UserError: for wrong arguments, unreadable images, and a folder that holds an experiment of another preset
            or other data.
        Interrupted: after SIGTERM or Ctrl-C, when everything is saved; the same call goes on from there.
    """
    options = Options(device, precision, workers, micro_batch)
    with ranks(device) as here:
        experiment = prepare(data, size, tables, seeds, out, options, here, skip_unreadable)
        total = len(experiment.seeds) * len(experiment.trainings)
        for number, (seed, training) in enumerate(
            (seed, training) for seed in experiment.seeds for training in experiment.trainings
        ):
            title = f"[{number + 1}/{total}] {training.name}, seed {seed}"
            run = train_step(experiment, training, seed, title)
            test_step(experiment, training, seed, run, title)
            measure_rows(experiment, seed)
            if here.first:
                write(experiment)
            here.wait()
        if here.first:
            make_report(experiment.out, photographs=experiment.data.tested)
        here.wait()
        return results_of(experiment)


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
    training, found = procedures.surveyed(data, "train", skip_unreadable, here)
    tested, sizes = procedures.surveyed(data, "val", skip_unreadable, here)
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


def train_step(experiment: Experiment, training: Training, seed: int, title: str) -> Run:
    """Train a net of the plan, or find it trained.

    A run whose recipe, start or data have changed since is moved aside, and the net is trained anew.
    """
    here, data, options = experiment.here, experiment.data, experiment.options
    folder, recipe = experiment.folder(training.name, seed), experiment.recipe(training, seed)
    if here.first and (changed := changes(folder, recipe, data.described)):
        aside = _free_name(folder)
        folder.rename(aside)
        say(f"{title}: trained again, since it changed: {'; '.join(changed)}. The run before is now {aside}")
    here.wait()
    run = read_run(folder) if (folder / "recipe.toml").exists() else None
    if run is None or not run.ended or not (folder / "weights.safetensors").exists():
        if here.first:
            start = f" from {training.start}" if training.start else " from random weights"
            say(f"{title}: training net {training.net}{start}, S = {', '.join(map(str, recipe.training_scale))}")
        run = procedures.train(
            data.training,
            recipe,
            folder,
            validation=data.validation,
            device=options.device,
            precision=options.precision,
            workers=options.workers,
            micro_batch=options.micro_batch,
        )
    classes, images = len(data.training.classes), len(data.training)
    _note(
        experiment,
        Step(
            f"train {training.name}",
            seed,
            round(sum(epoch.seconds for epoch in run.epochs), 1),
            training_images(recipe, images),
            training_multiply_adds(recipe, classes, images),
        ),
    )
    experiment.curves[seed, training.name] = _curve(training, seed, run)
    experiment.environments += _environments(folder)
    return run


def _free_name(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    return aside


def _curve(training: Training, seed: int, run: Run) -> Curve:
    epochs = run.epochs
    return Curve(
        training.name,
        seed,
        training.net,
        training.start,
        run.recipe.training_scale,
        training.control,
        len(epochs),
        epochs[-1].iteration,
        run.ended,
        tuple(round(epoch.loss, 5) for epoch in epochs),
        tuple(round(epoch.training_error, 5) for epoch in epochs),
        tuple(round(epoch.validation_error, 5) for epoch in epochs),
        epochs[-1].validation_protocol,
        tuple(epoch.rate for epoch in epochs),
    )


ENVIRONMENT_FIELDS = (
    "versions",
    "python",
    "system",
    "processor",
    "cpu",
    "gpu",
    "device",
    "ranks",
    "threads",
    "engine",
)


def _environments(folder: Path) -> list[dict[str, Any]]:
    """What a run was computed with, at each of its starts."""
    try:
        starts = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        return [{name: start.get(name) for name in ENVIRONMENT_FIELDS} for start in starts]
    except (OSError, ValueError, AttributeError):  # it is for people: no reason to stop
        return []


def test_step(experiment: Experiment, training: Training, seed: int, run: Run, title: str) -> None:
    """Make all passes of a trained net that the tables need and that are not stored."""
    setup, tested = experiment.setup(), testing.tested(run.path)
    planned = experiment.passes_of(training.name)
    sizes = [(int(width), int(height)) for width, height in experiment.data.sizes]
    if planned and experiment.here.first:
        say(f"{title}: testing, {len(planned)} passes")
    architecture = tested.card.architecture
    matrices = testing.kept_passes(setup, tested, planned)
    for one in planned:
        started = time.monotonic()
        next(matrices)
        name = f"test {training.name}, {one.method}, Q = {one.scale}"
        known = experiment.steps.get((seed, name))
        _note(
            experiment,
            known
            or Step(
                name,
                seed,
                round(time.monotonic() - started, 1),
                pass_images(one, sizes, architecture.crop),
                pass_multiply_adds(architecture, one, sizes),
            ),
        )


def _note(experiment: Experiment, step: Step) -> None:
    experiment.steps[step.seed, step.name] = step


def measure_rows(experiment: Experiment, seed: int) -> None:
    """Add up the rows whose nets are all tested, from stored passes alone."""
    for row in experiment.rows:
        done = all((seed, tested.training) in experiment.curves for tested in row.nets)
        if not done or (row.key, seed) in experiment.outcomes.rank:
            continue
        matrix = average(_net_matrices(experiment, row, seed))
        rank, said, loss = outcome(matrix, experiment.data.tested.labels)
        experiment.outcomes.rank[row.key, seed] = rank
        experiment.outcomes.said[row.key, seed] = said
        experiment.outcomes.loss[row.key, seed] = loss


def _net_matrices(experiment: Experiment, row: Row, seed: int) -> Iterator[Float32[np.ndarray, "N K"]]:
    """The posteriors of each net of a row, averaged over its scales and methods."""
    setup = experiment.setup()
    for tested in row.nets:
        net = testing.tested(experiment.folder(tested.training, seed))
        yield average(testing.kept_passes(setup, net, experiment.passes(tested, row.method)))


def outcome(
    posteriors: Float32[np.ndarray, "N K"], labels: Int64[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What posteriors say of each image.

    Returns:
        The place of its class among the posteriors (of equal ones the first is higher), the class of the highest
        one, and -ln(posterior of its class).
    """
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)
    before = np.arange(posteriors.shape[1]) < labels[:, None]
    rank = ((posteriors > own) | ((posteriors == own) & before)).sum(1)
    loss = -np.log(np.maximum(own[:, 0], np.finfo(np.float32).tiny))
    return rank.astype(np.uint16), posteriors.argmax(1).astype(np.uint16), loss.astype(np.float16)


def results_of(experiment: Experiment) -> Results:
    """What is measured so far."""
    data = experiment.data
    return Results(
        preset=preset_data(experiment.preset),
        data=data.name,
        classes=data.tested.classes,
        training_images=len(data.training),
        held_out_images=data.held_out,
        tested_images=len(data.tested),
        tables=experiment.asked,
        seeds=experiment.seeds,
        curves=tuple(
            experiment.curves[seed, training.name]
            for seed in experiment.seeds
            for training in experiment.trainings
            if (seed, training.name) in experiment.curves
        ),
        rows=tuple(
            RowResult(row.key, _protocol(experiment, row), measured)
            for row in experiment.rows
            if (measured := tuple(_measured(experiment, row)))
        ),
    )


def preset_data(chosen: Preset) -> dict[str, Any]:
    """A preset as JSON has it."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(chosen)))
    return data


def _protocol(experiment: Experiment, row: Row) -> str:
    """How a row is measured, in pixels."""
    each = (
        protocol(row.method, [experiment.preset.scale(q) for q in tested.scales], experiment.flip)
        for tested in row.nets
    )
    text = "; ".join(dict.fromkeys(each))
    grid = experiment.preset.grid
    return f"{text}, {grid} x {grid} crops" if "multi-crop" in PROTOCOLS[row.method] else text


def _measured(experiment: Experiment, row: Row) -> Iterator[Measured]:
    outcomes = experiment.outcomes
    for seed in experiment.seeds:
        if (row.key, seed) in outcomes.rank:
            rank, loss = outcomes.rank[row.key, seed], outcomes.loss[row.key, seed]
            yield Measured(
                seed, int((rank > 0).sum()), int((rank >= 5).sum()), round(float(loss.mean(dtype=np.float64)), 5)
            )


def write(experiment: Experiment) -> None:
    """Write results.json, times.json and outcomes.safetensors."""
    out = experiment.out
    write_outcomes(experiment.outcomes, out / OUTCOMES)
    distinct = {json.dumps(each, sort_keys=True): each for each in experiment.environments}
    asked = " ".join(table for table in experiment.asked if table in PAPER_TABLES)
    command = (
        f"verydeep reproduce {asked} --data {experiment.data.name} --preset {experiment.preset.name} "
        f"--seeds {len(experiment.seeds)}"
    )
    times = Times(tuple(experiment.steps.values()), tuple(distinct.values()), command)
    write_json(times, out / TIMES)
    write_json(results_of(experiment), out / RESULTS)
