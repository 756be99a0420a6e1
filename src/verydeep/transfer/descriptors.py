"""Appendix B: descriptors of photographs, from a net applied densely.

The last fully connected layer is dropped. The activations of the penultimate layer are averaged over their map,
and over the photograph and its mirror image. Each photograph is read and decoded once for all nets, scales and
boxes.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from verydeep.card import Card, Rescaling
from verydeep.computing import Computing
from verydeep.configurations import STRIDE
from verydeep.errors import UserError
from verydeep.evaluation.batches import BATCH_PIXELS
from verydeep.evaluation.posteriors import in_testing
from verydeep.linear import Description
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError, Photograph, decode, photograph_size
from verydeep.photographs.rescaling import rescale, rescaled_size
from verydeep.progress import Meter, track
from verydeep.reading import read_ahead
from verydeep.transfer.store import Box


def penultimate(card: Card) -> str:
    """Return the layer that describes a photograph: relu7, or pool5 for a feature net."""
    return "relu7" if card.architecture.classes else "pool5"


def check_description(description: Description, card: Card) -> None:
    """Refuse scales that are too small for a net, before any work is done.

    Raises:
        UserError: if there is one, or the net does not have the layer.
    """
    description.length(card.architecture)
    names = [layer.name for layer in card.architecture.layers]
    before = card.architecture.layers[: names.index(description.layer) + 1]
    least = card.architecture.crop if any(layer.fully_connected for layer in before) else STRIDE
    if min(description.scales) < least:
        raise UserError(
            f"test scale Q is {min(description.scales)} pixels; {description.layer} of this net "
            f"{card.architecture.configuration} needs at least {least}"
        )


def described(net: ConvNet, images: UInt8[Tensor, "N 3 H W"], layer: str) -> Float[Tensor, "N D"]:
    """Return the mean of a layer's output over the map, and over each image and its mirror image.

    Args:
        net: the net, in evaluation mode.
        images: raw RGB, all of the same size.
        layer: name of the layer.
    """
    both = torch.cat([images, images.flip(3)])
    means = net.features(both, [layer])[layer].float().mean((2, 3))
    return (means[: len(images)] + means[len(images) :]) / 2


class Subject(NamedTuple):
    """A photograph, and which parts of it to describe."""

    photograph: Photograph
    boxes: tuple[Box | None, ...] = (None,)
    """Boxes to describe; None for the whole photograph."""


class Part(NamedTuple):
    """One descriptor of a subject."""

    view: int
    """Position among the subject's boxes."""
    net: int
    """Position among the nets."""
    scale: int
    """Q in pixels."""


class Computed(NamedTuple):
    """One descriptor of several subjects."""

    part: Part
    subjects: list[int]
    descriptors: Float32[np.ndarray, "n D"]


def compute(
    nets: Sequence[ConvNet],
    layers: Sequence[str],
    subjects: Sequence[Subject],
    missing: Sequence[frozenset[Part]],
    device: torch.device,
    computing: Computing,
    unreadable: dict[int, ImageError] | None = None,
) -> Iterator[Computed]:
    """Compute the missing descriptors of photographs.

    Args:
        nets: the nets. Their devices and modes are restored afterwards.
        layers: the layer of each net.
        subjects: the photographs.
        missing: the parts to compute of each subject; nothing is read for a subject that misses none.
        device: where to compute.
        computing: precision, workers and progress.
        unreadable: collects the errors of photographs that cannot be read, by subject. If None, the first is
            raised.

    Yields:
        Descriptors, as they are computed.

    Raises:
        ImageError: if a photograph cannot be read, or a box lies outside of it, and `unreadable` is None.
        UserError: if a descriptor is not finite.
    """
    rescalings = [net.card.rescaling for net in nets]
    batches, sizes_unreadable = _batches(subjects, missing, rescalings, computing.progress)
    for error in sizes_unreadable.values():
        if unreadable is None:
            raise error
    if unreadable is not None:
        unreadable |= sizes_unreadable
    total = sum(len(batch) for batch in batches)
    reader = _Views(subjects, missing, rescalings)
    names = " and ".join(dict.fromkeys(net.configuration.name for net in nets))
    with ExitStack() as stack:
        for net in nets:
            stack.enter_context(in_testing(net, device))
        stack.enter_context(computing.settings(device))
        reading = stack.enter_context(read_ahead(reader, batches, computing.workers, device))
        meter = stack.enter_context(Meter(f"descriptors by {names}", total, computing.progress, unit="images"))
        for batch in reading:
            if batch.unreadable:
                if unreadable is None:
                    raise next(iter(batch.unreadable.values()))
                unreadable |= batch.unreadable
            for part in sorted(missing[batch.subjects[0]]) if batch.subjects else ():
                pixels = batch.pixels[part.view, part.scale, rescalings[part.net]]
                images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
                with torch.no_grad(), computing.autocast(device):
                    found = described(nets[part.net], images, layers[part.net]).cpu().numpy()
                if not np.isfinite(found).all():
                    raise UserError(
                        f"descriptors of net {nets[part.net].configuration.name} are not finite; use precision "
                        "fp32 or bf16 (fp16 overflows at 65504)"
                    )
                yield Computed(part, batch.subjects, found)
            meter.advance(len(batch.subjects) + len(batch.unreadable))


