"""In which order layers pass over the images of a mini-batch, in testing: a program for the native code.

Layer by layer, the maps of a mini-batch would be written to memory and read back. So the layers up to a pooling are
computed for as many images as have maps that fit into the processor's cache, and what follows waits for as many as
fit there: some images up to pool1, more up to pool2, and so on, again and again. All maps but the last lie in one
workspace, which does not grow with the mini-batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from verydeep.engine.choice import Blocks, block_of_a_thread, blocks, direct, pairs

TOGETHER = 4 * 2**20
"""Floats of a map of some images that the next layer finds in the cache."""

LINE = 16
"""Floats of a line of the cache: where maps begin."""


@dataclass(frozen=True)
class Convolution:
    """A 3x3 layer: its channels, and what follows it."""

    inputs: int
    outputs: int
    rectify: bool
    pool: bool


@dataclass(frozen=True)
class Place:
    """Where a map begins: in which memory, and after how many floats."""

    memory: Literal["input", "workspace", "output"]
    at: int


@dataclass(frozen=True)
class Stage:
    """A layer, or a pair of layers that is computed in one (`choice.pairs`), and the sizes of its maps."""

    layer: int
    """Its number, that of the first of a pair."""
    pair: bool
    inputs: int
    between: int
    """Channels of the map within a pair, else 0."""
    outputs: int
    rectify: bool
    pool: bool
    height: int
    """Of its input, as `width`, in pixels."""
    width: int

    @property
    def size(self) -> int:
        """Floats of its output, an image."""
        pixels = (self.height // 2) * (self.width // 2) if self.pool else self.height * self.width
        return self.outputs * pixels


@dataclass(frozen=True)
class Call:
    """A stage for some images."""

    stage: Stage
    source: Place
    to: Place
    images: int
    direct: bool
    cut: Blocks


@dataclass(frozen=True)
class Program:
    """Calls in their order, and the floats of the workspace that they need."""

    calls: tuple[Call, ...]
    workspace: int


@lru_cache(maxsize=64)
def program(layers: tuple[Convolution, ...], images: int, height: int, width: int, threads: int) -> Program:
    """How layers that follow one another are computed.

    Args:
        layers: all of them 3x3 with stride 1 and padding 1.
        images: size of the mini-batch.
        height: of its images, in pixels.
        width: of its images.
        threads: on which the native code works.
    """
    groups = list(_groups(list(_stages(layers, height, width))))
    at_once: list[int] = []  # images that pass through a group together
    asked = images
    for group in reversed(groups):
        before = group[0].inputs * group[0].height * group[0].width if group is not groups[0] else 0
        largest = max([before, *(stage.size for stage in group[:-1])])
        parts = -(-asked // max(1, TOGETHER // largest)) if largest else 1
        asked = -(-asked // parts)
        at_once.insert(0, asked)

    # Two places by turns within a group, and one for what each group hands to the next.
    counted = zip(groups, at_once, strict=True)
    inner = max((count * stage.size for group, count in counted for stage in group[:-1]), default=0)
    inner = -(-inner // LINE) * LINE
    handed, end = [], 2 * inner
    for group, count in zip(groups, at_once[1:], strict=False):
        handed.append(Place("workspace", end))
        end += -(-count * group[-1].size // LINE) * LINE

    def passed(number: int, first: int, count: int, to: Place) -> Iterator[Call]:
        """What takes `count` images through all groups up to this one."""
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
                    Place(to.memory, to.at + begin * stage.size) if last else Place("workspace", turn % 2 * inner)
                )
                yield _call(stage, source, target, after - begin, threads)
                source = target

    return Program(tuple(passed(len(groups) - 1, 0, images, Place("output", 0))), end)


def _stages(layers: Sequence[Convolution], height: int, width: int) -> Iterator[Stage]:
    number = 0
    while number < len(layers):
        first = last = layers[number]
        pair = (
            number + 1 < len(layers) and first.rectify and not first.pool and pairs(3, first.inputs, first.outputs)
        )
        if pair:
            last = layers[number + 1]
        between = first.outputs if pair else 0
        yield Stage(number, pair, first.inputs, between, last.outputs, last.rectify, last.pool, height, width)
        if last.pool:
            height, width = height // 2, width // 2
        number += 1 + pair


def _groups(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """The stages cut after each pooling, where the least has to wait."""
    group = []
    for stage in stages:
        group.append(stage)
        if stage.pool or stage is stages[-1]:
            yield group
            group = []


def _call(stage: Stage, source: Place, to: Place, images: int, threads: int) -> Call:
    cut = blocks(stage.inputs, stage.outputs, images, stage.height, stage.width, threads)
    if stage.pair:
        cut = Blocks(block_of_a_thread(stage.between, stage.outputs), False)
    return Call(stage, source, to, images, not stage.pair and direct(stage.inputs), cut)
