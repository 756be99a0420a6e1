"""The speed of training, testing and reading on this machine, measured in seconds with the nets themselves."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from verydeep.card import Rescaling
from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.evaluation.batches import TestImages, batch_pixels
from verydeep.evaluation.dense import dense_posteriors
from verydeep.evaluation.posteriors import in_testing
from verydeep.evaluation.protocols import Pass
from verydeep.experiments.cost import dense_multiply_adds
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.recipe import Recipe
from verydeep.training.augmentation import Address, Colours, MiniBatch, TrainingImages
from verydeep.training.augmentation import labels as labels_of
from verydeep.training.cost import FORTH_AND_BACK
from verydeep.training.step import Execution, Step, new_optimiser

LEAST_IMAGES = 4
ENOUGH_SECONDS = 0.5
"""A step is timed on this many images, then on more until it takes this many seconds or has a whole mini-batch."""

READING_SECONDS = 0.1
"""Seconds of reading photographs for one rate."""

NO_RATE = 1e-9
"""The learning rate of steps run for timing only."""


@dataclass(frozen=True)
class NetRate:
    """The speed of a net on this machine."""

    net: str
    """Configuration of Table 1."""
    training: float
    """Multiply-adds per second, forward and backward."""
    update: float
    """Seconds per iteration that do not depend on the number of images, mostly the update of the weights. 0 if
    whole mini-batches were timed; `training` then includes it."""
    testing: float
    """Multiply-adds per second of dense testing."""


def net_rate(
    recipe: Recipe, classes: int, computing: Computing, device: torch.device, micro_batch: int = 0
) -> NetRate:
    """Time training and testing on synthetic images: a second for a miniature, several at full size on a CPU.

    If a mini-batch takes long, such as 256 images on a CPU, only part of it is timed, and one image alone as well,
    to separate the cost per iteration from the cost per image.

    Args:
        recipe: the net, its batch, and S, which is also used for testing.
        classes: number of classes of the data set.
        computing: the precision.
        device: where to compute.
        micro_batch: images per forward and backward pass; 0 for a whole mini-batch.
    """
    net = ConvNet(recipe.architecture(classes)).to(device).train()
    step = Step(net, new_optimiser(net, recipe, NO_RATE), Ranks(device=device), Execution(computing))
    most = min(micro_batch or recipe.batch, recipe.batch)
    count, taken = min(LEAST_IMAGES, most), 0.0
    while True:
        _step_seconds(step, count, device)  # not counted: the first at a size allocates memory and fills caches
        taken = _step_seconds(step, count, device)
        if count == most or taken >= ENOUGH_SECONDS:
            break
        count = min(most, 4 * count)
    each, update = taken / count, 0.0
    if 1 < count < recipe.batch:
        alone = _step_seconds(step, 1, device)
        each = max((taken - alone) / (count - 1), each / 10)  # noise must not make it zero
        update = max(0.0, alone - each)
    whole = recipe.architecture(classes).multiply_adds()
    training = FORTH_AND_BACK * whole / each
    return NetRate(recipe.net, training, update, _testing_rate(net, recipe.scales[0], computing, device, training))


def _step_seconds(step: Step, count: int, device: torch.device) -> float:
    """Return the seconds of one iteration on synthetic images."""
    images = made_up(count, step.net.crop)
    labels = torch.arange(count) % step.net.classes
    share = MiniBatch(images, labels, torch.zeros(count, 3), torch.arange(count))
    _finish(device)
    started = time.perf_counter()
    step(share, count)
    _finish(device)
    return time.perf_counter() - started


def _testing_rate(net: ConvNet, scale: int, computing: Computing, device: torch.device, training: float) -> float:
    """Return the multiply-adds per second of dense testing, on enough images for `ENOUGH_SECONDS`."""
    each = 2 * dense_multiply_adds(net.architecture, scale, scale)  # with mirror images
    most = batch_pixels(net.architecture, device, computing.half is not None) // scale**2
    count = max(1, min(most, math.ceil(ENOUGH_SECONDS * training / each)))
    images = made_up(count, scale).to(device)
    with in_testing(net, device), torch.no_grad(), computing.autocast(device):
        for _ in range(2):  # the first is not counted
            _finish(device)
            started = time.perf_counter()
            dense_posteriors(net, images)
            _finish(device)
            taken = time.perf_counter() - started
    return count * each / taken


def made_up(count: int, side: int) -> UInt8[Tensor, "count 3 side side"]:
    """Return images of noise, with the memory layout of images that are read."""
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return torch.from_numpy(noise).permute(0, 3, 1, 2)


def _finish(device: torch.device) -> None:
    """Wait for a device that computes asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def crop_reading(dataset: Dataset, recipe: Recipe) -> float:
    """Return the seconds in which one process reads one training image, measured on some of them.

    Raises:
        ImageError: if one cannot be read.
    """
    images = TrainingImages(dataset, recipe, Colours(np.zeros(3), np.ones(3), np.eye(3)), labels_of)
    return _seconds_each(dataset, lambda row: images.__getitems__([Address(0, row, row)]))


def pass_reading(dataset: Dataset, one: Pass, crop: int, rescaling: Rescaling = "bilinear") -> float:
    """Return the seconds in which one process reads one photograph for a testing pass; like `crop_reading`."""
    images = TestImages(dataset, one, crop, rescaling)

    def read(row: int) -> object:
        batch = images.__getitems__([row])
        return batch.unreadable.get(row, batch)

    return _seconds_each(dataset, read)


def _seconds_each(dataset: Dataset, read: Callable[[int], object]) -> float:
    """Return the seconds per row, from rows spread over the data set: photographs of one class may be alike."""
    count, started = 0, time.perf_counter()
    for row in np.random.default_rng(0).permutation(len(dataset)).tolist():
        found = read(row)
        if isinstance(found, ImageError):
            raise found
        count += 1
        if time.perf_counter() - started > READING_SECONDS:
            break
    return (time.perf_counter() - started) / count
