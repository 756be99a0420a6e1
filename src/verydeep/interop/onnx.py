"""Read ONNX files that contain a plain VGG, by following the graph from the image to the scores.

Field numbers are those of onnx.proto. Exporters add nodes that do not change the result (Identity, Dropout, 1 x 1
poolings, Flatten, Reshape, Transpose), and these are followed. Any other node is refused by name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np

from verydeep.errors import UserError
from verydeep.files import is_file
from verydeep.interop.conventions import CAFFE, TORCHVISION, Convention
from verydeep.interop.foreign import Foreign, Order
from verydeep.interop.walk import Walk
from verydeep.interop.wire import Message

GRAPH = 7
_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""NumPy types of weights, by TensorProto.DataType."""
_FLOATS = {1: 4, 11: 10}
"""The field that contains the numbers of a type if they are not raw bytes."""
_EXTERNAL = 1

PRODUCERS: dict[tuple[str, Order], Convention] = {
    ("pytorch", "CHW"): TORCHVISION,
    ("pytorch", "HWC"): CAFFE,  # Keras with its torch backend
    ("tf2onnx", "HWC"): CAFFE,
    ("tf2onnx", "CHW"): CAFFE,
    ("keras2onnx", "HWC"): CAFFE,
}
"""The preprocessing that published VGGs expect, by the producer of the file and the layout of its input."""

