"""Appendix A: what a box regressor is trained to output, and its Euclidean loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from verydeep.datasets.dataset import Dataset
from verydeep.evaluation.batches import sizes_of
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.boxes import area, clipped, cropped, mirrored, regression_targets, rescaled
from verydeep.localisation.metrics import HIT
from verydeep.localisation.regressor import Outputs
from verydeep.photographs.rescaling import rescaled_size
from verydeep.training.augmentation import Draw
from verydeep.training.objective import Losses, Objective

LEAST_VISIBLE = 0.5
"""A crop has lost its object if it shows less than this share of the object's area, or of its own if that is
smaller. Such a crop has no loss: dense testing has other windows for an object that it hardly sees (as in Sermanet
et al., Sect. 4.2)."""

CLASS, WEIGHT = 0, 1
"""Columns of the targets before the four coordinates."""


@dataclass(frozen=True, eq=False)
class BoxTargets:
    """Boxes as targets, for the crop that was drawn of each image."""

    boxes: tuple[Float[np.ndarray, "_ 4"], ...]
    """Of each image, in its pixels."""
    sizes: Int64[np.ndarray, "N 2"]
    """Width and height of the images."""
    crop: int

    def __call__(
        self, dataset: Dataset, rows: Int64[np.ndarray, " n"], draws: Sequence[Draw]
    ) -> Float32[np.ndarray, "n 6"]:
        """Return for each image: its class, the weight of its loss, and the targets of `regression_targets`.

        Of several boxes, the target is the one that the crop shows most of.
        """
        found = np.zeros((len(rows), 6), np.float32)
        for target, row, drawn in zip(found, rows.tolist(), draws, strict=True):
            width, height = (int(side) for side in self.sizes[row])
            across, down = rescaled_size(width, height, drawn.scale)
            left, top = (
                math.floor(place * (side - self.crop + 1))
                for place, side in zip(drawn.place, (across, down), strict=True)
            )
            boxes = cropped(rescaled(self.boxes[row], (width, height), (across, down)), left, top)
            if drawn.mirror:
                boxes = mirrored(boxes, self.crop)
            seen = area(clipped(boxes, self.crop, self.crop))
            best = int(np.argmax(seen))
            whole = min(float(area(boxes)[best]), float(self.crop**2))
            target[CLASS] = dataset.labels[row]
            target[WEIGHT] = seen[best] >= LEAST_VISIBLE * whole
            target[2:] = regression_targets(boxes[[best]], self.crop)[0]
        return found


@dataclass(frozen=True)
class EuclideanLoss:
    """Half the squared Euclidean distance of the box of the true class from its target (Appendix A)."""

    per_class: bool
    """Whether the net has a box per class (PCR)."""

    def __call__(self, outputs: Float[Tensor, "n outputs"], targets: Float[Tensor, "n 6"]) -> Losses:
        """Return the losses; an image is wrong if its box overlaps the target by half or less.

        Images whose crop has lost the object cost nothing and are not wrong.
        """
        classes, weight, boxes = targets[:, CLASS].long(), targets[:, WEIGHT], targets[:, 2:]
        if self.per_class:
            columns = 4 * classes[:, None] + torch.arange(4, device=outputs.device)
            outputs = outputs.gather(1, columns)
        loss = (weight * (outputs - boxes).square().sum(1)).sum() / 2
        missed = box_overlap(outputs.detach(), boxes) <= HIT
        return Losses(loss, (missed & (weight > 0)).sum())


def box_overlap(outputs: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Return intersection over union of boxes given by centre, width and height, pair by pair, in [0, 1]."""
    half, target_half = (each[:, 2:].clamp(min=0) / 2 for each in (outputs, targets))
    begin = torch.maximum(outputs[:, :2] - half, targets[:, :2] - target_half)
    end = torch.minimum(outputs[:, :2] + half, targets[:, :2] + target_half)
    shared = (end - begin).clamp(min=0).prod(1)
    union = 4 * (half.prod(1) + target_half.prod(1)) - shared
    found: Tensor = shared / union.clamp(min=torch.finfo(union.dtype).tiny)
    return found


def box_regression(data: Annotated, named: Outputs, crop: int) -> Objective:
    """Return the objective of a box regressor.

    Args:
        data: the training set.
        named: the outputs: SCR or PCR.
        crop: side of the training crop in pixels.
    """
    targets = BoxTargets(data.boxes, sizes_of(data.dataset).astype(np.int64), crop)
    return Objective(named.names, targets, EuclideanLoss(bool(named.classes)), chance=0.0)
