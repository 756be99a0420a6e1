"""Sect. 3 and 4 as functions: train, test, predict. The command line and the experiments call these."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import nn

from verydeep import weights
from verydeep.computing import Computing, Precision
from verydeep.configurations import whole_number
from verydeep.datasets.dataset import Dataset, Split, compare_classes, images_below, open_dataset
from verydeep.datasets.duplicates import same_content
from verydeep.datasets.survey import Survey, leave_out_unreadable, principal_components, survey, unreadable_at
from verydeep.distributed import Ranks, device_of, local_cores, ranks
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.dense import dense_posteriors
from verydeep.evaluation.metrics import top_error
from verydeep.evaluation.posteriors import (
    Pass,
    check_scales,
    in_testing,
    middle,
    one_pass,
    passes,
    protocol,
    test_scale,
)
from verydeep.evaluation.testing import Result
from verydeep.interop.loading import load
from verydeep.network import ConvNet
from verydeep.photographs.decoding import from_pillow
from verydeep.photographs.photograph import ImageError, Photograph
from verydeep.photographs.rescaling import rescale
from verydeep.printable import decoded, printable
from verydeep.progress import say
from verydeep.reading import most_workers
from verydeep.recipe import Recipe
from verydeep.training import loop
from verydeep.training.augmentation import Colours, shared_bytes
from verydeep.training.open_fields import filled
from verydeep.training.presets import Conditions, Preset, machine_rate, preset_line
from verydeep.training.run import Run, read_run, run_directory
from verydeep.training.step import Execution

Net: TypeAlias = nn.Module | Run | str | Path
"""A `ConvNet`, a run, or the path of a run or of a weight file."""

Data: TypeAlias = str | Path | Dataset
"""What `open_dataset` takes, or what it returned."""

ELONGATED = 20
"""A photograph whose long side is more than so many times its short side is named by `inspect`."""

MOST_WORKERS = 16
"""Reading processes that a rank may have whatever its cores: they may wait for a slow disk."""


def train(
    data: Data,
    recipe: Recipe,
    out: str | Path | Run,
    *,
    validation: Dataset | None = None,
    preset: Preset | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    micro_batch: int = 0,
    compile: bool = False,
    recompute: bool = False,
    skip_unreadable: bool = False,
) -> Run:
    """Train a net (Sect. 3.1), or go on with a training that was interrupted.

    Args:
        data: a folder of photographs, "digits", or a training set; see `open_dataset`.
        recipe: what to train and how. If it starts from a net, sizes that it leaves open are those of that net.
        out: the run directory to make or to resume.
        validation: the validation set; if None, that of `data`.
        preset: fills in fields that the recipe leaves open: `small` with sizes and a schedule for the data and the
            machine, `paper` with the paper's.
        device: cpu, cuda, mps, or auto for the fastest that is there.
        precision: bf16 computes with bfloat16 where torch's autocast does.
        workers: processes that read images ahead, for each rank; by the number of cores where None.
        micro_batch: images that pass through the net at once on each rank; 0 for its whole share of the batch.
        compile: compile the net with torch.compile.
        recompute: keep less for the backward pass and compute it again (activation checkpointing).
        skip_unreadable: go on without images that cannot be read; each is named.

    Returns:
        The run: its recipe, its curves, and its net.

    Raises:
        UserError: for wrong arguments, unreadable images, another run in `out`, a loss that is stuck or infinite.
        Interrupted: after SIGTERM or Ctrl-C, when everything is saved; the same call goes on from there.
    """
    if not isinstance(recipe, Recipe):
        raise UserError(f"the recipe is of type {type(recipe).__name__}; give a verydeep.Recipe")
    if not isinstance(out, str | os.PathLike):
        raise UserError(f"out is {out!r}; give the path of the run directory")
    if decoded(os.fspath(out)) != os.fspath(out):
        raise UserError(f"{os.fspath(out)}: weight files are not read from a path that is not UTF-8; name another")
    if isinstance(data, Dataset) and validation is None:
        raise UserError(f"{data.name} is a training set alone; give a validation set, too")
    execution = Execution(Computing(precision, reading_workers(workers)), micro_batch, compile, recompute)
    run = Path(out)
    with ranks(device) as here:
        training_set, found = surveyed(data, "train", skip_unreadable, here)
        conditions = conditions_of(training_set, found, here)
        recipe = filled(run, recipe, preset, conditions)
        if preset is not None and here.first:
            say(preset_line(preset, recipe, conditions))
        if workers is None:  # nobody asked for more than there is room for
            execution = execution.with_workers(most_workers(shared_bytes(recipe, len(training_set), here.world)))
        centre_crop = Pass("centre-crop", middle(*recipe.scales), flip=False)
        validation_set, sizes = surveyed(
            data if validation is None else validation, "val", skip_unreadable, here, centre_crop.scale
        )
        compare_classes(validation_set.classes, training_set.classes, validation_set.name, training_set.name)
        colours = colours_of(found)
        described = description(place_of(data), training_set, validation_set, colours)
        quiet = Computing(precision, execution.computing.workers, progress=False)

        def top1_error(net: ConvNet) -> float:
            matrix = one_pass(net, validation_set, centre_crop, here, quiet, sizes.sizes)
            return top_error(matrix, validation_set.labels, 1).value

        validated = loop.Validation(protocol("centre-crop", [centre_crop.scale], flip=False), top1_error)
        with run_directory(run, recipe, described, here) as entered:
            loop.train(recipe, entered, training_set, colours, validated, here, execution)
        here.wait()  # until the first has written everything
        return read_run(run)


def test(
    nets: Net | Sequence[Net],
    data: Data,
    scales: Sequence[int] | None = None,
    method: str = "dense",
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    skip_unreadable: bool = False,
) -> list[Result]:
    """Test one net or several on the validation set (Sect. 3.2), and several together (Sect. 4.4).

    Every pass of a run or weight file is stored once; averages over scales, methods and nets need no other pass.

    Args:
        nets: a `ConvNet`, a run, or the path of a run or of a weight file; or several.
        data: as `train` takes it.
        scales: test scales Q in pixels; None for the default of each net (`evaluation.posteriors.test_scale`): its
            training scale S, or the middle of its range.
        method: dense; multi-crop, 5 x 5 crops; both, the mean of these two; centre-crop; or windows, what
            a dense map's cells see, each as a crop of its own.
        device: cpu, cuda, mps, or auto for the fastest that is there.
        precision: bf16 computes with bfloat16 where torch's autocast does.
        workers: processes that read images ahead, for each rank; by the number of cores where None.
        skip_unreadable: go on without images that cannot be read; each is named.

    Returns:
        A result a net, in order, and one of all together where there are several.

    Raises:
        UserError: for wrong arguments, unreadable images, a net that is given twice, or classes that differ.
    """
    several = list(nets) if isinstance(nets, Sequence) and not isinstance(nets, str) else [nets]
    if not several:
        raise UserError("there is no net to test; give at least one")
    if scales is not None:
        passes(method, scales)
    candidates = [testing.tested(net) for net in several]
    computing = Computing(precision, reading_workers(workers))
    largest = max(scales or (test_scale(net.card, method) for net in candidates))
    with ranks(device) as here:
        dataset, found = surveyed(data, "val", skip_unreadable, here, largest)
        setup = testing.Setup(dataset, found.sizes, here, computing, say)
        return list(testing.test(setup, candidates, () if scales is None else scales, method))


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of a photograph."""

    image: str
    """Its file, or its number, for pixels in memory."""
    classes: tuple[str, ...]
    """From the most likely one on."""
    posteriors: tuple[float, ...]
    """Of each of these classes, in [0, 1]."""

    def __str__(self) -> str:
        shares = (f"{name} {share:.1%}" for name, share in zip(self.classes, self.posteriors, strict=True))
        return printable(f"{self.image}: {', '.join(shares)}")


