"""The steps of an experiment: train a net of the plan, then run its testing passes."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from verydeep import procedures, weights
from verydeep.configurations import Architecture
from verydeep.evaluation import testing
from verydeep.evaluation.protocols import Pass
from verydeep.experiments.cost import pass_images, pass_multiply_adds
from verydeep.experiments.experiment import Experiment
from verydeep.experiments.plan import Table, Training, needed_trainings
from verydeep.experiments.results import Step
from verydeep.progress import say
from verydeep.training.cost import training_images, training_multiply_adds
from verydeep.training.run import RECIPE, Run, changes, move_aside, read_run


def planned_steps(
    experiment: Experiment, tables: tuple[Table, ...], seeds: tuple[int, ...]
) -> dict[tuple[int, str], Step]:
    """Return the steps needed for some tables and seeds, by seed and name, in order, with no time spent yet."""
    data, sizes = experiment.data, [(int(width), int(height)) for width, height in experiment.data.sizes]
    classes, images = len(data.training.classes), len(data.training)
    passed: dict[tuple[Architecture, Pass], tuple[int, float]] = {}
    steps = []
    for seed in seeds:
        for training in needed_trainings(tables):
            recipe = experiment.recipe(training, seed)
            cost = training_images(recipe, images), training_multiply_adds(recipe, classes, images)
            steps.append(Step(train_name(training), seed, 0.0, *cost))
            net = recipe.architecture(classes)
            for one in experiment.passes_of(training.name, tables):
                if (net, one) not in passed:
                    passed[net, one] = pass_images(one, sizes, net.crop), pass_multiply_adds(net, one, sizes)
                steps.append(Step(test_name(training, one), seed, 0.0, *passed[net, one]))
    return {(step.seed, step.name): step for step in steps}


def train_name(training: Training) -> str:
    """Return the name of the step that trains a net."""
    return f"train {training.name}"


def test_name(training: Training, one: Pass) -> str:
    """Return the name of the step that runs a testing pass."""
    return f"test {training.name}, {one.method}, Q = {one.scale}"


def time_left(planned: Mapping[tuple[int, str], Step], seconds: Mapping[tuple[int, str], float]) -> float | None:
    """Estimate the seconds left, at the speed of the finished steps; None before any is finished.

    Args:
        planned: the steps by seed and name.
        seconds: time of each finished step; 0 if unknown.
    """
    timed = [(step.multiply_adds, seconds[key]) for key, step in planned.items() if seconds.get(key)]
    left = sum(step.multiply_adds for key, step in planned.items() if key not in seconds)
    return left * sum(took for _, took in timed) / sum(cost for cost, _ in timed) if timed else None


def train_step(experiment: Experiment, training: Training, seed: int, title: str) -> bool:
    """Train a net of the plan unless it is trained already, and return whether it was trained now.

    If the recipe, start or data have changed since, the earlier run is moved aside and the net is trained again.
    """
    here, data, options = experiment.here, experiment.data, experiment.options
    folder, recipe = experiment.folder(training.name, seed), experiment.recipe(training, seed)
    if here.first and (changed := changes(folder, recipe, data.described)):
        aside = move_aside(folder)
        say(f"{title}: training again because of changes: {'; '.join(changed)}. The earlier run is now {aside}")
    here.wait()
    if ended_run(folder) is not None:
        return False
    if here.first:
        start = f" from {training.start}" if training.start else " from random weights"
        say(f"{title}: training net {training.net}{start}, S = {' to '.join(map(str, recipe.training_scale))}")
    procedures.train(
        data.training,
        recipe,
        folder,
        validation=data.validation,
        device=options.device,
        precision=options.precision,
        workers=options.workers,
        micro_batch=options.micro_batch,
        deterministic=options.deterministic,
    )
    return True


def ended_run(folder: Path) -> Run | None:
    """Return the run in a directory if it has ended, else None."""
    if not (folder / RECIPE).exists() or not (folder / weights.FILE_NAME).exists():
        return None
    run = read_run(folder)
    return run if run.ended and run.epochs else None


def test_step(experiment: Experiment, training: Training, seed: int, title: str) -> None:
    """Run all passes of a trained net that the tables need and that are not stored yet."""
    folder = experiment.folder(training.name, seed)
    tested = testing.tested(folder)
    missing = testing.missing_passes(experiment.setup, tested, experiment.passes_of(training.name))
    if missing and experiment.here.first:
        say(f"{title}: testing, {len(missing)} passes")
    matrices = testing.kept_passes(experiment.setup, tested, missing)
    for one in missing:
        started = time.monotonic()
        next(matrices)
        if experiment.here.first:
            note_seconds(folder, test_name(training, one), time.monotonic() - started)


PASSES = "passes.jsonl"
"""File in a run directory: one line per testing pass, with its time in seconds."""


def note_seconds(folder: Path, name: str, seconds: float) -> None:
    """Record the time of a testing pass. If it cannot be written, it stays unknown: no reason to stop."""
    with suppress(OSError), (folder / PASSES).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": name, "seconds": round(seconds, 1)}) + "\n")


def noted_seconds(folder: Path) -> dict[str, float]:
    """Return the time of each testing pass of a run, in seconds, by name of the step."""
    seconds: dict[str, float] = {}
    with suppress(OSError):
        for line in (folder / PASSES).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError, KeyError):  # incomplete after a kill
                noted = json.loads(line)
                seconds[str(noted["step"])] = float(noted["seconds"])
    return seconds
