"""Appendix B as functions: transfer nets to a data set, and predict with the classifier that was learned."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from verydeep.computing import Computing, TestingPrecision
from verydeep.distributed import device_of
from verydeep.errors import UserError
from verydeep.evaluation.images import Images
from verydeep.interop.loading import load
from verydeep.linear import Aggregation, LinearClassifier
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.transfer.classifier import Chosen, Model, chosen, fitted
from verydeep.transfer.data import TransferData
from verydeep.transfer.describing import Described, describe
from verydeep.transfer.descriptors import Part, Subject, compute
from verydeep.transfer.measures import NAMES, Judged, Measure, by_class, interval, mean
from verydeep.transfer.opening import open_transfer_data
from verydeep.transfer.splits import SPLITS, TEST_IMAGES, TRAINING_IMAGES, Split, official_split, random_splits
from verydeep.transfer.store import identity
from verydeep.transfer.vectors import aggregated
from verydeep.weights import convolutional_net, save
from verydeep.workers import workers_for

Net: TypeAlias = nn.Module | str | os.PathLike[str]
"""A `ConvNet`, a run, or the path of a run or weight file."""


@dataclass(frozen=True)
class SplitResult:
    """What was measured on one split."""

    number: int
    training_images: int
    test_images: int
    cost: float
    """C of the support vector machines."""
    held_out: tuple[float, ...]
    """The measure on the held-out fifth for each of `classifier.COSTS`; empty if C could not be chosen."""
    value: float
    """The measure, in [0, 1]: the mean over classes."""
    by_class: tuple[float | None, ...]
    """The measure of each class; None for a class without test photographs."""


@dataclass(frozen=True)
class TransferResult:
    """How well the descriptors of nets classify another data set."""

    data: str
    classes: tuple[str, ...]
    nets: tuple[str, ...]
    """The configuration of each net."""
    sources: tuple[str, ...]
    """The run or weight file of each net."""
    protocol: str
    """How photographs are described, in words."""
    measure: Measure
    training_images: int | None
    """Per class; None if all training images are used."""
    splits: tuple[SplitResult, ...]
    interval: tuple[float, float]
    """95% bootstrap interval of the mean over splits, about the choice of test photographs."""

    @property
    def value(self) -> float:
        """The mean of the measure over splits, in [0, 1]."""
        return float(np.mean([split.value for split in self.splits]))

    @property
    def deviation(self) -> float | None:
        """The standard deviation over splits; None for a single one."""
        values = [split.value for split in self.splits]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def __str__(self) -> str:
        spread = f" ± {self.deviation:.2%}" if self.deviation is not None else ""
        low, high = self.interval
        each = f", {self.training_images} training images per class" if self.training_images else ""
        named = f"{NAMES[self.measure]} {self.value:.2%}{spread} [{low:.2%}, {high:.2%}]"
        return f"{self.data}, {self.protocol}{each}: {named}"


def transfer(
    nets: Net | Sequence[Net],
    data: str | Path | TransferData,
    *,
    scales: Sequence[int] | None = None,
    aggregation: Aggregation | None = None,
    boxes: bool = True,
    splits: int | None = None,
    training_images: int | None = None,
    test_images: int | None = TEST_IMAGES,
    device: str = "auto",
    precision: TestingPrecision = "fp32",
    workers: int | None = None,
    skip_unreadable: bool = False,
) -> TransferResult:
    """Train linear classifiers on the descriptors of nets, and test them (Appendix B).

    The weights of the nets stay as they are. `described` and `measured` are its two halves.

    Args:
        nets: a `ConvNet`, a run, or the path of a run or weight file, also of another system; or several of these,
            whose descriptors are stacked.
        data: what `open_transfer_data` takes or returns.
        scales: test scales Q in pixels; if None, the paper's: 256, 384 and 512 if each photograph has one class,
            and otherwise also 640 and 768; for a crop other than 224, the multiples of 32 nearest to the same
            proportion.
        aggregation: over scales; if None, stack if each photograph has one class, otherwise average.
        boxes: whether to stack the descriptors of the people's boxes, if the data set has any, with those of the
            whole photographs.
        splits: number of random splits; with an official split and `training_images`, of draws of its training
            images. If None, 3; an official split as it is counts once.
        training_images: per class, if each photograph has one class. If None, 30; all those of an official split.
            Without a split, data with several classes per photograph are trained on four fifths.
        test_images: the most test images per class of a random split; None for all the others.
        device: cpu, cuda, mps, or auto for the fastest available.
        precision: bf16 and fp16 use half precision wherever torch's autocast does; fp16 may overflow.
        workers: processes that prefetch photographs; if None, chosen from the number of cores.
        skip_unreadable: whether to leave out photographs that cannot be read, and name each on standard error.

    Returns:
        The result of each split, their mean, and its interval.

    Raises:
        ImageError: a UserError that names the first photograph that cannot be read.
        UserError: if an argument or the data set is wrong, or a class has too few photographs.
    """
    opened = data if isinstance(data, TransferData) else open_transfer_data(data)
    splits_of(opened, splits, training_images, test_images)  # refuse wrong numbers before hours of work
    found = described(
        nets,
        opened,
        scales=scales,
        aggregation=aggregation,
        boxes=boxes,
        device=device,
        precision=precision,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    return measured(found, splits=splits, training_images=training_images, test_images=test_images)


def described(
    nets: Net | Sequence[Net],
    data: TransferData,
    *,
    scales: Sequence[int] | None = None,
    aggregation: Aggregation | None = None,
    boxes: bool = True,
    device: str = "auto",
    precision: TestingPrecision = "fp32",
    workers: int | None = None,
    skip_unreadable: bool = False,
) -> Described:
    """Describe the photographs of a data set; arguments and errors are those of `transfer`.

    Descriptors are stored, each once, so that other aggregations, splits and numbers of training images need no
    further pass, and a call that was interrupted resumes.
    """
    target = device_of(device)
    return describe(
        nets,
        data,
        scales=scales,
        aggregation=aggregation,
        boxes=boxes,
        device=target,
        computing=Computing(precision, workers_for(len(data), workers, target)),
        skip_unreadable=skip_unreadable,
    )


def measured(
    found: Described,
    *,
    splits: int | None = None,
    training_images: int | None = None,
    test_images: int | None = TEST_IMAGES,
) -> TransferResult:
    """Train and test linear classifiers on vectors; arguments and errors are those of `transfer`."""
    return learning_curve(found, (training_images,), splits=splits, test_images=test_images)[0]


def learning_curve(
    found: Described,
    training_images: Sequence[int | None],
    *,
    splits: int | None = None,
    test_images: int | None = TEST_IMAGES,
) -> list[TransferResult]:
    """Measure with several numbers of training images per class, always on the same test images.

    The training images of a smaller number are among those of a larger one.

    Args:
        found: the vectors.
        training_images: the numbers, as for `transfer`.
        splits: as for `transfer`.
        test_images: as for `transfer`.

    Raises:
        UserError: as `transfer` does.
    """
    planned = curve_splits(found.data, training_images, splits, test_images)
    numbers = [training_images_of(found.data, number) for number in training_images]
    return [measured_on(found, each, number) for each, number in zip(planned, numbers, strict=True)]


def curve_splits(
    data: TransferData,
    training_images: Sequence[int | None],
    splits: int | None = None,
    test_images: int | None = TEST_IMAGES,
) -> list[tuple[Split, ...]]:
    """Return the splits of `learning_curve`, for each number of training images; the errors are the same.

    Raises:
        UserError: as `transfer` does.
    """
    given = [number for number in training_images if number is not None]
    largest = splits_of(data, splits, max(given) if given else None, test_images)
    if not given:
        return [largest] * len(training_images)
    return [tuple(split.fewer(data, number) for split in largest) for number in given]


def measured_on(found: Described, splits: Sequence[Split], training_images: int | None = None) -> TransferResult:
    """Train and test linear classifiers on given splits.

    Args:
        found: the vectors.
        splits: the splits.
        training_images: per class, for the result; None if all training images are used.
    """
    return judged_on(found, splits, training_images)[0]


def judged_on(
    found: Described, splits: Sequence[Split], training_images: int | None = None
) -> tuple[TransferResult, tuple[Judged, ...]]:
    """Return what `measured_on` does, and the scores of the test photographs, for intervals of differences."""
    measure, judged, results = found.data.measure, [], []
    for split in splits:
        model, choice = learned(found, split)
        one = Judged(split.test, model.scores(found.vectors[split.test]), found.data.labels[split.test])
        values = by_class(measure, one.scores, one.labels)
        each = tuple(None if np.isnan(value) else float(value) for value in values)
        sizes = len(split.train), len(split.test)
        results.append(SplitResult(split.number, *sizes, choice.cost, choice.held_out, mean(values), each))
        judged.append(one)
    result = TransferResult(
        found.data.name,
        found.data.classes,
        found.nets,
        found.sources,
        found.protocol,
        measure,
        training_images,
        tuple(results),
        interval(measure, judged),
    )
    return result, tuple(judged)


def splits_of(
    data: TransferData,
    splits: int | None = None,
    training_images: int | None = None,
    test_images: int | None = None,
) -> tuple[Split, ...]:
    """Return the splits to measure on; arguments and errors are those of `transfer`."""
    each = training_images_of(data, training_images)
    if data.parts:
        count = splits if splits is not None else (1 if each is None else SPLITS)
        if count < 1 or (count > 1 and each is None):
            raise UserError(
                f"{data.name} has an official split, which is measured once; give training images per class to "
                "draw several splits of its training images"
            )
        found = [split for seed in range(count) if (split := official_split(data, seed)) is not None]
        numbered = [replace(split, number=number) for number, split in enumerate(found)]
        return tuple(numbered if each is None else [split.fewer(data, each) for split in numbered])
    if training_images is not None and not data.single:
        raise UserError(
            f"{data.name}: its photographs do not have exactly one class each, so a number of training images per "
            "class means nothing; leave it out"
        )
    return random_splits(
        data, SPLITS if splits is None else splits, TRAINING_IMAGES if each is None else each, test_images
    )


def training_images_of(data: TransferData, given: int | None) -> int | None:
    """Return the training images per class: the given number, or 30 for random splits; None for all."""
    return TRAINING_IMAGES if given is None and data.single and not data.parts else given


def learned(found: Described, split: Split) -> tuple[Model, Chosen]:
    """Choose C on the held-out fifth of a split's training photographs, and train on all of them."""
    vectors, labels = found.vectors[split.train], found.data.labels[split.train]
    owners = [identity(found.data.photographs[row]) for row in split.train.tolist()]
    choice = chosen(found.data.measure, vectors, labels, owners, split.number)
    return fitted(vectors, labels, choice.cost), choice


