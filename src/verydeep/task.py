"""What a net is trained for, and the steps that all trainings share: from the photographs to the run."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int32

from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset, Split, compare_classes, images_below, open_dataset
from verydeep.datasets.survey import Survey, leave_out_unreadable, principal_components, survey, unreadable_at
from verydeep.distributed import Ranks, local_ranks, ranks
from verydeep.errors import UserError
from verydeep.evaluation.batches import batch_bytes, batch_pixels, batches_of
from verydeep.evaluation.metrics import mean_loss, top_error
from verydeep.evaluation.posteriors import one_pass
from verydeep.evaluation.protocols import Pass, middle, protocol
from verydeep.network import ConvNet
from verydeep.printable import decoded
from verydeep.progress import say
from verydeep.reading import check_shared_memory, fitting_workers
from verydeep.recipe import Recipe
from verydeep.training import loop
from verydeep.training.augmentation import Colours, shared_bytes
from verydeep.training.objective import Objective
from verydeep.training.open_fields import filled
from verydeep.training.presets import Conditions, Preset, machine_rate, preset_line
from verydeep.training.run import Run, read_run, run_directory
from verydeep.training.step import Execution
from verydeep.training.validation import Validated, Validation
from verydeep.workers import reading_workers

Data: TypeAlias = str | Path | Dataset
"""An argument of `open_dataset`, or a data set that it returned."""


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """The validation photographs, and how a net is run on them."""

    dataset: Dataset
    """Without unreadable images."""
    sizes: Int32[np.ndarray, "N 2"]
    """Width and height of each in pixels."""
    centre_crop: Pass
    """The centre crop, at the middle of the training scale."""
    ranks: Ranks
    computing: Computing
    """Without progress."""


@dataclass(frozen=True, eq=False)
class Task:
    """What a net is trained for: photographs, and what it is to output for them."""

    data: Data
    """The training set, as for `surveyed`."""
    validation: Data
    """The validation set."""
    place: str
    """Where the data are, for people to read."""
    objective: Callable[[Dataset, Recipe], Objective]
    """Takes the training set without unreadable images, and the recipe with all its sizes."""
    measured: Callable[[ValidationSet], Validation]
    """How to validate."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """What else tells the data of a run from others."""


@dataclass(frozen=True)
class Launch:
    """How a training starts on this machine."""

    device: str = "auto"
    preset: Preset | None = None
    workers: int | None = None
    """Processes per rank that prefetch images; if None, chosen for the cores and the shared memory."""
    skip_unreadable: bool = False
    new_limits: bool = False
    """Whether the limits of the recipe replace those of the run that is there."""


def class_validation(images: ValidationSet) -> Validation:
    """Return the validation of a classifier: top-1 error and mean log-loss on centre crops."""
    dataset, crop = images.dataset, images.centre_crop

    def measure(net: ConvNet) -> Validated:
        matrix = one_pass(net, dataset, crop, images.ranks, images.computing, images.sizes)
        error = top_error(matrix, dataset.labels, 1)
        return Validated(error.value, mean_loss(matrix, dataset.labels))

    return Validation(protocol(crop.method, [crop.scale], flip=crop.flip), len(dataset), measure)


def trained(task: Task, recipe: Recipe, out: str | Path | Run, execution: Execution, how: Launch) -> Run:
    """Train a net for a task, or resume its training: the steps that classification and localisation share.

    Args:
        task: what the net is trained for.
        recipe: as for `train`.
        out: the run directory to create or resume.
        execution: how to compute.
        how: how to start.

    Raises:
        UserError: as `train` does.
        Interrupted: after SIGTERM or Ctrl-C, once everything is saved.
    """
    if not isinstance(recipe, Recipe):
        raise UserError(f"the recipe is of type {type(recipe).__name__}; pass a verydeep.Recipe")
    if not isinstance(out, str | os.PathLike):
        raise UserError(f"out is {out!r}; pass the path of the run directory")
    if decoded(os.fspath(out)) != os.fspath(out):
        raise UserError(
            f"{os.fspath(out)}: weight files cannot be read from a path that is not UTF-8; use another path"
        )
    run = Path(out)
    with ranks(how.device, execution.computing.deterministic) as here:
        execution = execution.with_workers(reading_workers(how.workers, here.device))
        computing = execution.computing
        computing.check(here.device)
        training_set, found = surveyed(task.data, "train", how.skip_unreadable, here)
        conditions = conditions_of(training_set, found, here)
        recipe = filled(run, recipe, how.preset, conditions)
        if how.preset is not None and here.first:
            say(preset_line(how.preset, recipe, conditions))
        centre_crop = Pass("centre-crop", middle(*recipe.scales), flip=False)
        validation_set, sizes = surveyed(task.validation, "val", how.skip_unreadable, here, centre_crop.scale)
        compare_classes(validation_set.classes, training_set.classes, validation_set.name, training_set.name)
        prefetched = _prefetched(recipe, training_set, validation_set, centre_crop, computing, here)
        if how.workers is None:
            execution = _fitted(execution, prefetched, here)
        check_shared_memory(execution.computing.workers, prefetched)
        colours = colours_of(found)
        described = description(task.place, training_set, validation_set, colours) | dict(task.identity)
        quiet = replace(execution.computing, progress=False)
        validation = task.measured(ValidationSet(validation_set, sizes.sizes, centre_crop, here, quiet))
        objective = task.objective(training_set, recipe)
        with run_directory(run, recipe, described, here, how.new_limits) as entered:
            loop.train(recipe, entered, training_set, colours, validation, here, execution, objective)
        here.wait()  # until the first rank has written everything
        return read_run(run)


def _prefetched(
    recipe: Recipe, training_set: Dataset, validation_set: Dataset, one: Pass, computing: Computing, here: Ranks
) -> int:
    """Return the bytes of shared memory that a mini-batch of training and one of validation take together."""
    made = recipe.architecture(len(training_set.classes))
    pixels = batch_pixels(made, here.device, computing.half is not None)
    validation = batch_bytes(batches_of(validation_set, one, recipe.crop, pixels=pixels), one, recipe.crop, None)
    return shared_bytes(recipe, len(training_set), here.world) + local_ranks() * validation


def _fitted(execution: Execution, shared: int, here: Ranks) -> Execution:
    """Return the execution with no more workers than shared memory is enough for; a line says so if it lacks."""
    most, line = fitting_workers(execution.computing.workers, shared)
    if line and here.local_rank == 0:
        say(line)
    return execution.with_workers(most)


def surveyed(
    data: Data, split: Split, skip_unreadable: bool, here: Ranks, largest: int | None = None
) -> tuple[Dataset, Survey]:
    """Survey a split, and leave out unreadable images. On each machine, the first rank surveys for the others.

    Args:
        data: as for `train`.
        split: train or val.
        skip_unreadable: whether to leave out images that cannot be read, instead of raising.
        here: the ranks.
        largest: the largest smallest side, in pixels, that whole photographs are rescaled to. Photographs that are
            too elongated for it count as unreadable. None if only crops are cut.

    Returns:
        The split and its survey, without unreadable images.

    Raises:
        UserError: if there is no such data set, it is empty, or an unreadable image is not to be left out.
    """
    dataset = data if isinstance(data, Dataset) else open_dataset(data, split)
    if not len(dataset):
        raise UserError(f"{dataset.name} has no photographs; it needs at least one")
    if here.local_rank > 0:
        here.wait()
    found = survey(dataset)
    if here.local_rank == 0:
        here.wait()
    if largest is not None:
        found = unreadable_at(dataset, found, largest)
    if here.first:
        if dataset.note:
            say(dataset.note)
        if dataset.ignored:
            images = sum(count for _, count in ignored_by(dataset))
            below = f" (images in them: {images}; move these into the folder of their class)" if images else ""
            say(
                f"{dataset.name}: files or folders left out: {len(dataset.ignored)}{below}, such as "
                f"{dataset.ignored[0]}; verydeep inspect lists them"
            )
        for _, reason in found.unreadable if skip_unreadable else ():
            say(f"left out: {reason}")
        if skip_unreadable and found.unreadable:
            say(f"{dataset.name}: {len(found.unreadable)} of {len(dataset)} images left out")
    return leave_out_unreadable(dataset, found, skip_unreadable)


def colours_of(found: Survey) -> Colours:
    """Return the colour statistics of a training set from its survey."""
    return Colours(found.mean, *principal_components(found.covariance))


def conditions_of(training_set: Dataset, found: Survey, here: Ranks) -> Conditions:
    """Return what a preset may fit the sizes of a training to: the surveyed data and the machine."""
    side = int(np.median(found.sizes.min(1))) if len(training_set) else 0
    return Conditions(len(training_set), len(training_set.classes), side, machine_rate(here))


def description(place: str, training_set: Dataset, validation_set: Dataset, colours: Colours) -> dict[str, Any]:
    """Return the contents of a run's data.json: what identifies its data, and what was measured on them."""
    return {
        "path": place,
        "classes": list(training_set.classes),
        "images": len(training_set),
        "validation_images": len(validation_set),
        "mean": [round(value, 4) for value in colours.mean.tolist()],
        "deviations": colours.deviations.tolist(),
        "components": colours.components.tolist(),
    }


def place_of(data: Data) -> str:
    """Return where a data set is, for people to read."""
    if isinstance(data, Dataset):
        return data.name
    return str(data) if data == "digits" else str(Path(data).absolute())


def ignored_by(dataset: Dataset) -> Iterator[tuple[Path, int]]:
    """Return the files and folders that are left out of the data set, with the number of images below each."""
    return ((path, images_below(path)) for path in dataset.ignored)
