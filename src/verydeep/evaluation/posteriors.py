"""Sect. 3.2, 4.2 to 4.4: a testing pass computes a matrix of posteriors; results are means of these matrices."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer
from torch import Tensor, nn

from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation import store
from verydeep.evaluation.batches import (
    Batch,
    TestImages,
    batch_pixels,
    batches_of,
    read_batches,
    sizes_of,
)
from verydeep.evaluation.dense import dense_posteriors
from verydeep.evaluation.half import half_weights
from verydeep.evaluation.multicrop import crop_posteriors, grid_crops, window_posteriors, windows
from verydeep.evaluation.protocols import Pass, check_scales, passes, test_scale
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.progress import Meter
from verydeep.weights import convolutional_net

SAVE_SECONDS = 60.0
"""How often, in seconds, an unfinished pass is saved, so that it can be resumed after an interruption."""


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


FIXED_SHAPES = ("multi-crop", "centre-crop")
"""Methods in which all mini-batches but the last have one shape."""

MANY_BATCHES = 32
"""From this many mini-batches of one shape on, cuDNN may look for its fastest algorithms."""


@dataclass
class Rows:
    """The rows of a matrix of posteriors that are known, some of them still on the device that computes them."""

    matrix: Float32[np.ndarray, "N K"]
    done: Integer[np.ndarray, " N"]
    """How many times each row was computed."""
    late: bool
    """Whether rows stay on the device until they are needed, so that the program does not wait for it."""
    _there: list[tuple[list[int], Tensor]] = field(default_factory=list)

    def add(self, rows: list[int], found: Float[Tensor, "n K"]) -> None:
        """Add rows, which the device may still be computing."""
        self.done[rows] += 1
        self._there.append((rows, found))
        if not self.late:
            self.fetch()

    def fetch(self) -> None:
        """Wait for the device, and copy its rows into the matrix."""
        if self._there:
            rows = [row for rows, _ in self._there for row in rows]
            self.matrix[rows] = torch.cat([found for _, found in self._there]).cpu().numpy()
            self._there.clear()


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
    device, classes = ranks.device, net.classes
    # Ranks divide the same mini-batches, even if their GPUs have different memories.
    pixels = int(min(ranks.of_all(float(batch_pixels(net.architecture, device, computing.half is not None)))))
    batches = batches_of(dataset, one, net.crop, sizes, pixels)[ranks.rank :: ranks.world]
    ours = [row for batch in batches for row in batch]
    known = Rows(
        np.zeros((len(dataset), classes), np.float32), np.zeros(len(dataset), np.int32), device.type == "cuda"
    )
    if unfinished is not None and (kept := store.part(unfinished, ours, classes)) is not None:
        rows, found_before = kept
        known.matrix[rows], known.done[rows] = found_before, 1
    left = ([row for row in batch if not known.done[row]] for batch in batches)
    rows_left = [rows for rows in left if rows]
    images = TestImages(dataset, one, net.crop, net.card.rescaling)
    name = f"testing {net.configuration.name}, {one.method}, Q = {one.scale}"
    with (
        in_testing(net, device),
        half_weights(net, computing.half if device.type == "cuda" else None),
        computing.settings(device, one.method in FIXED_SHAPES and len(rows_left) >= MANY_BATCHES),
        read_batches(images, rows_left, computing.workers, ranks, sizes) as reading,
        Meter(name, len(ours), computing.progress and ranks.first, int(known.done.sum()), unit="images") as meter,
    ):
        saved = time.monotonic()
        for batch in reading:
            if batch.unreadable:
                if unreadable is None:
                    raise next(iter(batch.unreadable.values()))
                unreadable |= batch.unreadable
                known.done[list(batch.unreadable)] += 1
                meter.advance(len(batch.unreadable))
            if not batch.rows:
                continue
            with torch.no_grad(), computing.autocast(device):
                found = _computed(net, batch, one, device)
            if found.shape[1] != classes:
                raise UserError(
                    f"the net gives {found.shape[1]} scores per image; its card says {classes} classes"
                )
            known.add(batch.rows, found)
            meter.advance(len(batch.rows))
            if unfinished is not None and time.monotonic() - saved > SAVE_SECONDS:
                known.fetch()
                rows = np.flatnonzero(known.done)
                try:
                    store.save(unfinished, {"rows": rows, "posteriors": known.matrix[rows]}, within)
                except UserError as error:
                    meter.say(f"{name}: {error}; if interrupted, this pass will start over")
                    unfinished = None
                saved = time.monotonic()
        known.fetch()
    matrix = ranks.total(torch.from_numpy(known.matrix)).cpu().numpy()
    counts = ranks.total(torch.from_numpy(known.done)).cpu().numpy()
    if not (counts == 1).all():
        raise RuntimeError(f"{(counts != 1).sum()} of {len(counts)} images were not counted exactly once")
    return matrix


def _computed(net: ConvNet, batch: Batch, one: Pass, device: torch.device) -> Float[Tensor, "n K"]:
    """Return the posteriors of a mini-batch. Crops that overlap are cut on the device."""
    match one.method:
        case "dense":
            return dense_posteriors(net, batch.together(device), one.flip)
        case "centre-crop":
            return crop_posteriors(net, batch.together(device)[:, None], one.flip)
        case "multi-crop":
            crops = torch.stack([grid_crops(image, net.crop, one.grid) for image in batch.images(device)])
            return crop_posteriors(net, crops.permute(0, 1, 4, 2, 3), one.flip)
        case "windows":
            crops = torch.stack([windows(image, net.crop, one.flip) for image in batch.images(device)])
            return window_posteriors(net, crops.permute(0, 1, 4, 2, 3), one.flip)
