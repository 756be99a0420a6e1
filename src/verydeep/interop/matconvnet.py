"""MatConvNet's `imagenet-vgg-verydeep-16.mat` and its like: MATLAB files of level 5, read by SciPy."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from verydeep.errors import UserError
from verydeep.interop.conventions import Convention
from verydeep.interop.foreign import Foreign
from verydeep.interop.walk import Walk

_HEADER = 128
_COMPRESSED = 15
"""Type of an element of a MATLAB file whose content is deflated."""
_BLOCK = 2**20
_GROWTH = 4
"""Weights hardly shrink when they are compressed; what grows more is not a net."""


def read(path: Path, convention: Convention | None) -> Foreign:
    """Read a net.

    Args:
        path: the file.
        convention: None for RGB less the mean that the file states.

    Raises:
        UserError: if it is not a net, has a layer that a VGG has not, or has a mean image, which is another at
            each pixel, and no convention is given.
    """
    from scipy.io import loadmat

    refuse_inflated(path)
    found = loadmat(path, variable_names=["layers", "meta", "classes", "normalization"])
    if "layers" not in found:
        raise UserError("it has no variable layers; a MatConvNet net is expected")
    walk = Walk()
    cells = np.asarray(found["layers"]).reshape(-1)
    for number, cell in enumerate(cells[:1000], start=1):
        _add(walk, _struct(cell, f"layer {number}"), number)
    meta = _struct(found["meta"], "meta") if "meta" in found else found
    return walk.foreign("MatConvNet net", convention or _convention(meta), _class_names(meta))


def refuse_inflated(path: Path) -> None:
    """Refuse a file whose compressed elements hold much more than they take.

    Raises:
        UserError: if they do, or if the file is cut.
    """
    size = path.stat().st_size
    left = _GROWTH * size + _BLOCK
    with path.open("rb") as file:
        file.seek(_HEADER)
        while len(tag := file.read(8)) == 8:
            kind, length = (int(value) for value in np.frombuffer(tag, "<u4"))
            if length > size - file.tell():
                raise UserError(
                    f"an element of {length} bytes goes beyond the end of the file; it is cut or damaged"
                )
            if kind != _COMPRESSED:
                file.seek(length, 1)
                continue
            inflater = zlib.decompressobj()
            while length and not inflater.eof:
                block = file.read(min(length, _BLOCK))
                length -= len(block)
                while block:
                    left -= len(inflater.decompress(block, _BLOCK))
                    block = inflater.unconsumed_tail
                    if left < 0:
                        raise UserError("its compressed content is far larger than the file; weights are not")
            file.seek(length, 1)


def _add(walk: Walk, layer: Any, number: int) -> None:
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


def _weights(layer: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias: a cell of two in the newer files, two fields in the older ones."""
    if (pair := _field(layer, "weights")) is not None:
        arrays = list(np.asarray(pair).reshape(-1))[:3]
    else:
        arrays = [_field(layer, "filters"), _field(layer, "biases")]
    if len(arrays) != 2 or not all(isinstance(each, np.ndarray) and each.dtype.kind == "f" for each in arrays):
        raise UserError(f"{name} has no weights and bias of floating point numbers")
    if not 2 <= arrays[0].ndim <= 4:
        raise UserError(
            f"{name} has weights of shape {arrays[0].shape}; height x width x inputs x outputs is expected"
        )
    return arrays[0], arrays[1]


def _convention(meta: Any) -> Convention:
    """RGB less the mean of the file."""
    normalisation = _field(meta, "normalization")
    mean = None if normalisation is None else _field(_struct(normalisation, "normalization"), "averageImage")
    if mean is None or mean.dtype.kind not in "fui" or mean.size == 0:
        raise UserError("it states no mean (meta.normalization.averageImage); give the preprocessing")
    colours = mean.reshape(-1, 3) if mean.shape[-1] == 3 else mean.reshape(3, -1).T if mean.size == 3 else None
    if colours is None:
        raise UserError(f"its mean has shape {mean.shape}; one of three colours is expected")
    if (colours != colours[0]).any():
        raise UserError(
            f"its mean is an image of shape {mean.shape}, another one at each pixel; a net has one mean colour, "
            "and no weights make up for that. If an approximation will do, give the preprocessing caffe-rgb"
        )
    red, green, blue = map(float, colours[0])
    return Convention("matconvnet", (red, green, blue))


def _class_names(meta: Any) -> tuple[str, ...] | None:
    classes = _field(meta, "classes")
    described = None if classes is None else _field(_struct(classes, "classes"), "description")
    if described is None or described.dtype != object:
        return None
    return tuple("".join(map(str, np.asarray(each).reshape(-1))) for each in described.reshape(-1))


def _struct(value: Any, name: str) -> Any:
    """A MATLAB struct, which SciPy holds as an array of one record; also a cell with one in it."""
    array = np.asarray(value)
    if array.dtype == object and array.size == 1:
        array = np.asarray(array.reshape(-1)[0])
    if array.dtype.names is None or array.size != 1:
        raise UserError(f"{name} is not a struct")
    return array.reshape(-1)[0]


def _field(struct: Any, name: str) -> np.ndarray | None:
    """A field of a struct, or of the variables of a file; None if it is missing or empty."""
    names = struct if isinstance(struct, dict) else (struct.dtype.names or ())
    value = np.asarray(struct[name]) if name in names else None
    return value if value is not None and value.size else None


def _text(struct: Any, name: str) -> str:
    value = _field(struct, name)
    return "" if value is None else str(value.reshape(-1)[0])


def _numbers(struct: Any, name: str, default: list[int]) -> list[int]:
    value = _field(struct, name)
    if value is None:
        return default
    if value.dtype.kind not in "fiu" or value.size > 4:
        raise UserError(f"{name} of a layer is not made of up to four numbers")
    return [int(number) for number in value.reshape(-1)]
