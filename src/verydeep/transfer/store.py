"""Descriptors on disk. Each is stored once, under a key of everything that it was computed from.

There is one folder per net, layer and scale. It holds files of descriptors with the identities of their
photographs, in any order: a run adds what is missing, and one that was killed keeps what it had added.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from verydeep.evaluation import store
from verydeep.files import remove_abandoned
from verydeep.photographs.photograph import Photograph

FORMAT = 1
"""Increased whenever descriptors stored by earlier versions must not be used any more."""

IDENTITY = 16
"""Bytes of an identity."""

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of a photograph, x1 and y1 excluded."""


def identity(photograph: Photograph, box: Box | None = None) -> bytes:
    """Return what a photograph, or a box in it, is stored under.

    It depends on the path, size and modification time of a file, or on the pixels in memory. No file is opened.
    """
    if isinstance(photograph, Path):
        path = os.path.abspath(photograph)
        try:
            found = os.stat(path)
            when = f"{found.st_size} {found.st_mtime_ns}"
        except OSError:
            when = "none"
        key = hashlib.sha256(b"path\0" + os.fsencode(path) + f"\0{when}\0{box}".encode())
    else:
        key = hashlib.sha256(f"pixels\0{photograph.shape}\0{box}\0".encode() + photograph.tobytes())
    return key.digest()[:IDENTITY]


def folder_of(root: Path, weights: str, layer: str, scale: int, precision: str) -> Path:
    """Return the folder of the descriptors of a net at a scale.

    Args:
        root: where a net's descriptors are stored.
        weights: digest of the net.
        layer: the layer that is averaged over its map and over the mirror image.
        scale: Q in pixels.
        precision: that the net computes in.
    """
    key = store.key("descriptors", FORMAT, weights, layer, scale, precision)
    return root / f"{layer}-Q{scale}-{key}"


def stored(folder: Path) -> set[bytes]:
    """Return the identities that have a descriptor in a folder. Damaged files are removed."""
    remove_abandoned(folder)
    found: set[bytes] = set()
    for file in _files(folder):
        if (there := _loaded(file)) is None:
            file.unlink(missing_ok=True)
        else:
            found.update(_identities(there["identities"]))
    return found


def read(folder: Path, wanted: Sequence[bytes], length: int) -> Float32[np.ndarray, "N D"]:
    """Return the descriptors of some identities, in order.

    Args:
        folder: from `folder_of`.
        wanted: identities that `stored` has returned, or that `add` has stored.
        length: number of values of a descriptor.

    Raises:
        KeyError: if one is not there, because somebody has removed it meanwhile.
    """
    rows: dict[bytes, list[int]] = {}
    for row, name in enumerate(wanted):
        rows.setdefault(name, []).append(row)
    found = np.zeros((len(wanted), length), np.float32)
    left = set(rows)
    for file in _files(folder):
        if (there := _loaded(file)) is None or there["descriptors"].shape[1] != length:
            continue
        for name, descriptor in zip(_identities(there["identities"]), there["descriptors"], strict=True):
            if name in rows:
                found[rows[name]] = descriptor
                left.discard(name)
    if left:
        raise KeyError(f"{folder} has lost {len(left)} descriptors")
    return found


def add(folder: Path, identities: Sequence[bytes], descriptors: Float32[np.ndarray, "n D"]) -> Path:
    """Store descriptors in a file of their own, completely or not at all, and return the file.

    Raises:
        UserError: if it cannot be written.
    """
    names = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, IDENTITY)
    file = folder / f"{hashlib.sha256(names.tobytes()).hexdigest()[:16]}.safetensors"
    store.save(file, {"identities": names, "descriptors": np.ascontiguousarray(descriptors, np.float32)})
    return file


def merge(folder: Path, files: Sequence[Path]) -> None:
    """Replace several files of a folder by one with all their descriptors."""
    there = [found for file in files if (found := _loaded(file)) is not None]
    if len(files) < 2 or len(there) < len(files):
        return
    identities = [name for found in there for name in _identities(found["identities"])]
    merged = add(folder, identities, np.concatenate([found["descriptors"] for found in there]))
    for file in files:
        if file != merged:
            file.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))


def _loaded(file: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of a file; None if it is damaged or something else."""
    there = store.load(file) or {}
    names, descriptors = there.get("identities"), there.get("descriptors")
    if names is None or descriptors is None or names.dtype != np.uint8 or descriptors.dtype != np.float32:
        return None
    if names.ndim != 2 or names.shape != (len(descriptors), IDENTITY) or descriptors.ndim != 2:
        return None
    return there


def _identities(names: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in names]
