"""MatConvNet's `.mat` files, such as `imagenet-vgg-verydeep-16.mat`."""

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
        convention: the input convention; if None, RGB minus the mean that the file states.

    Raises:
        UserError: if the file is not a net, or has a layer that is not part of a VGG; also if its mean is an image
            that varies between pixels, and no convention is given.
    """
    found = variables(memoryview(path.read_bytes()))
    layers = found.get("layers")
    if not isinstance(layers, list):
        raise UserError("it has no cell array named layers; a MatConvNet net is expected")
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
    """Add a layer to the net."""
    kind = _text(layer, "type")
    name = _text(layer, "name") or f"layer {number}"
    match kind:
        case "conv":
            weight, bias = _weights(layer, name)
            # MATLAB drops trailing dimensions of 1 from height x width x inputs x outputs.
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
                raise UserError(f"{name} is a leaky ReLU, which a VGG does not have")
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
            raise UserError(f"{name} is a layer of type {kind!r}, which a VGG does not have")


def _weights(layer: Struct, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias: a cell of two in newer files, two fields in older ones."""
    pair = layer.get("weights", [layer.get("filters"), layer.get("biases")])
    if not isinstance(pair, list) or len(pair) != 2:
        raise UserError(f"{name} has no weights and bias")
    weight, bias = pair
    if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray) or not 2 <= weight.ndim <= 4:
        raise UserError(f"{name} needs weights of height x width x inputs x outputs, and a bias")
    return weight, bias


def _convention(meta: Struct) -> Convention:
    """Return the convention of RGB minus the file's mean."""
    normalisation = meta.get("normalization")
    mean = normalisation.get("averageImage") if isinstance(normalisation, dict) else None
    if not isinstance(mean, np.ndarray) or mean.size == 0:
        raise UserError("it states no mean (meta.normalization.averageImage); pass a preprocessing")
    if mean.size != 3 and mean.shape[-1] != 3:
        raise UserError(f"its mean has shape {mean.shape}; three colours are expected")
    colours = mean.reshape(-1, 3)
    if (colours != colours[0]).any():
        raise UserError(
            f"its mean is an image of shape {mean.shape} that varies between pixels, and a net has only one mean "
            "colour. If an approximation is good enough, pass the preprocessing caffe-rgb"
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
        raise UserError(f"{name} of a layer must be up to four finite numbers")
    return [int(number) for number in value.reshape(-1)]
