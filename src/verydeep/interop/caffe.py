"""Caffe's `.caffemodel`, in the old format (`layers`) and the new one (`layer`).

Field numbers are those of caffe.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from verydeep.errors import UserError
from verydeep.interop.conventions import CAFFE, Convention
from verydeep.interop.foreign import Foreign
from verydeep.interop.walk import Walk
from verydeep.interop.wire import Message

_OLD, _NEW = 2, 100
"""`NetParameter.layers` and `NetParameter.layer`."""

OLD_TYPES = {
    0: "None",
    1: "Accuracy",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    8: "Flatten",
    12: "ImageData",
    14: "InnerProduct",
    15: "LRN",
    17: "Pooling",
    18: "ReLU",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    29: "MemoryData",
    32: "DummyData",
    36: "Silence",
}
"""`V1LayerParameter.LayerType`, by the names of the new format; only types that a VGG file may contain."""

IGNORED = {
    "Accuracy",
    "Data",
    "Dropout",
    "DummyData",
    "Flatten",
    "ImageData",
    "Input",
    "MemoryData",
    "Silence",
    "Split",
}
"""Layers that have no effect on the scores in testing."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer in a file."""

    name: str
    type: str
    """Its type, by the names of the new format."""
    blobs: tuple[np.ndarray, ...]
    convolution: Message
    pooling: Message
    rectifier: Message


def layers(path: Path) -> Iterator[Layer]:
    """Yield the layers of a file, in order.

    Raises:
        UserError: if the file is not a Caffe net, or is damaged.
    """
    net = Message(memoryview(path.read_bytes()))
    if _OLD not in net and _NEW not in net:
        raise UserError("it contains no layers; a Caffe net is expected")
    for old in net.messages(_OLD):
        if 1 in old:
            raise UserError(
                "its layers are in Caffe's oldest format; upgrade it with Caffe's upgrade_net_proto_binary"
            )
        number = old.integer(5)
        kind = OLD_TYPES.get(number, f"number {number}")
        yield Layer(old.text(4), kind, _blobs(old, 6), old.message(10), old.message(19), old.message(30))
    for new in net.messages(_NEW):
        yield Layer(new.text(1), new.text(2), _blobs(new, 7), new.message(106), new.message(121), new.message(123))


def _blobs(layer: Message, number: int) -> tuple[np.ndarray, ...]:
    return tuple(map(_blob, layer.messages(number)))


def _blob(blob: Message) -> np.ndarray:
    """Return a blob with its shape: that of the new format, or number x channels x height x width."""
    array = blob.array(8, "<f8") if 8 in blob else blob.array(5, "<f4")
    shape = blob.message(7).integers(1) if 7 in blob else [blob.integer(each, 1) for each in (1, 2, 3, 4)]
    if len(shape) > 8 or min(shape, default=1) < 0 or prod(shape) != array.size:
        raise UserError(
            f"a blob of shape {tuple(shape[:8])} contains {array.size} numbers; the file is truncated or damaged"
        )
    return array.reshape(shape)


def read(path: Path, convention: Convention | None) -> Foreign:
    """Read a net.

    Args:
        path: the file.
        convention: the input convention, which a file does not state; if None, the authors': BGR minus the mean
            colour.

    Raises:
        UserError: if the file is damaged, or has a layer that is not part of a VGG.
    """
    walk = Walk()
    for layer in layers(path):
        match layer.type:
            case "Convolution":
                weight, bias = _weights(layer)
                param = layer.convolution
                walk.convolution(
                    layer.name,
                    weight.reshape(weight.shape if weight.ndim == 4 else (-1, 1, 1, 1)),
                    bias,
                    pads=_sides(param, 3, (9, 10), 0),
                    strides=_sides(param, 6, (13, 14), 1),
                    dilations=_sides(param, 18, (), 1),
                    groups=param.integer(5, 1),
                )
            case "InnerProduct":
                weight, bias = _weights(layer)
                # The old format stores a matrix as 1 x 1 x outputs x inputs.
                walk.matrix(layer.name, weight.reshape(weight.shape[-2:]), bias, "CHW")
            case "ReLU":
                if layer.rectifier.real(1, 0.0):
                    raise UserError(f"{layer.name} is a ReLU with a negative slope")
                walk.relu()
            case "Pooling":
                param = layer.pooling
                walk.pool(
                    layer.name,
                    largest=param.integer(1) == 0 and not param.integer(12),
                    sides=_sides(param, 2, (5, 6), 0),
                    strides=_sides(param, 3, (7, 8), 1),
                    pads=_sides(param, 4, (9, 10), 0),
                )
            case "Softmax" | "SoftmaxWithLoss":
                walk.softmax()
            case other if other not in IGNORED:
                raise UserError(f"{layer.name} is a layer of type {other}, which a VGG does not have")
    return walk.foreign("Caffe net", convention or CAFFE)


def _weights(layer: Layer) -> tuple[np.ndarray, np.ndarray | None]:
    if len(layer.blobs) not in (1, 2):
        raise UserError(f"{layer.name} has {len(layer.blobs)} blobs; weights and a bias are expected")
    weight = layer.blobs[0]
    if weight.ndim < 2 or (layer.type == "InnerProduct" and prod(weight.shape[:-2]) != 1):
        raise UserError(f"{layer.name} has weights of unexpected shape {weight.shape}")
    return weight, layer.blobs[1].reshape(-1) if len(layer.blobs) == 2 else None


def _sides(param: Message, both: int, each: tuple[int, ...], default: int) -> list[int]:
    """Return one size for both sides, or height and width, from the fields with these numbers."""
    return param.integers(both) or [param.integer(number, default) for number in each] or [default]
