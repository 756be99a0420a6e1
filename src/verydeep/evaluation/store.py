"""Matrices of posteriors on disk. Each is stored once, under a key that identifies what it was computed from."""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from verydeep.files import remove_abandoned, written_aside
from verydeep.sealed import Damaged, read_arrays, write_arrays

FORMAT = 1
"""Increased whenever matrices stored by earlier versions must not be used any more."""

ROUNDING = 1e-3
"""How far the sum of an image's posteriors may differ from 1."""


def key(*parts: object) -> str:
    """Return a name for a result that depends only on these parts. They are told apart by their `repr`."""
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:16]


def save(path: Path, arrays: dict[str, np.ndarray], within: Path | None = None) -> None:
    """Write arrays with a digest, completely or not at all.

    Args:
        path: the file.
        arrays: the arrays, by name.
        within: a folder that must exist; if it was removed it is not created again.

    Raises:
        UserError: if the file cannot be written, or `within` is gone.
    """
    with written_aside(path, within) as aside:
        write_arrays(aside, arrays)


def load(path: Path) -> dict[str, np.ndarray] | None:
    """Read arrays; return None if there is no such file, or it is damaged."""
    try:
        return read_arrays(path)
    except (OSError, Damaged):
        return None


def matrix(path: Path, rows: int, columns: int) -> Float32[np.ndarray, "N K"] | None:
    """Read a complete matrix of posteriors; return None if the file does not contain one of that size."""
    there = (load(path) or {}).get("posteriors")
    return there if there is not None and are_posteriors(there, rows, columns) else None


def part(path: Path, wanted: Collection[int], columns: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Read some rows of a matrix of posteriors.

    Args:
        path: the file.
        wanted: numbers of the rows to read.
        columns: number of classes.

    Returns:
        The numbers of those wanted rows that the file contains, each once, and their posteriors; None if the file
        does not contain rows of such a matrix.
    """
    there = load(path) or {}
    rows, posteriors = there.get("rows"), there.get("posteriors")
    if rows is None or posteriors is None or rows.dtype != np.int64 or rows.ndim != 1:
        return None
    if len(np.unique(rows)) < len(rows) or not are_posteriors(posteriors, len(rows), columns):
        return None
    of_use = np.isin(rows, list(wanted))
    return rows[of_use], posteriors[of_use]


def are_posteriors(values: np.ndarray, rows: int, columns: int) -> bool:
    """Return whether these are soft-max posteriors: float32 in [0, 1], each row with sum 1 up to rounding."""
    if values.dtype != np.float32 or values.shape != (rows, columns):
        return False
    # Comparisons are false for NaN.
    return bool((values >= 0).all() and (abs(values.sum(axis=1, dtype=np.float64) - 1) < ROUNDING).all())


def remove_leftovers(folder: Path, weights: Path | None) -> None:
    """Remove what killed tests have left: half-written files, and unfinished passes of weights replaced since.

    Args:
        folder: where the passes are stored.
        weights: the weight file of the run that they belong to; None for a folder of several nets.
    """
    remove_abandoned(folder, ".tmp??????")  # of safetensors, in earlier versions
    if weights is None:
        return
    with suppress(OSError):  # another process may be removing them, too
        of_weights = weights.stat().st_mtime
        for left in folder.glob("*.unfinished"):
            if left.stat().st_mtime < of_weights:
                left.unlink(missing_ok=True)