def check_saving(nets: Sequence[object], boxes: bool, path: str | os.PathLike[str]) -> None:
    """Refuse what `save_classifier` cannot save, before any work is done.

    Raises:
        UserError: if there are several nets, or descriptors of boxes.
    """
    if len(nets) != 1:
        raise UserError(
            f"cannot save {os.fspath(path)}: a weight file holds one net, and {len(nets)} are given; transfer one"
        )
    if boxes:
        raise UserError(
            f"cannot save {os.fspath(path)}: its classifier would need a person's box for each photograph; use "
            "boxes=False (--no-boxes)"
        )


def save_classifier(
    net: Net, found: Described, split: Split, cost: float, path: str | os.PathLike[str]
) -> ConvNet:
    """Train a classifier, and save it with its net as one weight file, which `verydeep.predict` takes.

    Args:
        net: the net that made the vectors. If it is in memory, it gets the classifier, too.
        found: the vectors, of this net alone and without boxes.
        split: the split whose training photographs to train on. What was measured on it is true of the file.
        cost: C, such as that of the split's result.
        path: the file, by convention .safetensors; replaced if it exists.

    Returns:
        The net with its classifier.

    Raises:
        UserError: if the vectors are of several nets or of boxes, or the file cannot be written.
    """
    check_saving(found.nets, found.boxes, path)
    model = fitted(found.vectors[split.train], found.data.labels[split.train], cost)
    inner = convolutional_net(net) if isinstance(net, nn.Module) else load(net)
    values = by_class(found.data.measure, model.scores(found.vectors[split.test]), found.data.labels[split.test])
    provenance = {
        "data": found.data.name,
        "protocol": found.protocol,
        "training_images": len(split.train),
        "test_images": len(split.test),
        "cost": cost,
        "measure": found.data.measure,
        "value": mean(values),
    }
    inner.classifier = LinearClassifier(
        found.data.classes, found.descriptions[0], model.weight, model.bias, provenance
    )
    save(inner, path)
    return inner


