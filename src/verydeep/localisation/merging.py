"""Appendix A: the greedy merging of boxes, after Sermanet et al., OverFeat (2014), Sect. 4.3.

Each window of each test scale predicts a box per class. The two boxes that match best are replaced by their
average, again and again, until no two boxes match. A merged box is rated by the class scores of all windows that
went into it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from verydeep.localisation.boxes import Boxes, overlap

THRESHOLD = 0.6
"""Largest match score of two boxes that are merged; `match_scores` says what it measures. For boxes of equal size,
this is an intersection over union of about 0.6."""


@dataclass(frozen=True, eq=False)
class Merged:
    """Boxes after merging, the best rated first."""

    boxes: Boxes
    """The means of the boxes that went into each."""
    scores: Float[np.ndarray, " N"]
    """Sums of the scores of these boxes."""
    counts: Int64[np.ndarray, " N"]
    """The number of these boxes."""

    def __len__(self) -> int:
        return len(self.boxes)


def match_scores(boxes: Boxes, others: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Return how badly boxes match: 0 for equal boxes, growing as they move apart.

    Sermanet et al. use "the sum of the distance between centers of the two bounding boxes and the intersection
    area of the boxes", and merge the pair with the lowest sum. Taken literally, equal boxes would match badly.
    Here it is the distance between the centres, in units of the mean diagonal, plus the share of the union that is
    not in the intersection.
    """
    centres, other_centres = ((each[:, :2] + each[:, 2:]) / 2 for each in (boxes, others))
    diagonals, other_diagonals = (np.hypot(*(each[:, 2:] - each[:, :2]).T) for each in (boxes, others))
    distance = np.hypot(*(centres[:, None] - other_centres[None]).transpose(2, 0, 1))
    unit = (diagonals[:, None] + other_diagonals[None]) / 2
    apart = np.divide(distance, unit, out=np.where(distance > 0, np.inf, 0.0), where=unit > 0)
    found: np.ndarray = apart + 1 - overlap(boxes, others)
    return found


def merged(boxes: Boxes, scores: Float[np.ndarray, " N"], threshold: float = THRESHOLD) -> Merged:
    """Merge the boxes of one class over windows, scales and nets.

    Args:
        boxes: in pixels of the original image.
        scores: class score of the window that predicted each box; not negative, such as posteriors.
        threshold: largest match score of a pair that is merged.

    Returns:
        The merged boxes, ordered by their scores. The result does not depend on the order of the boxes, except for
        pairs that match equally well.
    """
    boxes, scores = np.array(boxes, np.float64), np.array(scores, np.float64)
    counts = np.ones(len(boxes), np.int64)
    alive = np.ones(len(boxes), bool)
    matches = match_scores(boxes, boxes)
    np.fill_diagonal(matches, np.inf)
    while alive.sum() > 1:
        first, second = np.unravel_index(np.argmin(matches), matches.shape)
        if matches[first, second] > threshold:
            break
        both = np.array([first, second])
        boxes[first] = np.average(boxes[both], axis=0, weights=counts[both])
        scores[first], counts[first] = scores[both].sum(), counts[both].sum()
        alive[second] = False
        matches[second], matches[:, second] = np.inf, np.inf
        others = np.flatnonzero(alive & (np.arange(len(boxes)) != first))
        matches[first, others] = matches[others, first] = match_scores(boxes[[first]], boxes[others])[0]
    kept = np.flatnonzero(alive)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return Merged(boxes[kept], scores[kept], counts[kept])
