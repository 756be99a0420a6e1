"""Write a net as an ONNX model.

The graph is written node by node from the net's list of layers, not traced. So it is the same for every version
of torch, its names are those of the layers, and it contains no paths of the machine that wrote it, which the stack
traces of torch's exporter do.
"""

import json
from pathlib import Path
from typing import Any

from verydeep.configurations import STRIDE, Layer
from verydeep.errors import UserError
from verydeep.evaluation.protocols import test_scale
from verydeep.exports.missing import needed
from verydeep.network import ConvNet
from verydeep.normalisation import ALPHA, BETA, K, N
from verydeep.weights import CARD, Content

OPSET, IR_VERSION = 13, 7
"""The oldest operator set with quantised weights per channel, and the format that came with it (2020)."""

LIMIT = 2**31 - 2**20
"""Bytes of weights that fit in a file: a protocol buffer has less than 2 GiB."""

IMAGES = "images"
"""Name of the input."""


def outputs(net: ConvNet) -> tuple[str, ...]:
    """Return the names of a net's outputs: its posteriors and score map, or the last map of a feature net."""
    return ("posteriors", "score_map") if net.classes else (net.layers[-1].name,)


def model(net: ConvNet) -> Any:
    """Return a net as an `onnx.ModelProto` with any number, height and width of images.

    The input `images` is N x 3 x H x W, float32, raw RGB in 0..255; H and W are at least the net's crop, or 32 for
    a feature net. The outputs are `posteriors` (N x K), the soft-max of the scores averaged over the map as in
    dense testing, and `score_map` (N x K x h x w); for a feature net, the map `pool5`. The metadata contain the
    card, the class names and the test scale Q.

    Raises:
        UserError: if onnx is not installed, a layer was replaced, a weight is not finite, or the weights are too
            large for one file.
    """
    onnx = needed("onnx")
    content = Content.of(net)
    if (size := sum(array.nbytes for array in content.arrays.values())) > LIMIT:
        raise UserError(f"the net has {size / 2**30:.1f} GiB of weights; an ONNX file contains less than 2 GiB")
    arrays = {**content.arrays, "mean": content.arrays["mean"].reshape(1, 3, 1, 1)}
    make = onnx.helper
    nodes, at = [make.make_node("Sub", [IMAGES, "mean"], ["centred"], "centred")], "centred"
    for layer in net.layers:
        if layer.kind == "dropout":
            continue
        name = "score_map" if layer.name == "fc8" else layer.name
        weights = [f"{layer.name}.weight", f"{layer.name}.bias"] if layer.kind == "conv" else []
        operator, attributes = _operator(layer)
        nodes.append(make.make_node(operator, [at, *weights], [name], layer.name, **attributes))
        at = name
    batch, map_sides = "batch", ["map_height", "map_width"]
    shapes: dict[str, list[str | int]] = {at: [batch, net.layers[-1].out_channels, *map_sides]}
    if net.classes:
        nodes += [
            make.make_node("GlobalAveragePool", [at], ["mean_scores"], "mean_scores"),
            make.make_node("Flatten", ["mean_scores"], ["scores"], "scores"),
            make.make_node("Softmax", ["scores"], ["posteriors"], "posteriors", axis=1),
        ]
        shapes["posteriors"] = [batch, net.classes]
    float32 = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes,
        f"net {net.configuration.name}",
        [make.make_tensor_value_info(IMAGES, float32, [batch, 3, "height", "width"])],
        [make.make_tensor_value_info(name, float32, shapes[name]) for name in outputs(net)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made = make.make_model(
        graph,
        opset_imports=[make.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="verydeep",
        doc_string="\n".join(described(net)),
    )
    make.set_model_props(made, metadata(net, content.header))
    return made


def write(net: ConvNet, path: Path) -> None:
    """Write a net to an ONNX file, to a path that nothing else reads yet; errors are those of `model`."""
    needed("onnx").save_model(model(net), path)


def metadata(net: ConvNet, card: str) -> dict[str, str]:
    """Return what a file says about its net: the card, as in a weight file, the class names as JSON, and Q."""
    return {CARD: card, "classes": json.dumps(net.card.names), "test_scale": str(test_scale(net.card))}


def described(net: ConvNet) -> tuple[str, ...]:
    """Return the input and the outputs in words."""
    least = net.crop if net.classes else STRIDE
    maps = f"N x {net.layers[-1].out_channels} x h x w"
    last = f"posteriors, N x {net.classes}; score_map" if net.classes else net.layers[-1].name
    return (
        f"input: {IMAGES}, N x 3 x H x W, float32, RGB in 0..255; H and W at least {least}",
        f"output: {last}, {maps}",
    )


def _operator(layer: Layer) -> tuple[str, dict[str, Any]]:
    """Return the operator of a layer and its attributes."""
    side = [layer.kernel] * 2
    match layer.kind:
        case "conv":
            return "Conv", {"kernel_shape": side, "pads": [layer.padding] * 4}
        case "pool":
            return "MaxPool", {"kernel_shape": side, "strides": [layer.stride] * 2}
        case "lrn":  # ONNX divides alpha by the number of channels in a sum
            return "LRN", {"size": N, "alpha": N * ALPHA, "beta": BETA, "bias": K}
        case _:
            return "Relu", {}
