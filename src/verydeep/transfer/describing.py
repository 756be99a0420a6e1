"""Appendix B: the vectors of a data set's photographs, by one net or several, with all descriptors stored."""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from verydeep.card import Card
from verydeep.computing import Computing
from verydeep.configurations import Architecture, whole_number
from verydeep.errors import UserError
from verydeep.evaluation import testing
from verydeep.evaluation.dense import nearest_covered
from verydeep.files import cache_folder, digest
from verydeep.interop.loading import load
from verydeep.linear import CLASSIFIER, Aggregation, Description
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.progress import say
from verydeep.transfer import store
from verydeep.transfer.data import TransferData
from verydeep.transfer.descriptors import Part, Subject, check_description, compute, penultimate
from verydeep.transfer.store import Box, identity
from verydeep.transfer.vectors import aggregated, stacked
from verydeep.weights import Content

SEVERAL_CLASSES, ONE_CLASS = (256, 384, 512, 640, 768), (256, 384, 512)
"""Q in the paper, for a crop of 224: of PASCAL VOC, averaged, and of Caltech-101 and 256, stacked."""

PAPER_CROP = 224

SAVE_SECONDS = 60.0
"""How often, in seconds, new descriptors are stored, so that a run can be resumed after an interruption."""


@dataclass(frozen=True, eq=False)
class Described:
    """The photographs of a data set as vectors."""

    data: TransferData
    """The data set, without photographs that could not be read."""
    vectors: Float32[np.ndarray, "N D"]
    """One per example, of length 1."""
    nets: tuple[str, ...]
    """The configuration of each net."""
    sources: tuple[str, ...]
    """The run or weight file of each net."""
    descriptions: tuple[Description, ...]
    """How each net describes a photograph."""
    boxes: bool = False
    """Whether the vectors of the people's boxes are stacked with those of the whole photographs."""

    @property
    def protocol(self) -> str:
        """How the vectors were made, in words."""
        pairs = (f"net {net}: {how}" for net, how in zip(self.nets, self.descriptions, strict=True))
        return " + ".join(pairs) + (", whole image and box" if self.boxes else "")


def describe(
    nets: nn.Module | str | os.PathLike[str] | Sequence[nn.Module | str | os.PathLike[str]],
    data: TransferData,
    *,
    scales: Sequence[int] | None = None,
    aggregation: Aggregation | None = None,
    boxes: bool = True,
    device: torch.device,
    computing: Computing,
    skip_unreadable: bool = False,
) -> Described:
    """Describe the photographs of a data set. Descriptors that are stored already are not computed again.

    They are stored in the run of a net, or in the user's cache folder. After an interruption, the same call
    resumes.

    Args:
        nets: a net, a run, or the path of a run or weight file, also of another system; or several of these, whose
            vectors are stacked.
        data: the data set.
        scales: test scales Q in pixels, of all nets; if None, the paper's for such data (`default_scales`).
        aggregation: over scales; if None, stack if each photograph has one class, otherwise average.
        boxes: whether to stack the vectors of the people's boxes, if the data set has any.
        device: where to compute.
        computing: precision, workers and progress.
        skip_unreadable: whether to leave out photographs that cannot be read, and name each on standard error.

    Raises:
        ImageError: a UserError that names the first photograph that cannot be read.
        UserError: if an argument is wrong, a net is given twice, or descriptors cannot be stored.
    """
    several = list(nets) if isinstance(nets, Sequence) and not isinstance(nets, str) else [nets]
    candidates = [testing.tested(net) for net in several]
    if not candidates:
        raise UserError("there is no net to transfer; pass at least one")
    for at, net in enumerate(candidates):
        if any(net.net is other.net and net.file == other.file for other in candidates[:at]):
            raise UserError(f"{net.source} is given twice; give each net once")
    descriptions = [description_for(net.card, data.single, scales, aggregation) for net in candidates]
    boxed = boxes and data.boxes is not None
    views = _views(data, boxed)
    with _folders(candidates, descriptions, computing) as folders:
        unreadable = _complete(candidates, descriptions, folders, views, device, computing, skip_unreadable)
        if unreadable:
            data = _readable(data, views, unreadable)
            views = _views(data, boxed)
        blocks = [
            partial(
                _block, views, view, description, [folders[at, scale] for scale in description.scales], net.card
            )
            for at, (net, description) in enumerate(zip(candidates, descriptions, strict=True))
            for view in range(1 + boxed)
        ]
        vectors = stacked(blocks)
    names = tuple(net.card.architecture.configuration for net in candidates)
    return Described(data, vectors, names, tuple(net.source for net in candidates), tuple(descriptions), boxed)


