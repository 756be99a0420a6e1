"""Mini-batches of testing: how many images share one, and how photographs become pixels on the device."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from verydeep.card import Rescaling
from verydeep.configurations import Architecture
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks, local_ranks
from verydeep.evaluation.multicrop import grid_places, window_count
from verydeep.evaluation.protocols import Pass
from verydeep.photographs.photograph import ImageError, photograph_size
from verydeep.photographs.rescaling import rescale, rescaled_size
from verydeep.progress import say
from verydeep.reading import fitting_workers, read_ahead

BATCH_PIXELS = 2**21
"""Pixels per mini-batch in testing: 41 crops of 224. The largest map of D then takes 512 MiB."""

GPU_BATCH_PIXELS = 2**23
"""The same on a CUDA GPU, which needs more images to keep all of it busy: 167 crops of 224."""

GPU_MEMORY_SHARE = 0.25
"""The share of a GPU's free memory that the maps of a mini-batch may take, beside cuDNN's workspace and copies."""

ELONGATION = 2
"""How many times as long as wide an image of unknown size is taken to be, to estimate its bytes."""


class Batch(NamedTuple):
    """The images of a mini-batch, as one piece of memory, which is sent at once."""

    rows: list[int]
    sizes: list[tuple[int, int]]
    """Height and width of each image, in pixels."""
    pixels: UInt8[Tensor, " bytes"]
    """Red, green and blue of all pixels, image by image and row by row."""
    unreadable: dict[int, ImageError]
    """Errors of the images of the mini-batch that cannot be read, by row."""

    def images(self, device: torch.device) -> list[UInt8[Tensor, "h w 3"]]:
        """Return the images on a device."""
        parts = torch.split(self._sent(device), [3 * height * width for height, width in self.sizes])
        return [part.view(*size, 3) for part, size in zip(parts, self.sizes, strict=True)]

    def together(self, device: torch.device) -> UInt8[Tensor, "n 3 h w"]:
        """Return the images, which must have one size, on a device; their memory is that of channels last."""
        return self._sent(device).view(len(self.rows), *self.sizes[0], 3).permute(0, 3, 1, 2)

    def _sent(self, device: torch.device) -> UInt8[Tensor, " bytes"]:
        """Return the pixels on a device; for CUDA they are in pinned memory, so that the program need not wait."""
        return self.pixels.to(device, non_blocking=device.type == "cuda")


@dataclass(frozen=True)
class TestImages(torch.utils.data.Dataset[Batch]):
    """Images rescaled to Q, which workers read: whole, or only their centre crop if that is the pass."""

    __test__ = False  # it is not a test class for pytest

    dataset: Dataset
    one: Pass
    crop: int
    rescaling: Rescaling

    def __getitems__(self, rows: list[int]) -> Batch:
        """Return the images of some rows. Errors are returned as values, since they have to leave the worker."""
        found: dict[int, np.ndarray] = {}
        unreadable: dict[int, ImageError] = {}
        for row in rows:
            try:
                found[row] = self._pixels(row)
            except ImageError as error:
                unreadable[row] = error
        sizes = [(image.shape[0], image.shape[1]) for image in found.values()]
        flat = np.concatenate([image.reshape(-1) for image in found.values()]) if found else np.empty(0, np.uint8)
        return Batch(list(found), sizes, torch.from_numpy(flat), unreadable)

    def _pixels(self, row: int) -> UInt8[np.ndarray, "h w 3"]:
        image = rescale(self.dataset.photographs[row], self.one.scale, self.rescaling)
        if self.one.method != "centre-crop":
            return image
        ((top, left),) = grid_places(image.shape[0], image.shape[1], self.crop, 1)
        return image[top : top + self.crop, left : left + self.crop]


def sizes_of(dataset: Dataset) -> Integer[np.ndarray, "N 2"]:
    """Return width and height of the photographs of a data set. Each of them is opened.

    Raises:
        ImageError: if an image cannot be read.
    """
    return np.array([photograph_size(photograph) for photograph in dataset.photographs], np.int64).reshape(-1, 2)


def batches_of(
    dataset: Dataset,
    one: Pass,
    crop: int,
    sizes: Integer[np.ndarray, "N 2"] | None = None,
    pixels: int | None = None,
) -> list[list[int]]:
    """Return the rows of each mini-batch, in order.

    Args:
        dataset: the images.
        one: the pass. In dense testing and for windows, the images of a mini-batch have one rescaled size.
        crop: side of the net's crop, in pixels.
        sizes: width and height of the images, if known.
        pixels: most pixels that pass through the net at once, from `batch_pixels`; if None, `BATCH_PIXELS`.
    """
    most = BATCH_PIXELS if pixels is None else pixels
    if one.method in ("dense", "windows"):
        known = sizes_of(dataset) if sizes is None else sizes
        rescaled = [rescaled_size(width, height, one.scale) for width, height in known.tolist()]
    else:
        rescaled = [(crop, crop * (one.grid**2 if one.method == "multi-crop" else 1))] * len(dataset)
    groups: dict[tuple[int, int], list[int]] = {}
    for row, size in enumerate(rescaled):
        groups.setdefault(size, []).append(row)
    counts = {size: max(1, most // (size[0] * size[1])) for size in groups}
    if one.method == "windows":
        counts = {size: max(1, most // (window_count(*size, crop) * crop**2 * (1 + one.flip))) for size in groups}
    return [
        rows[start : start + counts[size]]
        for size, rows in sorted(groups.items())
        for start in range(0, len(rows), counts[size])
    ]


def batch_pixels(net: Architecture, device: torch.device, half: bool = False) -> int:
    """Return how many pixels may pass through a net at once in testing.

    On a CUDA GPU that is `GPU_BATCH_PIXELS`, or fewer if their maps would take more than `GPU_MEMORY_SHARE` of the
    free memory; elsewhere it is `BATCH_PIXELS`. It affects results only by rounding.

    Args:
        net: the net.
        device: where it is computed.
        half: whether its maps are in half precision.
    """
    if device.type != "cuda":
        return BATCH_PIXELS
    room = int(GPU_MEMORY_SHARE * free_memory(device))
    return max(1, min(GPU_BATCH_PIXELS, room // bytes_per_pixel(net, 2 if half else 4)))


def bytes_per_pixel(net: Architecture, number: int) -> int:
    """Return the most memory that maps take at once in testing, in bytes per pixel of the input.

    That is at the layer whose input and output are largest together. The image itself is there as well: as bytes
    and, while it is centred, twice in float32.

    Args:
        net: the net.
        number: bytes of a number of a map.
    """
    largest, channels, area = 0, 3, 1
    for layer in net.layers:
        # At odd sides, what is left of a pixel is less than this.
        smaller = area * layer.stride**2 if layer.kind == "pool" else area
        largest = max(largest, -(-number * channels // area) + -(-number * layer.out_channels // smaller))
        channels, area = layer.out_channels, smaller
    return largest + 3 * (1 + 4 + 4)


def free_memory(device: torch.device) -> int:
    """Return how many bytes of a GPU's memory can still be taken: free ones, and those that torch holds unused."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def batch_bytes(
    batches: Sequence[Sequence[int]], one: Pass, crop: int, sizes: Integer[np.ndarray, "N 2"] | None
) -> int:
    """Return the bytes of the largest mini-batch as workers send it.

    Args:
        batches: from `batches_of`.
        one: the pass.
        crop: side of the net's crop, in pixels.
        sizes: width and height of the images, if known.
    """
    if one.method == "centre-crop" or sizes is None:
        each = crop**2 if one.method == "centre-crop" else ELONGATION * one.scale**2
        return 3 * each * max(map(len, batches), default=0)
    across, down = (sizes.astype(np.float64) * (one.scale / np.maximum(1, sizes.min(1)))[:, None]).T
    areas = across * down
    return 3 * int(max((areas[batch].sum() for batch in batches), default=0))


def read_batches(
    images: TestImages,
    batches: Sequence[list[int]],
    workers: int,
    ranks: Ranks,
    sizes: Integer[np.ndarray, "N 2"] | None = None,
) -> AbstractContextManager[Iterator[Batch]]:
    """Read mini-batches ahead; with fewer workers if shared memory is too small for so many, and a line says so.

    Args:
        images: the images.
        batches: from `batches_of`: those of this rank.
        workers: processes that prefetch; 0 to read on demand.
        ranks: of this process.
        sizes: width and height of the images, if known.
    """
    shared = local_ranks() * batch_bytes(batches, images.one, images.crop, sizes)
    fitting, line = fitting_workers(workers, shared)
    if line and ranks.local_rank == 0:
        say(line)
    return read_ahead(images, list(batches), fitting, ranks.device)
