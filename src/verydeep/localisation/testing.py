"""Appendix A: the two testing protocols. One crop and the true class, or the whole system on whole photographs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.evaluation.batches import Batch, TestImages, batches_of, read_batches, sizes_of
from verydeep.evaluation.metrics import Error
from verydeep.evaluation.posteriors import in_testing
from verydeep.evaluation.protocols import Pass, check_scales
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.boxes import boxes_of, clipped, rescaled
from verydeep.localisation.merging import THRESHOLD
from verydeep.localisation.metrics import is_hit
from verydeep.localisation.prediction import Located, Maps, located
from verydeep.localisation.regressor import outputs_named
from verydeep.network import ConvNet
from verydeep.photographs.rescaling import grid_offsets, rescaled_size
from verydeep.progress import Meter


@dataclass(frozen=True, eq=False)
class Regressor:
    """A box regressor, the classifier that rates its windows, and its test scales."""

    net: ConvNet
    classifier: ConvNet
    """Its crop is that of the regressor."""
    scales: tuple[int, ...]
    """Q in pixels."""

    def __post_init__(self) -> None:
        if self.net.crop != self.classifier.crop:
            raise UserError(
                f"the box regressor has a crop of {self.net.crop}, and the classifier one of "
                f"{self.classifier.crop}; windows must be of one size, so use nets of the same crop"
            )


@dataclass(frozen=True, eq=False)
class CentreCrops:
    """What a regressor says of the centre crops of photographs, for their true classes: protocol 1."""

    boxes: Float64[np.ndarray, "N 4"]
    """In pixels of each photograph, clipped to it."""
    outputs: Float64[np.ndarray, "N 4"]
    """The four outputs that they come from."""


def centre_crop_boxes(
    net: ConvNet, data: Annotated, scale: int, ranks: Ranks, computing: Computing
) -> CentreCrops:
    """Return the box that a regressor predicts for the true class from the centre crop: protocol 1.

    Args:
        net: the regressor.
        data: photographs with their classes.
        scale: test scale Q in pixels.
        ranks: of this process; each computes its share and gets all boxes.
        computing: precision, workers and progress.

    Returns:
        One box per photograph.

    Raises:
        UserError: if Q is below the crop, the net is not a box regressor, or it does not know a class.
        ImageError: if a photograph cannot be read.
    """
    named, dataset = outputs_named(net.card.names), data.dataset
    sizes = [(int(width), int(height)) for width, height in sizes_of(dataset)]
    found = np.zeros((2, len(dataset), 4))
    for batch in _batches(net, dataset, Pass("centre-crop", scale, flip=False), ranks, computing):
        with torch.no_grad(), computing.autocast(ranks.device):
            outputs = net(batch.together(ranks.device)).float().cpu().numpy().astype(np.float64)
        for row, output in zip(batch.rows, outputs, strict=True):
            at_scale = rescaled_size(*sizes[row], scale)
            left, top = (grid_offsets(side, net.crop, 1)[0] for side in at_scale)
            of_class = named.of_class(output[None], dataset.classes[dataset.labels[row]])
            box = boxes_of(of_class, np.array([[left, top]], np.float64), net.crop)
            found[0, row] = clipped(rescaled(box, at_scale, sizes[row]), *sizes[row])[0]
            found[1, row] = of_class[0]
    total: np.ndarray = ranks.total(torch.from_numpy(found)).cpu().numpy()
    return CentreCrops(total[0], total[1])


def box_error(boxes: Float64[np.ndarray, "N 4"], data: Annotated) -> Error:
    """Return the share of photographs whose box is wrong, for the true class."""
    right = sum(is_hit(box.tolist(), truth) for box, truth in zip(boxes, data.boxes, strict=True))
    return Error(len(data) - right, len(data))


def locate(
    regressors: Sequence[Regressor],
    dataset: Dataset,
    posteriors: Float32[np.ndarray, "N K"],
    computing: Computing,
    top: int = 5,
    threshold: float = THRESHOLD,
) -> list[list[Located]]:
    """Return the most likely classes of photographs and a box for each: protocol 2, the whole system.

    Each regressor and its classifier run densely on the whole photograph at each test scale. The boxes of all
    windows, scales and regressors are united before they are merged.

    Args:
        regressors: one or several, each with its classifier and its scales; the classifiers have the same classes.
        dataset: the photographs.
        posteriors: of these classes for the whole photographs: they choose and order the classes.
        computing: precision, workers and progress.
        top: number of classes per photograph.
        threshold: as for `merging.merged`.

    Returns:
        For each photograph its classes with their boxes, the most likely class first.

    Raises:
        UserError: if a scale is below the crop, or a regressor does not know a class.
        ImageError: if a photograph cannot be read.
    """
    sizes = sizes_of(dataset)
    best = np.argsort(-posteriors, axis=1, kind="stable")[:, :top]
    maps: list[list[Maps]] = [[] for _ in range(len(dataset))]
    for regressor in regressors:
        for scale in regressor.scales:
            _add_maps(maps, regressor, dataset, scale, sizes, best, computing)
    names = regressors[0].classifier.card.names
    return [
        _located(of, matrix, chosen, names, (int(size[0]), int(size[1])), threshold)
        for of, matrix, chosen, size in zip(maps, posteriors, best, sizes, strict=True)
    ]


def _located(
    maps: Sequence[Maps],
    posteriors: Float32[np.ndarray, " K"],
    chosen: Int64[np.ndarray, " top"],
    names: Sequence[str],
    size: tuple[int, int],
    threshold: float,
) -> list[Located]:
    """Locate the chosen classes, whose maps are the only ones that were kept."""
    few = [names[number] for number in chosen.tolist()]
    return located(maps, posteriors[chosen], few, size, len(few), threshold)


def _add_maps(
    maps: list[list[Maps]],
    regressor: Regressor,
    dataset: Dataset,
    scale: int,
    sizes: Int64[np.ndarray, "N 2"],
    best: Int64[np.ndarray, "N top"],
    computing: Computing,
) -> None:
    """Add the maps of all photographs at a scale. Of each, only those of its most likely classes are kept."""
    net, classifier = regressor.net, regressor.classifier
    named = outputs_named(net.card.names)
    ranks = Ranks(device=net.mean.device)
    with in_testing(classifier, ranks.device):
        for batch in _batches(net, dataset, Pass("dense", scale, flip=False), ranks, computing, sizes):
            pixels = batch.together(ranks.device)
            with torch.no_grad(), computing.autocast(ranks.device):
                outputs = net.score_map(pixels).float().cpu().numpy()
                cells = classifier.score_map(pixels).float().softmax(1).cpu().numpy()
            for row, output, cell in zip(batch.rows, outputs, cells, strict=True):
                chosen = best[row].tolist()
                names = tuple(classifier.card.names[number] for number in chosen)
                kept, few = output, named
                if named.classes:
                    flat = output.reshape(len(output), -1).T
                    parts = [named.of_class(flat, name).T for name in names]
                    kept, few = np.concatenate(parts).reshape(-1, *output.shape[1:]), type(named)(names)
                height, width = batch.sizes[0]
                maps[row].append(Maps((width, height), net.crop, kept.copy(), few, cell[chosen]))


def _batches(
    net: ConvNet,
    dataset: Dataset,
    one: Pass,
    ranks: Ranks,
    computing: Computing,
    sizes: Int64[np.ndarray, "N 2"] | None = None,
) -> Iterator[Batch]:
    """Yield this rank's mini-batches; meanwhile the net is in evaluation mode."""
    check_scales([one.scale], net.crop)
    rows = batches_of(dataset, one, net.crop, sizes)[ranks.rank :: ranks.world]
    images = TestImages(dataset, one, net.crop, net.card.rescaling)
    name = f"boxes of {net.configuration.name}, {one.method}, Q = {one.scale}"
    with (
        in_testing(net, ranks.device),
        computing.settings(ranks.device),
        read_batches(images, rows, computing.workers, ranks, sizes) as reading,
        Meter(name, sum(map(len, rows)), computing.progress and ranks.first, unit="images") as meter,
    ):
        for batch in reading:
            if batch.unreadable:
                raise next(iter(batch.unreadable.values()))
            yield batch
            meter.advance(len(batch.rows))
