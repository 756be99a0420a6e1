"""Many paths in little memory."""

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
from jaxtyping import Int64, Integer


@dataclass(frozen=True, eq=False)
class Paths(Sequence[Path]):
    """Paths below a folder, each created on access.

    A million `Path`s take 355 MB, and the same again in each worker, because counting references copies their
    memory. Here they are one text and two arrays: 50 MB, which all processes share.
    """

    folder: Path
    text: bytes
    """All names below the folder, concatenated, as the file system spells them."""
    begins: Int64[np.ndarray, " N"]
    """Offset in the text at which each name begins."""
    ends: Int64[np.ndarray, " N"]

    @classmethod
    def below(cls, folder: Path, names: Iterable[str]) -> "Paths":
        """Return the paths of names below a folder, in order."""
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        bounds = np.array(ends, np.int64)
        return cls(folder, bytes(text), bounds[:-1], bounds[1:])

    def take(self, rows: Integer[np.ndarray, " M"] | slice) -> "Paths":
        """Return some of the paths, in the order of `rows`."""
        return Paths(self.folder, self.text, self.begins[rows], self.ends[rows])

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> "Paths": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "Path | Paths":
        if isinstance(index, slice):
            return self.take(index)
        return self.folder / os.fsdecode(self.text[self.begins[index] : self.ends[index]])