def predict(
    net: Net,
    images: Sequence[str | Path | Image.Image | UInt8[np.ndarray, "_ _ 3"]],
    scale: int | None = None,
    top: int = 5,
) -> list[Prediction]:
    """Name the most likely classes of photographs, each tested densely (Sect. 3.2).

    Args:
        net: a `ConvNet`, which computes on its own device; or a run or weight file, for the fastest one there is.
        images: files, Pillow's images, or RGB arrays of height x width x 3, uint8.
        scale: test scale Q in pixels; None for the net's default, as in `test`.
        top: how many classes to name.

    Returns:
        A prediction an image, in order.

    Raises:
        ImageError: a UserError that names the first image that cannot be read.
        UserError: for wrong arguments.
    """
    if isinstance(images, str | Path | Image.Image) or not isinstance(images, Sequence):
        raise UserError(
            f"images is of type {type(images).__name__}; give a list of files, Pillow's images or arrays"
        )
    if whole_number("top", top) < 1:
        raise UserError(f"top is {top}; name at least one class")
    inner = weights.convolutional_net(net) if isinstance(net, nn.Module) else load(net).to(device_of("auto"))
    card = inner.card
    scale = test_scale(card) if scale is None else whole_number("scale", scale)
    check_scales([scale], card.architecture.crop)
    device, found = inner.mean.device, []
    with in_testing(inner, device), torch.no_grad():
        for number, image in enumerate(images):
            pixels = (
                torch.from_numpy(rescale(photograph_of(image), scale, card.rescaling)).to(device).permute(2, 0, 1)
            )
            posteriors = dense_posteriors(inner, pixels[None], card.flip)[0].cpu().numpy()
            best = np.argsort(-posteriors, kind="stable")[:top]
            name = str(image) if isinstance(image, str | Path) else f"image {number}"
            found.append(
                Prediction(name, tuple(card.names[k] for k in best), tuple(float(posteriors[k]) for k in best))
            )
    return found


