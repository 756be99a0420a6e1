"""Matrices of posteriors on disk, each stored once under what it was made from."""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from verydeep.files import remove_abandoned, written_aside
from verydeep.sealed import Damaged, read_arrays, write_arrays

FORMAT = 1
"""Counted up whenever a matrix stored by an earlier version must not be taken for one of this version."""

ROUNDING = 1e-3
"""How far the sum of an image's posteriors may be from 1."""


def key(*parts: object) -> str:
    """Name for what follows from these parts, which must be printable."""
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:16]


def save(path: Path, arrays: dict[str, np.ndarray], within: Path | None = None) -> None:
    """Write arrays with a digest, whole or not at all.

    Args:
        path: the file.
        arrays: what to write.
        within: a folder that must be there, and is not made anew.

    Raises:
        UserError: if they cannot be written.
    """
    with written_aside(path, within) as aside:
        write_arrays(aside, arrays)


def load(path: Path) -> dict[str, np.ndarray] | None:
    """Read arrays; None if there are none, or they are not what was written."""
    try:
        return read_arrays(path)
    except (OSError, Damaged):
        return None


def matrix(path: Path, rows: int, columns: int) -> Float32[np.ndarray, "N K"] | None:
    """Read a whole matrix of posteriors; None if the file does not hold one of that size."""
    there = (load(path) or {}).get("posteriors")
    return there if there is not None and are_posteriors(there, rows, columns) else None


def part(path: Path, wanted: Collection[int], columns: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Read some rows of a matrix of posteriors.

    Args:
        path: the file.
        wanted: numbers of the rows that are of use.
        columns: classes.

    Returns:
        Numbers of rows, each once and wanted, and their posteriors; None if the file does not hold such.
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
    """Whether these are soft-max posteriors: float32 in [0, 1], each row with the sum 1, but for rounding."""
    if values.dtype != np.float32 or values.shape != (rows, columns):
        return False
    # Comparisons are false for NaN.
    return bool((values >= 0).all() and (abs(values.sum(axis=1, dtype=np.float64) - 1) < ROUNDING).all())


def remove_leftovers(folder: Path, weights: Path | None) -> None:
    """Remove what killed tests have left: half-written files, and unfinished passes of weights since replaced.

    Args:
        folder: where passes are stored.
        weights: the weight file of the run that they are of; None for a folder of several nets.
    """
    remove_abandoned(folder, ".tmp??????")  # safetensors', which earlier versions wrote with
    if weights is None:
        return
    with suppress(OSError):  # another process may remove them, too
        of_weights = weights.stat().st_mtime
        for left in folder.glob("*.unfinished"):
            if left.stat().st_mtime < of_weights:
                left.unlink(missing_ok=True)
