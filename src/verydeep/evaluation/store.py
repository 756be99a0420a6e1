"""Matrices of posteriors on disk, each stored once under what it was made from."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from verydeep.files import written_aside

FORMAT = 1
"""Counted up whenever a matrix stored by an earlier version must not be taken for one of this version."""


def key(*parts: object) -> str:
    """Name for what follows from these parts, which must be printable."""
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:16]


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays, whole or not at all.

    Raises:
        UserError: where they cannot be written.
    """
    with written_aside(path) as aside:
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, aside)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def matrix(path: Path, rows: int, columns: int) -> Float32[np.ndarray, "N K"] | None:
    """Read a whole matrix of posteriors; None where the file holds none of that size and of finite values."""
    there = (load(path) or {}).get("posteriors")
    if there is None or there.shape != (rows, columns) or there.dtype != np.float32:
        return None
    return there if np.isfinite(there).all() else None


def load(path: Path) -> dict[str, np.ndarray] | None:
    """Read arrays; None where there are none, or none that are whole."""
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError):
        return None