@dataclass(frozen=True)
class Inspection:
    """What one reading of a split found."""

    split: Split
    images: int
    counts: dict[str, int]
    """Images of each class."""
    mean: tuple[float, float, float]
    """Mean RGB in 0..255; NaN where no image can be read."""
    smallest_sides: tuple[int, int, int] | None
    """Least, median and largest smallest side of the readable images, in pixels."""
    unreadable: tuple[str, ...]
    """A line for each image that cannot be read."""
    others: tuple[str, ...]
    """Files and folders that are left out; with a folder, how many images lie below it."""
    suspicious: tuple[str, ...] = ()
    """A line for each image that was read, but perhaps not as it was taken, or that is very elongated."""
    also_in_train: tuple[str, ...] = ()
    """A line for each validation image with the same content as one of train; empty for train itself."""


def inspect(data: str | Path) -> tuple[Inspection, Inspection]:
    """Read a data set through: its classes, its images' sizes and mean colour, and what is wrong with them.

    Args:
        data: a folder of photographs or "digits"; see `open_dataset`.

    Returns:
        The training set's and the validation set's.

    Raises:
        UserError: where there is no such data set.
    """
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    shared = tuple(
        f"{_named(val, row)}: has the same content as {_named(train, trained)}"
        for trained, row in same_content(train, val)
    )
    return _inspected(train, "train"), replace(_inspected(val, "val"), also_in_train=shared)


def _named(dataset: Dataset, row: int) -> str:
    photograph = dataset.photographs[row]
    return str(photograph) if isinstance(photograph, Path) else f"image {row} of {dataset.name}"


def _inspected(dataset: Dataset, split: Split) -> Inspection:
    found = survey(dataset)
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    sides = found.sizes[found.sizes.min(1) > 0].min(1)
    low, median, high = (int(value) for value in np.percentile(sides, (0, 50, 100))) if len(sides) else (0, 0, 0)
    red, green, blue = found.mean.tolist()
    return Inspection(
        split,
        len(dataset),
        dict(zip(dataset.classes, counts, strict=True)),
        (red, green, blue),
        (low, median, high) if len(sides) else None,
        tuple(reason for _, reason in found.unreadable),
        tuple(f"{path} (images below it: {count})" if count else str(path) for path, count in _left_out(dataset)),
        (*(reason for _, reason in found.suspicious), *_elongated(dataset, found)),
    )


