"""Sect. 3.2, 4.2 to 4.4: a testing pass computes a matrix of posteriors; results are means of these matrices."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Integer, UInt8
from torch import nn

from verydeep.card import Card, Rescaling
from verydeep.computing import Computing
from verydeep.configurations import whole_number
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import store
from verydeep.evaluation.dense import dense_posteriors, nearest_covered
from verydeep.evaluation.multicrop import (
    GRID,
    crop_posteriors,
    grid_crops,
    window_count,
    window_posteriors,
    windows,
)
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError, photograph_size
from verydeep.photographs.rescaling import rescale, rescaled_size
from verydeep.progress import Meter
from verydeep.reading import read_ahead
from verydeep.recipe import paper_scale
from verydeep.weights import convolutional_net

Method = Literal["dense", "multi-crop", "centre-crop", "windows"]

PROTOCOLS: dict[str, tuple[Method, ...]] = {
    "dense": ("dense",),
    "multi-crop": ("multi-crop",),
    "both": ("dense", "multi-crop"),
    "centre-crop": ("centre-crop",),
    "windows": ("windows",),
}
"""The kinds of pass that each method averages. "both" is dense and multi-crop (Sect. 4.3). "centre-crop" is one
crop per image. "windows" cuts out the crops that the cells of a score map see, and tests each by itself."""

BATCH_PIXELS = 2**21
"""Pixels per mini-batch in testing: 41 crops of 224. The largest map of D then takes 512 MiB."""

SAVE_SECONDS = 60.0
"""How often, in seconds, an unfinished pass is saved, so that it can be resumed after an interruption."""


@dataclass(frozen=True)
class Pass:
    """One testing pass over a data set."""

    method: Method
    scale: int
    """Test scale Q: the smallest side of the rescaled image, in pixels."""
    flip: bool = True
    """Whether the posteriors of an image and its mirror image are averaged."""
    grid: int = field(default=GRID, repr=False)
    """Crops along each side in multi-crop testing; 5 in the paper."""

    def __repr__(self) -> str:
        """Return a text that stored matrices are found by. For the paper's grid it is that of earlier versions."""
        grid = f", grid={self.grid}" if self.grid != GRID else ""
        return f"Pass(method={self.method!r}, scale={self.scale!r}, flip={self.flip!r}{grid})"


def passes(method: str, scales: Sequence[int], flip: bool = True, grid: int = GRID) -> tuple[Pass, ...]:
    """Return the passes that a protocol averages.

    Args:
        method: dense, multi-crop, both, centre-crop, or windows.
        scales: test scales Q in pixels.
        flip: whether to average each image with its mirror image.
        grid: crops along each side in multi-crop testing.

    Raises:
        UserError: if the method is unknown, there is no scale, a scale is given twice, or `scales` is not a list.
    """
    kinds = kinds_of(method)
    if not isinstance(scales, Sequence) or isinstance(scales, str):
        raise UserError(f"scales is {scales!r}; pass a list of test scales Q in pixels, such as [256, 384, 512]")
    scales = [whole_number("a test scale Q", scale) for scale in scales]
    if not scales or len(set(scales)) < len(scales):
        raise UserError(f"scales are {scales}; pass at least one test scale Q, each once")
    return tuple(
        Pass(kind, scale, flip, grid if kind == "multi-crop" else GRID) for kind in kinds for scale in scales
    )


