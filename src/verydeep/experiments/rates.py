"""How fast this machine trains, tests and reads: measured in a few seconds, with the nets themselves."""

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
from verydeep.evaluation.dense import dense_posteriors
from verydeep.evaluation.posteriors import BATCH_PIXELS, Pass, TestImages, in_testing
from verydeep.experiments.cost import FORTH_AND_BACK, dense_multiply_adds
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.recipe import Recipe
from verydeep.training.augmentation import Address, Colours, MiniBatch, TrainingImages
from verydeep.training.step import Execution, Step, new_optimiser

LEAST_IMAGES = 4
ENOUGH_SECONDS = 0.5
"""A step is measured on the least images, and on more of them until it takes so long or has a whole mini-batch."""

READING_SECONDS = 0.1
"""How long photographs are read for one rate."""

NO_RATE = 1e-9
"""The learning rate of steps that are only timed."""


@dataclass(frozen=True)
class NetRate:
    """How fast this machine computes a net."""

    net: str
    """Configuration of Table 1."""
    training: float
    """Multiply-adds a second, forth and back."""
    update: float
    """Seconds of an iteration that do not depend on its images: mostly the update of the weights. 0 where whole
    mini-batches were measured, of which it is then a part."""
    testing: float
    """Multiply-adds a second, dense testing."""


def net_rate(
    recipe: Recipe, classes: int, computing: Computing, device: torch.device, micro_batch: int = 0
) -> NetRate:
    """Train and test a net of a recipe on made-up images: a second for a miniature, some at full size on a CPU.

    Where a mini-batch takes long, as one of 256 images does on a CPU, a part of it is measured, and beside it one
    image alone, to tell what an iteration costs from what an image costs.

    Args:
        recipe: the net, its batch, and S, which it is tested at, too.
        classes: of the data set.
        computing: precision.
        device: where to compute.
        micro_batch: images that pass through the net at once; 0 for a whole mini-batch.
    """
    net = ConvNet(recipe.architecture(classes)).to(device).train()
    step = Step(net, new_optimiser(net, recipe, NO_RATE), Ranks(device=device), Execution(computing))
    most = min(micro_batch or recipe.batch, recipe.batch)
    count, taken = min(LEAST_IMAGES, most), 0.0
    while True:
        _step_seconds(step, count, device)  # left out: the first at a size takes memory and fills caches
        taken = _step_seconds(step, count, device)
        if count == most or taken >= ENOUGH_SECONDS:
            break
        count = min(most, 4 * count)
    each, update = taken / count, 0.0
    if 1 < count < recipe.batch:
        alone = _step_seconds(step, 1, device)
        each = max((taken - alone) / (count - 1), each / 10)  # noise must not make it nothing
        update = max(0.0, alone - each)
    whole = recipe.architecture(classes).multiply_adds()
    training = FORTH_AND_BACK * whole / each
    return NetRate(recipe.net, training, update, _testing_rate(net, recipe.scales[0], computing, device, training))


def _step_seconds(step: Step, count: int, device: torch.device) -> float:
    """Seconds of one iteration on made-up images."""
    images = made_up(count, step.net.crop)
    labels = torch.arange(count) % step.net.classes
    share = MiniBatch(images, labels, torch.zeros(count, 3), torch.arange(count))
    _finish(device)
    started = time.perf_counter()
    step(share, count)
    _finish(device)
    return time.perf_counter() - started


def _testing_rate(net: ConvNet, scale: int, computing: Computing, device: torch.device, training: float) -> float:
    """Multiply-adds a second of dense testing at a scale, on about as many images as take long enough."""
    each = 2 * dense_multiply_adds(net.architecture, scale, scale)  # with mirror images
    count = max(1, min(BATCH_PIXELS // scale**2, math.ceil(ENOUGH_SECONDS * training / each)))
    images = made_up(count, scale).to(device)
    with in_testing(net, device), torch.no_grad(), computing.autocast(device):
        for _ in range(2):  # the first is left out
            _finish(device)
            started = time.perf_counter()
            dense_posteriors(net, images)
            _finish(device)
            taken = time.perf_counter() - started
    return count * each / taken


def made_up(count: int, side: int) -> UInt8[Tensor, "count 3 side side"]:
    """Images of noise, in memory as those that are read."""
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return torch.from_numpy(noise).permute(0, 3, 1, 2)


def _finish(device: torch.device) -> None:
    """Wait for what was asked of a device that computes while the program goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def crop_reading(dataset: Dataset, recipe: Recipe) -> float:
    """Seconds that one process takes to read one training image, by some of them.

    Raises:
        ImageError: where one cannot be read.
    """
    images = TrainingImages(dataset, recipe, Colours(np.zeros(3), np.ones(3), np.eye(3)))
    return _seconds_each(dataset, lambda row: images.__getitems__([Address(0, row, row)]))


def pass_reading(dataset: Dataset, one: Pass, crop: int, rescaling: Rescaling = "bilinear") -> float:
    """Seconds that one process takes to read one photograph for a testing pass; as `crop_reading`."""
    images = TestImages(dataset, one, crop, rescaling)

    def read(row: int) -> object:
        batch = images.__getitems__([row])
        return batch.unreadable.get(row, batch)

    return _seconds_each(dataset, read)


def _seconds_each(dataset: Dataset, read: Callable[[int], object]) -> float:
    """Seconds to read a row, by rows from all over a data set: photographs of one class may be alike."""
    count, started = 0, time.perf_counter()
    for row in np.random.default_rng(0).permutation(len(dataset)).tolist():
        found = read(row)
        if isinstance(found, ImageError):
            raise found
        count += 1
        if time.perf_counter() - started > READING_SECONDS:
            break
    return (time.perf_counter() - started) / count
