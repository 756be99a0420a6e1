"""What a net is trained to output: class scores (Sect. 3.1) or, in the same loop, boxes (Appendix A)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from verydeep.datasets.dataset import Dataset
from verydeep.training.augmentation import Targets, labels


class Losses(NamedTuple):
    """What some images cost."""

    total: Tensor
    """Sum of their losses; the gradient is its."""
    wrong: Tensor
    """How many of them the net gets wrong."""


Loss: TypeAlias = Callable[[Tensor, Tensor], Losses]
"""Takes outputs (n, K) in float32, and the targets."""


@dataclass(frozen=True)
class Objective:
    """What a net is trained to output, and how that is measured."""

    outputs: tuple[str, ...]
    """Names of the outputs of fc8, in order."""
    targets: Targets
    loss: Loss
    chance: float
    """Mean loss of a net that guesses: if the loss stays there, the net does not learn. 0 if unknown."""


def classification(dataset: Dataset) -> Objective:
    """Return the paper's objective: multinomial logistic regression over the classes (Sect. 3.1)."""
    return Objective(dataset.classes, labels, cross_entropy, math.log(len(dataset.classes)))


def cross_entropy(scores: Float[Tensor, "n K"], classes: Int64[Tensor, " n"]) -> Losses:
    """Return the cross-entropies; an image is wrong if its class does not have the highest score."""
    wrong = (scores.detach().argmax(1) != classes).sum()
    return Losses(F.cross_entropy(scores, classes, reduction="sum"), wrong)