def scores(
    net: ConvNet,
    given: Images,
    device: torch.device,
    computing: Computing,
    unreadable: dict[int, ImageError] | None = None,
) -> Float32[np.ndarray, "N K"]:
    """Return the scores of photographs by the linear classifier of a net.

    Args:
        net: a net with a classifier.
        given: the photographs.
        device: where to compute.
        computing: precision, workers and progress.
        unreadable: collects the errors of photographs that cannot be read, whose scores are those of a vector of
            zeros. If None, the first is raised.

    Raises:
        ImageError: if a photograph cannot be read and `unreadable` is None.
        UserError: if the net has no classifier.
    """
    if (classifier := net.classifier) is None:
        raise UserError(
            f"net {net.configuration.name} has no linear classifier; verydeep transfer --save makes one"
        )
    classifier.check(net.architecture)
    description = classifier.description
    length = replace(description, scales=description.scales[:1]).length(net.architecture)
    found = {scale: np.zeros((len(given), length), np.float32) for scale in description.scales}
    subjects = [Subject(photograph) for photograph in given.photographs]
    missing = [frozenset(Part(0, 0, scale) for scale in description.scales)] * len(given)
    for each in compute([net], [description.layer], subjects, missing, device, computing, unreadable):
        found[each.part.scale][each.subjects] = each.descriptors
    vectors = aggregated(found.values(), description.aggregation)
    return Model(classifier.weight, classifier.bias).scores(vectors)
