"""Appendix B: linear support vector machines, one against the rest."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8

from verydeep.transfer.measures import Measure, by_class, mean
from verydeep.transfer.splits import held_out

COSTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""The values of C to choose from. The paper does not state its own."""

UNCHOSEN = 1.0
"""C if there are too few training images to hold some out."""

MOST_ROUNDS = 3000
"""Limit of liblinear's rounds over the training vectors; on vectors of length 1 it needs tens to hundreds."""


@dataclass(frozen=True, eq=False)
class Model:
    """One hyperplane per class."""

    weight: Float32[np.ndarray, "K D"]
    bias: Float32[np.ndarray, " K"]

    def scores(self, vectors: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N K"]:
        """Return the decision value of each class: positive on the side of the class."""
        found: Float32[np.ndarray, "N K"] = vectors @ self.weight.T + self.bias
        return found


@dataclass(frozen=True)
class Chosen:
    """C, and what it was chosen by."""

    cost: float
    held_out: tuple[float, ...]
    """The measure on the held-out fifth for each of `COSTS`; empty if nothing could be held out."""


def fitted(vectors: Float32[np.ndarray, "N D"], labels: Int8[np.ndarray, "N K"], cost: float) -> Model:
    """Train one support vector machine per class, on the photographs whose label for that class is not 0.

    Args:
        vectors: of length 1.
        labels: 1, -1 or 0 for each photograph and class.
        cost: C, the weight of the squared hinge loss; half the squared length of the normal has the weight 1.
    """
    from sklearn.svm import LinearSVC  # imported here: it takes a second

    weight = np.zeros((labels.shape[1], vectors.shape[1]), np.float32)
    bias = np.zeros(labels.shape[1], np.float32)
    for k, own in enumerate(labels.T):
        rows = np.flatnonzero(own)
        signs = np.unique(own[rows])
        if len(signs) < 2:  # nothing to separate
            bias[k] = signs[0] if len(signs) else -1
            continue
        machine = LinearSVC(C=cost, dual="auto", random_state=0, max_iter=MOST_ROUNDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # close enough when the limit is reached: C is chosen by measuring
            machine.fit(vectors[rows], own[rows])
        weight[k], bias[k] = machine.coef_[0], machine.intercept_[0]
    return Model(weight, bias)


def chosen(
    measure: Measure,
    vectors: Float32[np.ndarray, "N D"],
    labels: Int8[np.ndarray, "N K"],
    photographs: Sequence[Hashable],
    seed: int = 0,
) -> Chosen:
    """Choose C by the data set's measure on a held-out fifth of the training photographs.

    Of equally good values, the one in the middle is chosen.

    Args:
        measure: of the data set.
        vectors: of the training photographs.
        labels: of the training photographs.
        photographs: the photograph of each, or anything that is equal for examples of the same one.
        seed: of the draw of the fifth.
    """
    kept, held = held_out(labels, photographs, seed)
    if not (len(held) and (labels[held] == 1).any()):
        return Chosen(UNCHOSEN, ())
    found = [
        mean(by_class(measure, fitted(vectors[kept], labels[kept], cost).scores(vectors[held]), labels[held]))
        for cost in COSTS
    ]
    best = np.flatnonzero(np.array(found) == max(found))
    return Chosen(COSTS[int(best[(len(best) - 1) // 2])], tuple(found))