def description_for(
    card: Card, single: bool, scales: Sequence[int] | None = None, aggregation: Aggregation | None = None
) -> Description:
    """Return how a net describes photographs; arguments that are None are those of the paper.

    Args:
        card: of the net.
        single: whether each photograph has one class, as in Caltech-101.
        scales: test scales Q in pixels.
        aggregation: over the scales.

    Raises:
        UserError: if a scale is too small for the net or given twice, or the aggregation is unknown.
    """
    if scales is not None and (isinstance(scales, str) or not isinstance(scales, Sequence)):
        raise UserError(f"scales is {scales!r}; pass a list of test scales Q in pixels, such as [256, 384, 512]")
    own = default_scales(card.architecture, single) if scales is None else scales
    chosen = tuple(whole_number("a test scale Q", scale) for scale in own)
    how: Aggregation = aggregation if aggregation is not None else "stack" if single else "average"
    description = Description(penultimate(card), chosen, how)
    check_description(description, card)
    return description


def default_scales(architecture: Architecture, single: bool) -> tuple[int, ...]:
    """Return the paper's Q: 256, 384, 512 if each photograph has one class, otherwise also 640, 768.

    For a crop other than 224, they are the multiples of 32 nearest to the same proportion, each once.
    """
    crop = architecture.crop if architecture.classes else PAPER_CROP
    paper = ONE_CLASS if single else SEVERAL_CLASSES
    return tuple(dict.fromkeys(max(crop, nearest_covered(round(scale * crop / PAPER_CROP))) for scale in paper))


@dataclass(frozen=True, eq=False)
class _Views:
    """What is described: every photograph once, with the boxes of all people in it."""

    subjects: list[Subject]
    owners: list[int]
    """The subject of each example."""
    identities: list[list[bytes]]
    """For each view (whole, box), the identity of each example's."""


def _views(data: TransferData, boxed: bool) -> _Views:
    whole = [identity(photograph) for photograph in data.photographs]
    boxes: list[Box | None] = [None] * len(data)
    if boxed and data.boxes is not None:
        boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in data.boxes.tolist()]
    found: dict[bytes, list[int]] = {}
    for row, name in enumerate(whole):
        found.setdefault(name, []).append(row)
    owner = {name: at for at, name in enumerate(found)}
    subjects = [
        Subject(data.photographs[rows[0]], (None, *dict.fromkeys(boxes[row] for row in rows if boxes[row])))
        for rows in found.values()
    ]
    identities = [whole]
    if boxed:
        pairs = zip(data.photographs, boxes, strict=True)
        identities.append([identity(photograph, box) for photograph, box in pairs])
    return _Views(subjects, [owner[name] for name in whole], identities)


