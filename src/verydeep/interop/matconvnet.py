"""MatConvNet's `imagenet-vgg-verydeep-16.mat` and its like."""

from pathlib import Path

import numpy as np

from verydeep.errors import UserError
from verydeep.interop.conventions import Convention
from verydeep.interop.foreign import Foreign
from verydeep.interop.matlab import Value, variables
from verydeep.interop.walk import Walk

Struct = dict[str, Value]


def read(path: Path, convention: Convention | None) -> Foreign:
    """Read a net.

    Args:
        path: the file.
        convention: None for RGB less the mean that the file states.

    Raises:
        UserError: if it is not a net, has a layer that a VGG has not, or has a mean image, which is another at
            each pixel, and no convention is given.
    """
    found = variables(memoryview(path.read_bytes()))
    layers = found.get("layers")
    if not isinstance(layers, list):
        raise UserError("it has no cell array layers; a MatConvNet net is expected")
    walk = Walk()
    for number, layer in enumerate(layers, start=1):
        if not isinstance(layer, dict):
            raise UserError(f"layer {number} is not a struct")
        _add(walk, layer, number)
    meta = found.get("meta", found)
    if not isinstance(meta, dict):
        raise UserError("meta is not a struct")
    return walk.foreign("MatConvNet net", convention or _convention(meta), _class_names(meta))


def _add(walk: Walk, layer: Struct, number: int) -> None:
    """Add a layer of a net."""
    kind = _text(layer, "type")
    name = _text(layer, "name") or f"layer {number}"
    match kind:
        case "conv":
            weight, bias = _weights(layer, name)
            # MATLAB drops the last dimensions if they are 1: height x width x inputs x outputs.
            weight = weight.reshape(weight.shape + (1,) * (4 - weight.ndim)).transpose(3, 2, 0, 1)
            walk.convolution(
                name,
                weight,
                bias.reshape(-1),
                pads=_numbers(layer, "pad", [0]),
                strides=_numbers(layer, "stride", [1]),
                dilations=_numbers(layer, "dilate", [1]),
            )
        case "relu":
            if any(_numbers(layer, "leak", [0])):
                raise UserError(f"{name} is a ReLU with a leak")
            walk.relu()
        case "pool":
            pads = _numbers(layer, "pad", [0])  # top, bottom, left, right
            walk.pool(
                name,
                largest=(_text(layer, "method") or "max") == "max",
                sides=_numbers(layer, "pool", [0]),
                strides=_numbers(layer, "stride", [1]),
                pads=[pads[0], pads[2], pads[1], pads[3]] if len(pads) == 4 else pads,
            )
        case "softmax" | "softmaxloss":
            walk.softmax()
        case "dropout":
            pass
        case _:
            raise UserError(f"{name} is a layer of type {kind!r}; a VGG has none")


def _weights(layer: Struct, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias: a cell of two in the newer files, two fields in the older ones."""
    pair = layer.get("weights", [layer.get("filters"), layer.get("biases")])
    if not isinstance(pair, list) or len(pair) != 2:
        raise UserError(f"{name} has no weights and bias")
    weight, bias = pair
    if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray) or not 2 <= weight.ndim <= 4:
        raise UserError(f"{name} has no weights of height x width x inputs x outputs, and a bias")
    return weight, bias


def _convention(meta: Struct) -> Convention:
    """RGB less the mean of the file."""
    normalisation = meta.get("normalization")
    mean = normalisation.get("averageImage") if isinstance(normalisation, dict) else None
    if not isinstance(mean, np.ndarray) or mean.size == 0:
        raise UserError("it states no mean (meta.normalization.averageImage); give the preprocessing")
    if mean.size != 3 and mean.shape[-1] != 3:
        raise UserError(f"its mean has shape {mean.shape}; one of three colours is expected")
    colours = mean.reshape(-1, 3)
    if (colours != colours[0]).any():
        raise UserError(
            f"its mean is an image of shape {mean.shape}, another one at each pixel; a net has one mean colour, "
            "and no weights make up for that. If an approximation will do, give the preprocessing caffe-rgb"
        )
    red, green, blue = map(float, colours[0])
    return Convention("matconvnet", (red, green, blue))


def _class_names(meta: Struct) -> tuple[str, ...] | None:
    classes = meta.get("classes")
    described = classes.get("description") if isinstance(classes, dict) else None
    if not isinstance(described, list):
        return None
    return tuple(each if isinstance(each, str) else "" for each in described)


def _text(struct: Struct, name: str) -> str:
    value = struct.get(name)
    return value if isinstance(value, str) else ""


def _numbers(struct: Struct, name: str, default: list[int]) -> list[int]:
    value = struct.get(name)
    if not isinstance(value, np.ndarray) or not value.size:
        return default
    if value.size > 4 or not np.isfinite(value).all():
        raise UserError(f"{name} of a layer is not made of up to four numbers")
    return [int(number) for number in value.reshape(-1)]
