"""Sect. 3.1, "Training image size" and the paragraph before it: random scale, crop, mirroring and colour shift.

Every draw depends only on the seed, the iteration and the position of the image in the global mini-batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks, generator, local_ranks
from verydeep.photographs.photograph import ImageError
from verydeep.photographs.rescaling import rescale_and_crop
from verydeep.reading import read_ahead
from verydeep.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Colours:
    """Colour statistics of a training set, RGB in 0..255."""

    mean: Float[np.ndarray, "3"]
    deviations: Float[np.ndarray, "3"]
    """Standard deviations of the RGB values along their principal components, largest first."""
    components: Float[np.ndarray, "3 3"]
    """The principal components as unit vectors, one per row."""


class Draw(NamedTuple):
    """Everything that is drawn for one image of one mini-batch."""

    scale: int
    """S, the smallest side of the rescaled image in pixels."""
    place: tuple[float, float]
    """Position of the crop, across and down, from 0 (the first) to 1 (beyond the last)."""
    mirror: bool
    shift: Float32[np.ndarray, "3"]
    """Added to all pixels, RGB in 0..255."""
    key: int
    """Determines the dropout masks of this image."""


Targets: TypeAlias = Callable[[Dataset, Int64[np.ndarray, " n"], Sequence[Draw]], np.ndarray]
"""Returns the targets of images (data set, rows) for the crops that were drawn, one per row. Workers pickle it."""


def labels(dataset: Dataset, rows: Int64[np.ndarray, " n"], _: Sequence[Draw]) -> Int64[np.ndarray, " n"]:
    """Return the classes of images: the targets of classification."""
    found: np.ndarray = dataset.labels[rows]
    return found


def draw(recipe: Recipe, colours: Colours, iteration: int, index: int) -> Draw:
    """Draw for the image at position `index` of the global mini-batch of an iteration.

    The colour shift is that of Krizhevsky et al. (2012): a Gaussian multiple of each principal component, whose
    standard deviation is `colour_shift` times that of the RGB values along it.
    """
    chance = generator(recipe.seed, "image", index, iteration)
    low, high = recipe.scales
    scale = int(chance.integers(low, high, endpoint=True))
    across, down = chance.random(2)
    mirror = bool(chance.random() < 0.5) and recipe.flip
    alphas = chance.normal(0.0, recipe.colour_shift, 3) if recipe.colour_shift else np.zeros(3)
    shift = ((alphas * colours.deviations) @ colours.components).astype(np.float32)
    return Draw(scale, (float(across), float(down)), mirror, shift, int(chance.integers(2**63)))


class MiniBatch(NamedTuple):
    """One rank's share of a mini-batch."""

    images: UInt8[Tensor, "n 3 crop crop"]
    targets: Tensor
    """What the net is trained to output for each: its class, int64 (n,), or what else the objective says."""
    shifts: Float[Tensor, "n 3"]
    keys: Int64[Tensor, " n"]

    def part(self, part: slice) -> "MiniBatch":
        """Return some of its images."""
        return MiniBatch(*(tensor[part] for tensor in self))


class Address(NamedTuple):
    """Which image is at which position of which mini-batch."""

    iteration: int
    position: int
    image: int


@dataclass(frozen=True)
class TrainingImages(torch.utils.data.Dataset[MiniBatch | ImageError]):
    """Crops by their address; read by the workers of a DataLoader."""

    dataset: Dataset
    recipe: Recipe
    colours: Colours
    targets: Targets

    def __getitems__(self, addresses: list[Address]) -> MiniBatch | ImageError:
        """Return the crops of all addresses, or the first error, which is raised outside the worker."""
        crop, count = self.recipe.crop, len(addresses)
        images = np.empty((count, crop, crop, 3), np.uint8)
        shifts = np.empty((count, 3), np.float32)
        keys = np.empty(count, np.int64)
        draws = [draw(self.recipe, self.colours, each.iteration, each.position) for each in addresses]
        for row, (address, drawn) in enumerate(zip(addresses, draws, strict=True)):
            photograph = self.dataset.photographs[address.image]
            try:
                images[row] = rescale_and_crop(
                    photograph, drawn.scale, crop, drawn.place, drawn.mirror, self.recipe.rescaling
                )
            except ImageError as error:
                return error
            shifts[row], keys[row] = drawn.shift, drawn.key
        targets = self.targets(self.dataset, np.array([each.image for each in addresses], np.int64), draws)
        # No pixel moves: this is torch's channels_last.
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return MiniBatch(pixels, *(torch.from_numpy(array) for array in (targets, shifts, keys)))


@dataclass(frozen=True)
class Order:
    """The mini-batches from iteration `start` to `end`; each epoch has every image once, in a new order."""

    images: int
    batch: int
    seed: int
    ranks: Ranks
    start: int
    end: int

    def __iter__(self) -> Iterator[list[Address]]:
        """Yield this rank's share of each mini-batch."""
        epoch, order = -1, np.empty(0, np.int64)
        for iteration in range(self.start, self.end):
            if iteration // self.per_epoch != epoch:
                epoch = iteration // self.per_epoch
                order = generator(self.seed, "order", epoch).permutation(self.images)
            first = iteration % self.per_epoch * self.batch
            chosen = order[first : first + self.batch]
            yield [Address(iteration, i, int(chosen[i])) for i in self.ranks.share(len(chosen))]

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def per_epoch(self) -> int:
        """Mini-batches per epoch; the last one may be smaller."""
        return -(-self.images // self.batch)

    def size(self, iteration: int) -> int:
        """Return the number of images of a mini-batch, over all ranks."""
        return min(self.batch, self.images - iteration % self.per_epoch * self.batch)


def reading(
    dataset: Dataset,
    recipe: Recipe,
    colours: Colours,
    targets: Targets,
    order: Order,
    workers: int,
    device: torch.device,
) -> AbstractContextManager[Iterator[MiniBatch | ImageError]]:
    """Read the shares that `order` lists: prefetched by `workers` processes, or on demand if there are none."""
    images = TrainingImages(dataset, recipe, colours, targets)
    return read_ahead(images, order, workers, device, shared_bytes(recipe, len(dataset), order.ranks.world))


def shared_bytes(recipe: Recipe, images: int, world: int) -> int:
    """Return the bytes of shared memory that a prefetched mini-batch takes, over the ranks of this machine."""
    share = -(-min(recipe.batch, images) // world)
    return local_ranks() * share * 3 * recipe.crop**2
