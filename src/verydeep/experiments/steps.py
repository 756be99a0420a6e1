"""The steps of an experiment: train a net of the plan, make its testing passes."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from verydeep import procedures
from verydeep.configurations import Architecture
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.posteriors import Pass
from verydeep.experiments.cost import (
    pass_images,
    pass_multiply_adds,
    training_images,
    training_multiply_adds,
)
from verydeep.experiments.experiment import Experiment
from verydeep.experiments.plan import Training
from verydeep.experiments.results import Curve, Step
from verydeep.files import read_json
from verydeep.progress import say
from verydeep.training.run import ENVIRONMENT, Run, changes, read_run


def planned_steps(experiment: Experiment) -> dict[tuple[int, str], Step]:
    """All steps of an experiment by seed and name, in order, with what they cost; no time is spent on them yet."""
    data, sizes = experiment.data, [(int(width), int(height)) for width, height in experiment.data.sizes]
    classes, images = len(data.training.classes), len(data.training)
    passed: dict[tuple[Architecture, Pass], tuple[int, float]] = {}
    steps = []
    for seed in experiment.seeds:
        for training in experiment.trainings:
            recipe = experiment.recipe(training, seed)
            cost = training_images(recipe, images), training_multiply_adds(recipe, classes, images)
            steps.append(Step(train_name(training), seed, 0.0, *cost))
            net = recipe.architecture(classes)
            for one in experiment.passes_of(training.name):
                if (net, one) not in passed:
                    passed[net, one] = pass_images(one, sizes, net.crop), pass_multiply_adds(net, one, sizes)
                steps.append(Step(test_name(training, one), seed, 0.0, *passed[net, one]))
    return {(step.seed, step.name): step for step in steps}


def train_name(training: Training) -> str:
    """What the step is called that trains a net."""
    return f"train {training.name}"


def test_name(training: Training, one: Pass) -> str:
    """What the step is called that makes a testing pass."""
    return f"test {training.name}, {one.method}, Q = {one.scale}"


def time_left(planned: Mapping[tuple[int, str], Step], done: Mapping[tuple[int, str], Step]) -> float | None:
    """Seconds that the steps which are not done will take, at the rate of those that are; None before any is."""
    seconds = sum(step.seconds for step in done.values())
    rate = sum(step.multiply_adds for step in done.values() if step.seconds) / seconds if seconds else 0.0
    left = sum(step.multiply_adds for key, step in planned.items() if key not in done)
    return left / rate if rate else None


def train_step(experiment: Experiment, training: Training, step: Step, title: str) -> Run:
    """Train a net of the plan, or find it trained.

    A run whose recipe, start or data have changed since is moved aside, and the net is trained anew.
    """
    here, data, options = experiment.here, experiment.data, experiment.options
    folder, recipe = experiment.folder(training.name, step.seed), experiment.recipe(training, step.seed)
    if here.first and (changed := changes(folder, recipe, data.described)):
        aside = _free_name(folder)
        folder.rename(aside)
        experiment.forget(training.name, step.seed)
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
    seconds = round(sum(epoch.seconds for epoch in run.epochs), 1)
    experiment.steps[step.seed, step.name] = replace(step, seconds=seconds)
    experiment.curves[step.seed, training.name] = _curve(training, step.seed, run)
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
        starts = read_json(folder / ENVIRONMENT)
        return [{name: start.get(name) for name in ENVIRONMENT_FIELDS} for start in starts]
    except (UserError, TypeError, AttributeError):  # it is for people: no reason to stop
        return []


def test_step(
    experiment: Experiment,
    training: Training,
    seed: int,
    run: Run,
    planned: Mapping[tuple[int, str], Step],
    title: str,
) -> None:
    """Make all passes of a trained net that the tables need and that are not stored."""
    setup, tested = experiment.setup(), testing.tested(run.path)
    passes = experiment.passes_of(training.name)
    if passes and experiment.here.first:
        say(f"{title}: testing, {len(passes)} passes")
    matrices = testing.kept_passes(setup, tested, passes)
    for one in passes:
        started = time.monotonic()
        next(matrices)
        key = seed, test_name(training, one)
        if key not in experiment.steps:
            experiment.steps[key] = replace(planned[key], seconds=round(time.monotonic() - started, 1))