def kinds_of(method: str) -> tuple[Method, ...]:
    """Return the kinds of pass that a protocol averages.

    Raises:
        UserError: if the method is unknown.
    """
    if not isinstance(method, str) or method not in PROTOCOLS:
        raise UserError(f"method is {method!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[method]


def check_scales(scales: Sequence[int], crop: int) -> None:
    """Refuse test scales below a net's crop, before any work is done.

    Raises:
        UserError: if there is one; names the smallest.
    """
    if min(scales) < crop:
        raise UserError(f"test scale Q is {min(scales)} pixels, below the net's crop; use at least {crop}")


def protocol(method: str, scales: Sequence[int], flip: bool) -> str:
    """Return the protocol that is printed with every error: method, test scales and mirror images."""
    mirror = "with mirror images" if flip else "no mirror images"
    return f"{'dense & multi-crop' if method == 'both' else method}, Q = {', '.join(map(str, scales))}, {mirror}"


def test_scale(card: Card, method: str = "dense") -> int:
    """Return the default test scale Q of a net, in pixels: S, or 0.5 (Smin + Smax) (Sect. 4.1).

    If the method uses score maps, Q is the nearest multiple of 32, so that no pixel of the smallest side is left
    out. All values of Q in the paper are multiples of 32. A net of unknown training scale is assumed to be trained
    at S = crop + 32.

    Raises:
        UserError: if the method is unknown.
    """
    scale = middle(*(card.training_scale or (paper_scale(card.architecture.crop),) * 2))
    return nearest_covered(scale) if {"dense", "windows"} & set(kinds_of(method)) else scale


def middle(low: int, high: int) -> int:
    """Return 0.5 (Smin + Smax), in whole pixels."""
    return (low + high) // 2


def posteriors(
    net: nn.Module,
    dataset: Dataset,
    scales: Sequence[int] | None = None,
    method: str = "dense",
    flip: bool | None = None,
    ranks: Ranks | None = None,
    computing: Computing | None = None,
) -> Float32[np.ndarray, "N K"]:
    """Return the soft-max posteriors of every image of a data set, averaged over test scales and methods.

    Args:
        net: the net. Its device and mode are restored afterwards.
        dataset: the images.
        scales: test scales Q in pixels (Sect. 4.2); if None, the net's default (`test_scale`).
        method: dense, multi-crop, both (Sect. 4.3), centre-crop or windows.
        flip: whether to average with the mirror images; if None, only if the net was trained with them, by its
            card.
        ranks: where to compute; if None, in this process, on the device of the net.
        computing: precision, workers and progress; if None, the defaults of `Computing`.

    Returns:
        The posteriors, one row per image.

    Raises:
        UserError: if a scale is below the crop, an argument has the wrong type, or `passes` refuses the protocol.
        ImageError: if an image cannot be read.
    """
    inner = convolutional_net(net)
    if not isinstance(dataset, Dataset):
        raise UserError(f"the data set is a {type(dataset).__name__}; pass what verydeep.open_dataset returns")
    scales = [test_scale(inner.card, method)] if scales is None else scales
    if not isinstance(ranks, Ranks | None) or not isinstance(computing, Computing | None):
        raise UserError(
            f"ranks and computing are {ranks!r} and {computing!r}; pass None, or a Ranks and a Computing"
        )
    planned = passes(method, scales, inner.card.flip if flip is None else flip)
    check_scales(scales, inner.crop)
    ranks = ranks or Ranks(device=inner.mean.device)
    # Read once for all scales, since each photograph's file has to be opened for it.
    sizes = sizes_of(dataset) if any(each.method in ("dense", "windows") for each in planned) else None
    return average(one_pass(inner, dataset, each, ranks, computing or Computing(), sizes) for each in planned)


@contextmanager
def in_testing(net: ConvNet, device: torch.device) -> Iterator[None]:
    """Move the net to a device and into evaluation mode, and restore its device and modes afterwards."""
    before, modes = net.mean.device, [(module, module.training) for module in net.modules()]
    net.to(device).eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        net.to(before)


def average(matrices: Iterable[Float32[np.ndarray, "N K"]]) -> Float32[np.ndarray, "N K"]:
    """Return the mean of matrices of posteriors over scales, methods or nets, all equally (Sect. 4.2 to 4.4).

    They are added one at a time, in double precision: a matrix of 50,000 images and 1000 classes takes 200 MB.
    """
    one_by_one = iter(matrices)
    total, count = next(one_by_one).astype(np.float64), 1
    for matrix in one_by_one:
        total += matrix
        count += 1
    return (total / count).astype(np.float32)


class Batch(NamedTuple):
    """The images of a mini-batch, which have the same rescaled size."""

    rows: list[int]
    pixels: UInt8[np.ndarray, "n M h w 3"]
    """M crops per image; in dense testing M = 1, the whole image."""
    unreadable: dict[int, ImageError]
    """Errors of the images of the mini-batch that cannot be read, by row."""


@dataclass(frozen=True)
class TestImages(torch.utils.data.Dataset[Batch]):
    """Images rescaled to Q, whole or cut into crops, which workers read."""

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
        pixels = np.stack(list(found.values())) if found else np.zeros((0, 1, 1, 1, 3), np.uint8)
        return Batch(list(found), pixels, unreadable)

    def _pixels(self, row: int) -> UInt8[np.ndarray, "M h w 3"]:
        image = rescale(self.dataset.photographs[row], self.one.scale, self.rescaling)
        match self.one.method:
            case "dense":
                return image[None]
            case "windows":
                return windows(image, self.crop, self.one.flip)
            case "multi-crop":
                return grid_crops(image, self.crop, self.one.grid)
            case "centre-crop":
                return grid_crops(image, self.crop, 1)


def one_pass(
    net: ConvNet,
    dataset: Dataset,
    one: Pass,
    ranks: Ranks,
    computing: Computing,
    sizes: Integer[np.ndarray, "N 2"] | None = None,
    unfinished: Path | None = None,
    within: Path | None = None,
    unreadable: dict[int, ImageError] | None = None,
) -> Float32[np.ndarray, "N K"]:
    """Test a net once over a data set. On any number of ranks, each image is counted exactly once.

    Photographs are rescaled like those that the net was trained on, according to its card.

    Args:
        net: the net.
        dataset: the images.
        one: how to test.
        ranks: of this process; each rank computes its share of the mini-batches and gets the whole matrix.
        computing: precision, workers and progress.
        sizes: width and height of the images, if known.
        unfinished: a file that stores the rows of this rank during the pass, and from which an interrupted pass
            resumes. If it cannot be written, a line says so and the pass continues. The caller removes it.
        within: a folder; the file is written only while this folder exists.
        unreadable: collects the errors of images that cannot be read, by row; their posteriors are 0. If None,
            the first error is raised.

    Returns:
        The posteriors, one row per image.

    Raises:
        UserError: if Q is below the crop, or the device cannot compute in this way.
        ImageError: if an image cannot be read and `unreadable` is None.
    """
    check_scales([one.scale], net.crop)
    batches = batches_of(dataset, one, net.crop, sizes)[ranks.rank :: ranks.world]
    ours = [row for batch in batches for row in batch]
    classes = net.classes
    matrix, done = np.zeros((len(dataset), classes), np.float32), np.zeros(len(dataset), np.int32)
    if unfinished is not None and (kept := store.part(unfinished, ours, classes)) is not None:
        rows, found_before = kept
        matrix[rows], done[rows] = found_before, 1
    left = ([row for row in batch if not done[row]] for batch in batches)
    rows_left = [rows for rows in left if rows]
    images = TestImages(dataset, one, net.crop, net.card.rescaling)
    name = f"testing {net.configuration.name}, {one.method}, Q = {one.scale}"
    with (
        in_testing(net, ranks.device),
        computing.settings(ranks.device),
        read_ahead(images, rows_left, computing.workers, ranks.device) as reading,
        Meter(name, len(ours), computing.progress and ranks.first, int(done.sum()), unit="images") as meter,
    ):
        saved = time.monotonic()
        for batch in reading:
            if batch.unreadable:
                if unreadable is None:
                    raise next(iter(batch.unreadable.values()))
                unreadable |= batch.unreadable
                done[list(batch.unreadable)] += 1
                meter.advance(len(batch.unreadable))
            if not batch.rows:
                continue
            pixels = torch.from_numpy(batch.pixels).to(ranks.device).permute(0, 1, 4, 2, 3)
            with torch.no_grad(), computing.autocast(ranks.device):
                match one.method:
                    case "dense":
                        found = dense_posteriors(net, pixels[:, 0], one.flip)
                    case "windows":
                        found = window_posteriors(net, pixels, one.flip)
                    case _:
                        found = crop_posteriors(net, pixels, one.flip)
            if found.shape[1] != classes:
                raise UserError(
                    f"the net gives {found.shape[1]} scores per image; its card says {classes} classes"
                )
            matrix[batch.rows] = found.cpu().numpy()
            done[batch.rows] += 1
            meter.advance(len(batch.rows))
            if unfinished is not None and time.monotonic() - saved > SAVE_SECONDS:
                rows = np.flatnonzero(done)
                try:
                    store.save(unfinished, {"rows": rows, "posteriors": matrix[rows]}, within)
                except UserError as error:
                    meter.say(f"{name}: {error}; if interrupted, this pass will start over")
                    unfinished = None
                saved = time.monotonic()
    matrix = ranks.total(torch.from_numpy(matrix)).cpu().numpy()
    counts = ranks.total(torch.from_numpy(done)).cpu().numpy()
    if not (counts == 1).all():
        raise RuntimeError(f"{(counts != 1).sum()} of {len(counts)} images were not counted exactly once")
    return matrix


def sizes_of(dataset: Dataset) -> Integer[np.ndarray, "N 2"]:
    """Return width and height of the photographs of a data set. Each of them is opened.

    Raises:
        ImageError: if an image cannot be read.
    """
    return np.array([photograph_size(photograph) for photograph in dataset.photographs], np.int64).reshape(-1, 2)


def batches_of(
    dataset: Dataset, one: Pass, crop: int, sizes: Integer[np.ndarray, "N 2"] | None = None
) -> list[list[int]]:
    """Return the rows of each mini-batch: images of equal rescaled size, up to `BATCH_PIXELS` pixels, in order."""
    if one.method in ("dense", "windows"):
        known = sizes_of(dataset) if sizes is None else sizes
        rescaled = [rescaled_size(width, height, one.scale) for width, height in known.tolist()]
    else:
        rescaled = [(crop, crop * (one.grid**2 if one.method == "multi-crop" else 1))] * len(dataset)
    groups: dict[tuple[int, int], list[int]] = {}
    for row, size in enumerate(rescaled):
        groups.setdefault(size, []).append(row)
    counts = {size: max(1, BATCH_PIXELS // (size[0] * size[1])) for size in groups}
    if one.method == "windows":
        counts = {
            size: max(1, BATCH_PIXELS // (window_count(*size, crop) * crop**2 * (1 + one.flip))) for size in groups
        }
    return [
        rows[start : start + counts[size]]
        for size, rows in sorted(groups.items())
        for start in range(0, len(rows), counts[size])
    ]