@contextmanager
def _folders(
    nets: Sequence[testing.Tested], descriptions: Sequence[Description], computing: Computing
) -> Iterator[dict[tuple[int, int], Path]]:
    """Yield the folder of each net and scale: in the run, in the user's cache, or else a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        found = {}
        for at, (net, description) in enumerate(zip(nets, descriptions, strict=True)):
            cache = cache_folder()
            root = net.run / "descriptors" if net.run else (cache or Path(temporary)) / "descriptors"
            weights = _digest(net)
            for scale in description.scales:
                folder = store.folder_of(root, weights, description.layer, scale, computing.precision)
                found[at, scale] = folder
        yield found


def _digest(net: testing.Tested) -> str:
    """Return what identifies the weights of a net: the digest of its file, or of its tensors and card."""
    if net.file is not None:
        return digest(net.file)
    assert net.net is not None
    content = Content.of(net.net)
    found = hashlib.sha256(content.header.encode())
    for name, array in sorted(content.arrays.items()):
        if not name.startswith(f"{CLASSIFIER}."):  # it takes descriptors, and does not change them
            found.update(name.encode() + np.ascontiguousarray(array).data)
    return found.hexdigest()


def _complete(
    nets: Sequence[testing.Tested],
    descriptions: Sequence[Description],
    folders: dict[tuple[int, int], Path],
    views: _Views,
    device: torch.device,
    computing: Computing,
    skip_unreadable: bool,
) -> dict[int, ImageError]:
    """Compute and store the descriptors that are missing; return the errors of unreadable subjects."""
    keys = [[identity(subject.photograph, box) for box in subject.boxes] for subject in views.subjects]
    there = {which: store.stored(folder) for which, folder in folders.items()}
    missing = [
        frozenset(
            Part(view, net, scale)
            for view, name in enumerate(names)
            for (net, scale), stored in there.items()
            if name not in stored
        )
        for names in keys
    ]
    if not any(missing):
        return {}
    loaded = [_loaded(net) for net in nets]
    unreadable: dict[int, ImageError] = {}
    with _Saving(folders) as saving:
        for found in compute(
            loaded,
            [description.layer for description in descriptions],
            views.subjects,
            missing,
            device,
            computing,
            unreadable if skip_unreadable else None,
        ):
            names = [keys[row][found.part.view] for row in found.subjects]
            saving.add((found.part.net, found.part.scale), names, found.descriptors)
    return unreadable


def _loaded(net: testing.Tested) -> ConvNet:
    return net.net if net.net is not None else load(net.source)


class _Saving:
    """Stores descriptors about once a minute, and at the end, even if an error or Ctrl-C has brought it about."""

    def __init__(self, folders: dict[tuple[int, int], Path]) -> None:
        self._folders = folders
        self._names: dict[tuple[int, int], list[bytes]] = {which: [] for which in folders}
        self._vectors: dict[tuple[int, int], list[np.ndarray]] = {which: [] for which in folders}
        self._files: dict[tuple[int, int], list[Path]] = {which: [] for which in folders}
        self._saved = time.monotonic()

    def __enter__(self) -> "_Saving":
        return self

    def __exit__(self, *_: Any) -> None:
        self._save()
        for which, files in self._files.items():
            store.merge(self._folders[which], files)

    def add(self, which: tuple[int, int], names: Sequence[bytes], vectors: Float32[np.ndarray, "n D"]) -> None:
        """Take descriptors of a net and scale."""
        self._names[which] += names
        self._vectors[which].append(vectors)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        for which, names in self._names.items():
            if names:
                self._files[which].append(
                    store.add(self._folders[which], names, np.concatenate(self._vectors[which]))
                )
                self._names[which], self._vectors[which] = [], []
        self._saved = time.monotonic()


def _readable(data: TransferData, views: _Views, unreadable: dict[int, ImageError]) -> TransferData:
    """Return the data set without unreadable photographs, and name each."""
    for error in unreadable.values():
        say(f"left out: {error}")
    lost = [row for row, subject in enumerate(views.owners) if subject in unreadable]
    return data.without(lost)


def _block(
    views: _Views, view: int, description: Description, folders: Sequence[Path], card: Card
) -> Float32[np.ndarray, "N D"]:
    """Return the aggregated vectors of one net and view."""
    length = Description(description.layer, description.scales[:1], "average").length(card.architecture)
    try:
        scales = (store.read(folder, views.identities[view], length) for folder in folders)
        return aggregated(scales, description.aggregation)
    except KeyError as error:
        raise UserError(f"{error.args[0]} while they were in use; start again") from error
