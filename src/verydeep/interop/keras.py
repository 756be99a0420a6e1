"""Keras weights: the published `.h5` files, `.weights.h5`, and `.keras`.

Keras takes BGR minus the mean colour, stores kernels as height x width x inputs x outputs, and flattens a map in
the order height, width, channels. A weight file lists its layers by name, and the names tell their order.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from verydeep.errors import UserError
from verydeep.interop.conventions import CAFFE, Convention
from verydeep.interop.foreign import Foreign, Kernel, fully_connected
from verydeep.interop.missing import needed

CONFIGURATION, WEIGHTS = "config.json", "model.weights.h5"
"""Members of a `.keras` file."""

_LARGEST_CONFIGURATION = 2**22
_MOST_OBJECTS, _DEEPEST = 2000, 8
_GROWTH = 4

CONVOLUTIONS = (r"block(\d+)_conv(\d+)", r"conv2d(?:_(\d+))?", r"conv(\d+)_(\d+)")
"""Names of convolutions: in keras.applications, with Keras' default numbering, and as in papers."""
CONNECTED = (r"fc(\d+)|predictions", r"dense(?:_(\d+))?")
_OPTIMISERS = ("optimizer", "optimizer_weights")
_STATES = ("seed_generator",)
"""Groups that dropouts need in training."""

_IGNORED = {"InputLayer", "Dropout", "Flatten"}


def read_hdf5(path: Path, convention: Convention | None) -> Foreign:
    """Read an HDF5 file.

    Args:
        path: the file.
        convention: the input convention, which a file does not state; if None, that of keras.applications' VGGs.

    Raises:
        UserError: if a dataset is outside the file, is compressed, or is not part of a VGG.
    """
    with path.open("rb") as file:
        return _read(file, path.stat().st_size, convention, None)


def read_archive(path: Path, convention: Convention | None) -> Foreign:
    """Read a `.keras` file.

    Raises:
        UserError: as `read_hdf5` does; also if the configuration is not that of a VGG.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = {each.filename: each for each in archive.infolist()}
        if WEIGHTS not in members or CONFIGURATION not in members:
            raise UserError(f"it does not contain {CONFIGURATION} and {WEIGHTS}; a .keras file is expected")
        for name, most in ((CONFIGURATION, _LARGEST_CONFIGURATION), (WEIGHTS, _GROWTH * size)):
            if members[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{name} uses a compression method that Keras does not use")
            if members[name].file_size > most:
                raise UserError(f"{name} has {members[name].file_size} bytes; at most {most} are expected")
        kinds = _kinds(json.loads(archive.read(CONFIGURATION)))
        content = archive.read(WEIGHTS)
    return _read(io.BytesIO(content), len(content), convention, kinds)


def _read(
    file: BinaryIO | io.BytesIO, size: int, convention: Convention | None, kinds: tuple[str, ...] | None
) -> Foreign:
    h5py = needed("h5py")
    layers: dict[str, list[np.ndarray]] = {}
    claimed = 0
    with h5py.File(file, "r") as opened:
        for layer, dataset in _datasets(h5py, opened):
            claimed += dataset.size * dataset.dtype.itemsize
            if claimed > size:
                raise UserError(f"{dataset.name} has shape {dataset.shape}, which is larger than the file")
            layers.setdefault(layer, []).append(dataset[()])
    named = {name: _layer(name, arrays) for name, arrays in layers.items()}
    convolutions = tuple(
        Kernel(named[name][0].transpose(3, 2, 0, 1), named[name][1]) for name in _ordered(named, 4, CONVOLUTIONS)
    )
    if not convolutions:
        raise UserError("it contains no convolutions")
    matrices = [(named[name][0].T, named[name][1]) for name in _ordered(named, 2, CONNECTED)]
    head = fully_connected(matrices, convolutions[-1].outputs, "HWC")
    return Foreign("Keras weights", convolutions, head, convention or CAFFE, kinds)


def _datasets(h5py: Any, root: Any) -> Iterator[tuple[str, Any]]:
    """Yield each dataset with its layer's name, except those only for training; links are not followed."""
    groups, count = [(root, "", 0)], 0
    while groups:
        group, layer, depth = groups.pop()
        for name in group:
            count += 1
            if count > _MOST_OBJECTS or depth > _DEEPEST:
                raise UserError(
                    f"it has more than {_MOST_OBJECTS} objects, or groups nested more than {_DEEPEST} deep"
                )
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{name} is a link; weights must be in the file itself")
            found = group[name]
            if isinstance(found, h5py.Dataset):
                _check(found)
                yield layer, found
            elif isinstance(found, h5py.Group):
                if name not in _STATES and (depth or name not in _OPTIMISERS):
                    groups.append((found, layer if name == "vars" else name, depth + 1))
            else:
                raise UserError(f"{name} is neither a group nor a dataset")