_LONGEST = 1000
_LAYOUTS = {(0, 3, 1, 2): ("HWC", "CHW"), (0, 2, 3, 1): ("CHW", "HWC")}
"""The layouts before and after a Transpose, by its permutation."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node of the graph."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Message]

    def integers(self, name: str, default: Iterable[int]) -> list[int]:
        """Return an attribute of one or several integers."""
        found = self.attributes.get(name)
        if found is None:
            return list(default)
        return found.integers(8) or ([found.integer(3)] if 3 in found else [])

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        return (self.integers(name, [default]) or [default])[0]

    def real(self, name: str, default: float) -> float:
        """Return an attribute that is a float32."""
        found = self.attributes.get(name)
        return default if found is None else found.real(2, default)

    def text(self, name: str) -> str:
        """Return an attribute that is a string; empty if it is missing."""
        found = self.attributes.get(name)
        return "" if found is None else found.text(4)


def read(path: Path, convention: Convention | None) -> Foreign:
    """Read a net.

    Args:
        path: the file. It may refer to other files in its folder for its weights.
        convention: the input convention, which a file does not state; if None, that of the system that wrote it.

    Raises:
        UserError: if the file is damaged or not a plain VGG, or if no convention is given and that of the system
            that wrote it is unknown.
    """
    model = Message(memoryview(path.read_bytes()))
    if GRAPH not in model:
        raise UserError("it contains no graph; an ONNX model is expected")
    graph = model.message(GRAPH)
    producer = model.text(2)
    tensors = {tensor.text(8): tensor for tensor in graph.messages(5)}
    nodes = [_node(each) for each in graph.messages(1)]
    for node in nodes:
        if node.operator == "Constant" and "value" in node.attributes and node.outputs:
            tensors[node.outputs[0]] = node.attributes["value"].message(5)
    images = [each for each in graph.messages(11) if each.text(1) not in tensors]
    if len(images) != 1:
        raise UserError(f"it has {len(images)} inputs; one input is expected, the images")
    layout = _layout(images[0])
    own = convention or PRODUCERS.get((producer, layout))
    if own is None:
        raise UserError(
            f"it was written by {producer or 'an unnamed program'}, whose preprocessing is unknown; pass a "
            "preprocessing"
        )
    reader = _Reader(path, tensors)
    reader.follow(nodes, images[0].text(1), layout)
    return reader.walk.foreign(f"ONNX model of {producer or 'unknown origin'}", own)


def _node(message: Message) -> Node:
    attributes = {each.text(1): each for each in message.messages(5)}
    return Node(
        message.text(4),
        message.text(3) or message.text(4),
        tuple(message.texts(1)),
        tuple(message.texts(2)),
        attributes,
    )


def _layout(images: Message) -> Order:
    """Return the layout of the input: channels first or last, according to which dimension is 3."""
    shape = images.message(2).message(1).message(2)
    sides = [each.integer(1, -1) for each in shape.messages(1)]
    if len(sides) == 4 and sides[3] == 3 and sides[1] != 3:
        return "HWC"
    if len(sides) == 4 and sides[1] == 3 and sides[3] != 3:
        return "CHW"
    raise UserError(f"its input has the shape {sides}; images of three channels are expected")


class _Reader:
    """Follows the graph, and tracks the layout of the maps and whether they have been flattened."""

    def __init__(self, path: Path, tensors: dict[str, Message]) -> None:
        self.path, self.tensors = path, tensors
        self.walk = Walk()
        self.layout: Order = "CHW"
        self.flat = False

    def follow(self, nodes: list[Node], images: str, layout: Order) -> None:
        """Add all layers to the walk, starting from the images."""
        users: dict[str, list[Node]] = {}
        for node in nodes:
            for name in set(node.inputs):
                users.setdefault(name, []).append(node)
        at, self.layout = images, layout
        for _ in range(_LONGEST):
            following = [node for node in users.get(at, ()) if node.operator != "Shape"]
            if not following:
                break
            if len(following) > 1:
                raise UserError(f"{at} is the input of {len(following)} nodes; a VGG is a single chain")
            node = following[0]
            self._add(node, at)
            if not node.outputs:
                raise UserError(f"{node.name} has no output")
            at = node.outputs[0]
        else:
            raise UserError(f"it has a chain of more than {_LONGEST} nodes")

    def _add(self, node: Node, at: str) -> None:
        """Add a node that follows `at` in the chain."""
        if node.operator not in ("MatMul", "Add") and node.inputs[:1] != (at,):
            raise UserError(f"{node.name} does not take {at} as its first input")
        match node.operator:
            case "Identity" | "Dropout":
                pass
            case "Relu":
                self.walk.relu()
            case "Softmax":
                self.walk.softmax()
            case "MatMul":
                if node.inputs[:1] != (at,):
                    raise UserError(f"{node.name} multiplies {at} from the left, which a VGG does not")
                self._matrix(node.name, self._weights(node, 1).T, None)
            case "Add":
                self._bias(node, 1 if node.inputs[:1] == (at,) else 0)
            case operator if operator in self._OTHERS:
                self._OTHERS[operator](self, node)
            case other:
                raise UserError(f"{node.name} is a node of type {other}, which a plain VGG does not have here")

    def _convolution(self, node: Node) -> None:
        self._check_map(node)
        weight = self._weights(node, 1)
        if weight.ndim != 4:
            raise UserError(f"{node.name} has weights of shape {weight.shape}; four dimensions are expected")
        same = node.text("auto_pad").startswith("SAME")
        self.walk.convolution(
            node.name,
            weight,
            self._weights(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None,
            pads=[weight.shape[2] // 2] if same else node.integers("pads", [0]),
            strides=node.integers("strides", [1]),
            dilations=node.integers("dilations", [1]),
            groups=node.integer("group", 1),
        )

    def _normalisation(self, node: Node) -> None:
        self._check_map(node)
        scale, shift, mean, variance = (self._weights(node, number) for number in range(1, 5))
        self.walk.normalisation(node.name, scale, shift, mean, variance, epsilon=node.real("epsilon", 1e-5))

    def _pooling(self, node: Node) -> None:
        self._check_map(node)
        self.walk.pool(
            node.name,
            largest=set(node.integers("dilations", [1])) == {1},
            sides=node.integers("kernel_shape", [0]),
            strides=node.integers("strides", [1]),
            pads=[0] if node.text("auto_pad") == "VALID" else node.integers("pads", [0]),
        )

    def _average(self, node: Node) -> None:
        """Skip an average over 1 x 1, as which an adaptive pooling to the map's own size is exported."""
        sides, strides = (set(node.integers(name, [1])) for name in ("kernel_shape", "strides"))
        if sides != {1} or strides != {1} or any(node.integers("pads", [0])):
            raise UserError(f"{node.name} averages the map, which a VGG does not")

    def _transpose(self, node: Node) -> None:
        order = tuple(node.integers("perm", ()))
        if self.flat or order not in _LAYOUTS or _LAYOUTS[order][0] != self.layout:
            raise UserError(f"{node.name} transposes the map to the order {order}, which a VGG does not")
        self.layout = "CHW" if self.layout == "HWC" else "HWC"

    def _flatten(self, node: Node) -> None:
        if node.integer("axis", 1) != 1:
            raise UserError(f"{node.name} flattens from dimension {node.integer('axis', 1)}; 1 is expected")
        self.flat = True

    def _reshape(self, node: Node) -> None:
        """Follow a Reshape that flattens; the number of values follows from the next layer's weights."""
        known = len(node.inputs) > 1 and node.inputs[1] in self.tensors
        target = self._integers(node.inputs[1]) if known else None
        if target is not None and len(target) != 2:
            raise UserError(f"{node.name} reshapes to {target}; a VGG only flattens its maps")
        self.flat = True

    def _gemm(self, node: Node) -> None:
        if node.real("alpha", 1.0) != 1 or node.real("beta", 1.0) != 1 or node.integer("transA", 0):
            raise UserError(f"{node.name} scales or transposes its input, which a VGG does not")
        weight = self._weights(node, 1)
        bias = self._weights(node, 2).reshape(-1) if len(node.inputs) > 2 and node.inputs[2] else None
        self._matrix(node.name, weight if node.integer("transB", 0) else weight.T, bias)

    def _matrix(self, name: str, weight: np.ndarray, bias: np.ndarray | None) -> None:
        if not self.flat and not self.walk.connected:
            raise UserError(f"{name} is a matrix product with a map that was not flattened")
        self.walk.matrix(name, weight, bias, self.layout)

    def _bias(self, node: Node, number: int) -> None:
        constant = self._weights(node, number)
        if constant.size != max(constant.shape, default=0):
            raise UserError(f"{node.name} adds an array of shape {constant.shape}; a bias is expected")
        self.walk.bias(node.name, constant)

    _OTHERS: ClassVar[dict[str, Callable[["_Reader", Node], None]]] = {
        "Conv": _convolution,
        "BatchNormalization": _normalisation,
        "MaxPool": _pooling,
        "AveragePool": _average,
        "Transpose": _transpose,
        "Flatten": _flatten,
        "Reshape": _reshape,
        "Gemm": _gemm,
    }

    def _check_map(self, node: Node) -> None:
        if self.flat or self.layout != "CHW":
            raise UserError(f"{node.name} ({node.operator}) needs a map with channels first")

    def _integers(self, name: str) -> list[int]:
        tensor = self.tensors[name]
        return tensor.integers(7) or np.frombuffer(tensor.content(9), "<i8")[:8].tolist()

    def _weights(self, node: Node, number: int) -> np.ndarray:
        """Return a constant input of a node."""
        name = node.inputs[number] if number < len(node.inputs) else ""
        if name not in self.tensors:
            raise UserError(f"input {number} of {node.name} is not a constant")
        tensor = self.tensors[name]
        kind = tensor.integer(2)
        if kind not in _TYPES:
            raise UserError(f"{name} is of ONNX type {kind}; float, float16 or double is expected")
        if tensor.integer(14) == _EXTERNAL:
            array = self._elsewhere(name, tensor, _TYPES[kind])
        elif 9 in tensor:
            array = tensor.array(9, _TYPES[kind])
        elif kind in _FLOATS:
            array = tensor.array(_FLOATS[kind], _TYPES[kind])
        else:
            raise UserError(f"{name} has float16 numbers that are not raw bytes")
        shape = tensor.integers(1)
        if len(shape) > 8 or min(shape, default=1) < 0 or prod(shape) != array.size:
            raise UserError(
                f"{name} of shape {tuple(shape[:8])} contains {array.size} numbers; the file is truncated or "
                "damaged"
            )
        return array.reshape(shape)

    def _elsewhere(self, name: str, tensor: Message, dtype: str) -> np.ndarray:
        """Return numbers that are stored in another file in the same folder."""
        where = {each.text(1): each.text(2) for each in tensor.messages(13)}
        location = where.get("location", "")
        if not location or Path(location).name != location or location in (".", ".."):
            raise UserError(f"{name} is stored in {location!r}; a file in the same folder is expected")
        file = self.path.parent / location
        if file.is_symlink() or not is_file(file):
            raise UserError(
                f"{name} is stored in {location}, which is not a file next to {self.path.name}; copy it there"
            )
        size = file.stat().st_size
        offset, length = int(where.get("offset", "0")), int(where.get("length", str(size)))
        item = np.dtype(dtype).itemsize
        if not 0 <= offset <= size or not 0 <= length <= size - offset or length % item:
            raise UserError(
                f"{name} takes {length} bytes at byte {offset} of {location}, which has {size}; the file is "
                "truncated or damaged"
            )
        return np.fromfile(file, dtype, count=length // item, offset=offset)