def _elongated(dataset: Dataset, found: Survey) -> Iterator[str]:
    short, long = found.sizes.min(1), found.sizes.max(1)
    for row in np.flatnonzero((short > 0) & (long > ELONGATED * short)).tolist():
        width, height = found.sizes[row]
        yield f"{_named(dataset, row)}: {width} x {height} pixels are a strip rather than a photograph"


def _left_out(dataset: Dataset) -> Iterator[tuple[Path, int]]:
    """Files and folders that lie where photographs do, and how many images lie below each."""
    return ((path, images_below(path)) for path in dataset.ignored)


def photograph_of(image: object) -> Photograph:
    """A photograph by its file, as Pillow's image (put upright) or as an array.

    Raises:
        ImageError: for an array of another shape or type.
        UserError: for anything else.
    """
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"an image is of type {type(image).__name__}; give a file, one of Pillow's images or an array"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            None, f"an array of {image.dtype} and shape {image.shape}; give uint8 of (height, width, 3)"
        )
    return image


def colours_of(found: Survey) -> Colours:
    """The colour statistics of a training set, by its survey."""
    return Colours(found.mean, *principal_components(found.covariance))


def conditions_of(training_set: Dataset, found: Survey, here: Ranks) -> Conditions:
    """What the sizes of a training may depend on: its data, by their survey, and the machine."""
    side = int(np.median(found.sizes.min(1))) if len(training_set) else 0
    return Conditions(len(training_set), len(training_set.classes), side, machine_rate(here))


def description(place: str, training_set: Dataset, validation_set: Dataset, colours: Colours) -> dict[str, Any]:
    """What a run keeps of its data: what identifies them, and what was measured on them."""
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
    """Where a data set is, for people."""
    if isinstance(data, Dataset):
        return data.name
    return str(data) if data == "digits" else str(Path(data).absolute())


def surveyed(
    data: Data, split: Split, skip_unreadable: bool, here: Ranks, largest: int | None = None
) -> tuple[Dataset, Survey]:
    """A split without what cannot be read, and what its survey found; one rank per machine surveys for all of it.

    Args:
        data: as `train` takes it.
        split: train or val.
        skip_unreadable: leave out what cannot be read, instead of raising.
        here: the ranks.
        largest: the largest shortest side, in pixels, that whole photographs are rescaled to; those too elongated
            for it cannot be read. None where only crops are taken.

    Raises:
        UserError: where there is no such data set, and for unreadable images that are not to be skipped.
    """
    dataset = data if isinstance(data, Dataset) else open_dataset(data, split)
    if not len(dataset):
        raise UserError(f"{dataset.name} has no photographs; give at least one")
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
            images = sum(count for _, count in _left_out(dataset))
            below = f" (images in them: {images}; move these into the folder of their class)" if images else ""
            say(
                f"{dataset.name}: {len(dataset.ignored)} other files or folders left out{below}, such as "
                f"{dataset.ignored[0]}; verydeep inspect lists them"
            )
        for _, reason in found.unreadable if skip_unreadable else ():
            say(f"left out: {reason}")
        if skip_unreadable and found.unreadable:
            say(f"{dataset.name}: {len(found.unreadable)} of {len(dataset)} images left out")
    return leave_out_unreadable(dataset, found, skip_unreadable)


def reading_workers(given: int | None) -> int:
    """Reading processes of a rank: for half of its cores; none where it has few and would wait for them.

    Raises:
        UserError: for a negative number, or more than make sense.
    """
    cores = local_cores()
    if given is None:
        return min(8, cores // 2) if cores >= 4 else 0
    if whole_number("workers", given) < 0:
        raise UserError(f"workers is {given}; give a number of processes, or 0 for none")
    most = max(MOST_WORKERS, 4 * cores)
    if given > most:
        raise UserError(f"workers is {given}; a rank has {cores} cores here, so give at most {most}")
    return given