def _check(dataset: Any) -> None:
    """Refuse a dataset that is not an array of floats stored plainly in the file."""
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{dataset.name} is stored elsewhere; weights must be in the file itself")
    if dataset.id.get_create_plist().get_nfilters():
        raise UserError(f"{dataset.name} is compressed, which Keras weights never are")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8 or dataset.shape is None or dataset.ndim > 4:
        raise UserError(
            f"{dataset.name} is of type {dataset.dtype} and shape {dataset.shape}; weights are expected"
        )


def _layer(name: str, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a layer."""
    arrays = sorted(arrays, key=lambda array: -array.ndim)
    if [array.ndim for array in arrays] not in ([4, 1], [2, 1]):
        shapes = ", ".join(str(array.shape) for array in arrays[:4])
        raise UserError(f"layer {name} has arrays of shape {shapes}; a kernel and a bias are expected")
    return arrays[0], arrays[1]


def _ordered(
    named: dict[str, tuple[np.ndarray, np.ndarray]], dimensions: int, styles: tuple[str, ...]
) -> list[str]:
    """Return the names of the layers with kernels of this number of dimensions, in their order in the net."""
    names = [name for name, (kernel, _) in named.items() if kernel.ndim == dimensions]
    for style in styles:
        matches = [re.fullmatch(style, name) for name in names]
        if all(matches):
            places = {match[0]: _place(match) for match in matches if match}
            return sorted(names, key=lambda name: places[name])
    raise UserError(
        f"the names {', '.join(sorted(names))} do not tell the order of the layers; names like block1_conv1, "
        "conv2d_1, fc1, predictions and dense_1 are expected"
    )


def _place(match: re.Match[str]) -> tuple[int, ...]:
    """Return the numbers in a name. A name without one comes first, but `predictions` comes last."""
    without = 10**6 if match[0] == "predictions" else 0
    return tuple(without if number is None else int(number) for number in match.groups())


def _kinds(configuration: Any) -> tuple[str, ...]:
    """Return the kinds of the layers in a model's configuration.

    Raises:
        UserError: if there is a layer that is not part of a VGG.
    """
    kinds: list[str] = []
    layers = _get(_get(configuration, "config"), "layers")
    if not isinstance(layers, list):
        raise UserError(f"{CONFIGURATION} lists no layers")
    pooled = ""
    for layer in layers:
        kind, settings = _get(layer, "class_name"), _get(layer, "config")
        name = str(_get(settings, "name"))
        if pooled and kind not in _IGNORED:
            raise UserError(f"{name} follows {pooled}; a VGG only pools 2 x 2")
        match kind:
            case "Conv2D":
                _expect(settings, name, padding="same", strides=[1, 1], dilation_rate=[1, 1], groups=1)
                kinds += ["conv", *_activation(settings, name)]
            case "Dense":
                kinds += ["conv", *_activation(settings, name)]
            case "MaxPooling2D":
                _expect(settings, name, pool_size=[2, 2], strides=[2, 2], padding="valid")
                kinds.append("pool")
            case "Activation" | "ReLU" | "Softmax":
                _expect(settings, name, negative_slope=0, threshold=0, max_value=None)
                kinds += _activation({"activation": kind.lower()} | settings, name)
            case "GlobalAveragePooling2D" | "GlobalMaxPooling2D":  # after the last convolution: a feature net
                pooled = name
            case other if other not in _IGNORED:
                raise UserError(f"{name} is a layer of type {other}, which a VGG does not have")
    return tuple(kinds)


def _activation(settings: Any, name: str) -> list[str]:
    match activation := _get(settings, "activation"):
        case "relu":
            return ["relu"]
        case "linear" | "softmax":
            return []
        case _:
            raise UserError(f"{name} has the activation {activation!r}; relu, linear or softmax is expected")


def _expect(settings: Any, name: str, **wanted: object) -> None:
    for setting, value in wanted.items():
        found = _get(settings, setting)
        if found is not None and found != value:
            raise UserError(f"{name} has {setting} {found!r}; {value!r} is expected")


def _get(mapping: Any, name: str) -> Any:
    return mapping.get(name) if isinstance(mapping, dict) else None