class _Batch(NamedTuple):
    """Subjects whose views have the same sizes and lack the same parts."""

    subjects: list[int]
    pixels: dict[tuple[int, int, Rescaling], UInt8[np.ndarray, "n h w 3"]]
    """By view, scale and filter."""
    unreadable: dict[int, ImageError]


@dataclass(frozen=True)
class _Views(torch.utils.data.Dataset[_Batch]):
    """The views of photographs, rescaled to all scales, which workers read."""

    subjects: Sequence[Subject]
    missing: Sequence[frozenset[Part]]
    rescalings: Sequence[Rescaling]

    def __getitems__(self, rows: list[int]) -> _Batch:
        """Return the views of some subjects. Errors are values here, since they have to leave the worker."""
        wanted = _pictures(self.missing[rows[0]], self.rescalings)
        found: dict[int, list[np.ndarray]] = {}
        unreadable: dict[int, ImageError] = {}
        for row in rows:
            try:
                found[row] = self._views(self.subjects[row], wanted)
            except ImageError as error:
                unreadable[row] = error
        stacked = zip(wanted, zip(*found.values(), strict=True), strict=True) if found else ()
        return _Batch(list(found), {name: np.stack(views) for name, views in stacked}, unreadable)

    def _views(self, subject: Subject, wanted: Sequence[tuple[int, int, Rescaling]]) -> list[np.ndarray]:
        # Whole, and not at a scale of the JPEG's cosine transform: the descriptor at one scale must not depend on
        # the other scales that are computed along with it.
        pixels = decode(subject.photograph)
        found = []
        for view, scale, rescaling in wanted:
            box = _inside(subject.photograph, subject.boxes[view], pixels.shape[1], pixels.shape[0])
            part = pixels if box is None else np.ascontiguousarray(pixels[box[1] : box[3], box[0] : box[2]])
            try:
                found.append(rescale(part, scale, rescaling))
            except ImageError as error:
                raise _named(subject.photograph, error.reason) from error
        return found


def _pictures(parts: frozenset[Part], rescalings: Sequence[Rescaling]) -> list[tuple[int, int, Rescaling]]:
    """Return what has to be read for some parts, in a fixed order: view, scale and filter."""
    return sorted({(part.view, part.scale, rescalings[part.net]) for part in parts})


def _batches(
    subjects: Sequence[Subject],
    missing: Sequence[frozenset[Part]],
    rescalings: Sequence[Rescaling],
    progress: bool,
) -> tuple[list[list[int]], dict[int, ImageError]]:
    """Group subjects that lack the same parts and have the same sizes at all scales; return errors separately."""
    groups: dict[tuple[object, ...], list[int]] = {}
    pixels: dict[tuple[object, ...], int] = {}
    unreadable: dict[int, ImageError] = {}
    needed = [row for row, parts in enumerate(missing) if parts]
    for row in track(needed, "opening photographs", len(needed), progress):
        subject = subjects[row]
        try:
            width, height = photograph_size(subject.photograph)
            sizes = []
            for view, scale, _ in _pictures(missing[row], rescalings):
                box = _inside(subject.photograph, subject.boxes[view], width, height)
                own = (width, height) if box is None else (box[2] - box[0], box[3] - box[1])
                sizes.append(rescaled_size(*own, scale))
        except ImageError as error:
            unreadable[row] = error
            continue
        key: tuple[object, ...] = (missing[row], *sizes)
        groups.setdefault(key, []).append(row)
        pixels[key] = 2 * max(across * down for across, down in sizes)  # with the mirror image
    batches = []
    for group, rows in groups.items():
        count = max(1, BATCH_PIXELS // pixels[group])
        batches += [rows[start : start + count] for start in range(0, len(rows), count)]
    return sorted(batches), unreadable


def _inside(photograph: Photograph, box: Box | None, width: int, height: int) -> Box | None:
    """Return the part of a box that lies in its photograph."""
    if box is None:
        return None
    x0, y0, x1, y1 = box[0], box[1], min(box[2], width), min(box[3], height)
    if x0 >= x1 or y0 >= y1:
        raise _named(photograph, f"the box {box} lies outside of its {width} x {height} pixels")
    return x0, y0, x1, y1


def _named(photograph: Photograph, reason: str) -> ImageError:
    return ImageError(None if isinstance(photograph, np.ndarray) else photograph, reason)
