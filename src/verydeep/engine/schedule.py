"""The order in which layers process the images of a mini-batch in testing: a program for the native code.

Computed layer by layer, the maps of a whole mini-batch would take new memory in each pass. So the layers up to a
pooling are computed for a few images at a time, and the layers after it start when there are enough of them: some
images up to pool1, more up to pool2, and so on. All maps but the last are in one workspace, which is reused
throughout.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from verydeep.engine import interface
from verydeep.engine.choice import Blocks, block_of_a_thread, blocks, direct, pairs
from verydeep.engine.interface import KINDS, PLACES

TOGETHER = 4 * 2**20
"""Largest size of a map, in floats, for all images that are computed together. From 2 M to 16 M a pass takes the
same time."""

KEPT = 20 * 2**20
"""Largest workspace, in floats, that is kept from pass to pass: enough for hundreds of images of 224 x 224."""

LINE = 16
"""Floats per cache line; each map begins on one."""


Kind = Literal["winograd", "direct", "pair", "whole"]


class Convolution(NamedTuple):
    """A layer: its channels, and the ReLU and pooling that follow it."""

    inputs: int
    outputs: int
    rectify: bool
    pool: bool
    whole: bool
    """Whether the kernel covers the whole input (a fully connected layer); otherwise it is 3x3 with padding 1."""


@dataclass(frozen=True)
class Place:
    """Where a map begins: the memory, and the offset in floats."""

    memory: Literal["input", "workspace", "output"]
    at: int


@dataclass(frozen=True)
class Stage:
    """A layer, or a fused pair of layers (`choice.pairs`), and the sizes of its maps."""

    kind: Kind
    layer: int
    """Number of the layer, or of the first layer of a pair."""
    inputs: int
    between: int
    """Channels of the map between the layers of a pair, otherwise 0."""
    outputs: int
    rectify: bool
    pool: bool
    height: int
    """Height of the input in pixels, and likewise `width`."""
    width: int

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the output in pixels."""
        if self.kind == "whole":
            return 1, 1
        return (self.height // 2, self.width // 2) if self.pool else (self.height, self.width)

    @property
    def size(self) -> int:
        """Floats of the output per image."""
        return self.outputs * self.sides[0] * self.sides[1]


@dataclass(frozen=True)
class Call:
    """A stage, computed for some of the images."""

    stage: Stage
    source: Place
    to: Place
    images: int
    cut: Blocks


@dataclass(frozen=True)
class Program:
    """Calls in order, and the size in floats of the workspace that they need."""

    calls: tuple[Call, ...]
    workspace: int

    @cached_property
    def table(self) -> ctypes.Array[interface.Call]:
        """The calls in the form that the native code reads."""
        return (interface.Call * len(self.calls))(*[_written(call) for call in self.calls])


def _written(call: Call) -> interface.Call:
    stage, source, to = call.stage, call.source, call.to
    sizes = {"images": call.images, "height": stage.height, "width": stage.width}
    channels = {"in": stage.inputs, "between": stage.between, "out": stage.outputs}
    return interface.Call(
        kind=KINDS.index(stage.kind),
        layer=stage.layer,
        source=PLACES.index(source.memory),
        source_at=source.at,
        to=PLACES.index(to.memory),
        to_at=to.at,
        **sizes,
        **channels,
        rectify=stage.rectify,
        pool=stage.pool,
        tiles=call.cut.tiles,
        shared=call.cut.shared,
    )


@lru_cache(maxsize=64)
def program(layers: tuple[Convolution, ...], images: int, height: int, width: int, threads: int) -> Program:
    """Plan the computation of consecutive layers.

    Args:
        layers: the layers, from first to last.
        images: size of the mini-batch.
        height: height of its images in pixels.
        width: width of its images in pixels.
        threads: number of threads that the native code uses.
    """
    groups = list(_groups(list(_stages(layers, height, width))))
    at_once = _at_once(groups, images)
    # Within a group, maps alternate between two places; one more place is for each group's output.
    inner = [0, 0]
    for group, count in zip(groups, at_once, strict=True):
        for turn, stage in enumerate(group[:-1]):
            inner[turn % 2] = max(inner[turn % 2], _lines(count * stage.size))
    handed, end = [], sum(inner)
    for group, count in zip(groups, at_once[1:], strict=False):
        handed.append(Place("workspace", end))
        end += _lines(count * group[-1].size)

    def passed(number: int, first: int, count: int, to: Place) -> Iterator[Call]:
        """Generate the calls that take `count` images through all groups up to this one."""
        parts = -(-count // at_once[number])
        for part in range(parts):
            begin, after = count * part // parts, count * (part + 1) // parts
            if number:
                source = handed[number - 1]
                yield from passed(number - 1, first + begin, after - begin, source)
            else:
                source = Place("input", (first + begin) * layers[0].inputs * height * width)
            for turn, stage in enumerate(groups[number]):
                last = stage is groups[number][-1]
                target = (
                    Place(to.memory, to.at + begin * stage.size)
                    if last
                    else Place("workspace", turn % 2 * inner[0])
                )
                yield _call(stage, source, target, after - begin, threads)
                source = target

    return Program(tuple(passed(len(groups) - 1, 0, images, Place("output", 0))), end)


def _at_once(groups: Sequence[Sequence[Stage]], images: int) -> list[int]:
    """Return how many images pass through each group together: as many as fit, in parts of nearly equal size."""
    found: list[int] = []
    asked = images
    for number in reversed(range(len(groups))):
        first = groups[number][0]
        read = first.inputs * first.height * first.width if number else 0
        largest = max([read, *(stage.size for stage in groups[number][:-1])])
        parts = -(-asked // max(1, TOGETHER // largest)) if largest else 1
        asked = -(-asked // parts)
        found.insert(0, asked)
    return found


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _stages(layers: Sequence[Convolution], height: int, width: int) -> Iterator[Stage]:
    number = 0
    while number < len(layers):
        layer, after = layers[number], layers[number + 1 : number + 2]
        rectified = layer.rectify and not layer.pool and after and not after[0].whole
        between, kind = 0, _kind(layer)
        if rectified and not layer.whole and pairs(3, layer.inputs, layer.outputs):
            between, kind = layer.outputs, "pair"
        last = after[0] if between else layer
        stage = Stage(kind, number, layer.inputs, between, last.outputs, last.rectify, last.pool, height, width)
        yield stage
        height, width = stage.sides
        number += 2 if between else 1


def _kind(layer: Convolution) -> Kind:
    if layer.whole:
        return "whole"
    return "direct" if direct(layer.inputs) else "winograd"


def _groups(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """Divide the stages after each pooling, where the maps that have to be kept are smallest."""
    group = []
    for stage in stages:
        group.append(stage)
        if stage.pool or stage is stages[-1]:
            yield group
            group = []


def _call(stage: Stage, source: Place, to: Place, images: int, threads: int) -> Call:
    if stage.kind == "pair":
        cut = Blocks(block_of_a_thread(stage.between, stage.outputs), False)
    else:
        cut = blocks(stage.inputs, stage.outputs, images, stage.height, stage.width, threads)
    return Call(stage, source, to, images, cut)
