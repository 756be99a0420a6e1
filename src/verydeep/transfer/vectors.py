"""Appendix B: the vector that the linear classifier takes, from the descriptors of all nets, scales and boxes."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float32

from verydeep.linear import Aggregation


def normalised(vectors: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    """Return vectors scaled to a Euclidean length of 1; a vector of zeros stays as it is."""
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    found: Float32[np.ndarray, "N D"] = vectors / np.where(length > 0, length, 1)[:, None].astype(np.float32)
    return found


def aggregated(scales: Iterable[Float32[np.ndarray, "N D"]], how: Aggregation) -> Float32[np.ndarray, "N E"]:
    """Return one vector per photograph from its descriptors at several scales.

    Each descriptor is normalised first, so that all scales count equally, and so is the result.
    """
    parts = map(normalised, scales)
    if how == "stack":
        return normalised(np.concatenate(list(parts), axis=1))
    total = next(iter(parts)).copy()
    for part in parts:  # one at a time: at five scales, descriptors of a large data set take gigabytes
        total += part
    return normalised(total)


def stacked(blocks: Sequence[Callable[[], Float32[np.ndarray, "N D"]]]) -> Float32[np.ndarray, "N E"]:
    """Return the vectors of several nets or boxes, one after the other, with a length of 1.

    Args:
        blocks: functions that return the aggregated vectors of each; called one at a time.
    """
    return normalised(np.concatenate([block() for block in blocks], axis=1)) if len(blocks) > 1 else blocks[0]()
