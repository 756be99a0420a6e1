"""State dicts of torchvision and timm: `features.N`, then `classifier.N` or `pre_logits.fc1` and `head.fc`."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from verydeep.errors import UserError
from verydeep.interop.conventions import FEATURES, TORCHVISION, Convention
from verydeep.interop.foreign import Foreign, Kernel, flattened

EPSILON = 1e-5
"""Default epsilon of torch's batch normalisation; a state dict does not contain it."""

STATISTICS = ("weight", "bias", "running_mean", "running_var")

WRAPPINGS = ("state_dict", "model")
"""Names under which checkpoints store a state dict."""

METADATA = "verydeep"
"""Name of this project's entry in the metadata of a state dict, next to torch's `version`."""

SLACK = 2**20


def read_torch(path: Path, convention: Convention | None) -> Foreign:
    """Read a file written by torch.save, without running code from it.

    Raises:
        UserError: if the file is compressed, contains anything but tensors with these names, or the tensors do not
            fit together.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED for each in members):
            raise UserError("it is a compressed archive, which torch.save never writes")
        if sum(each.file_size for each in members) > size:
            raise UserError("its members are larger than the file")
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for name in WRAPPINGS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping):
        raise UserError(f"it contains a {type(loaded).__name__}; a state dict is expected")
    total = 0
    for name, value in loaded.items():
        if not (isinstance(name, str) and type(value) is Tensor and value.layout == torch.strided):
            raise UserError(f"{name!r} is of type {type(value).__name__}; dense tensors by name are expected")
        total += value.numel() * value.element_size()
        if value.device.type != "cpu" or total > size + SLACK:
            raise UserError(f"{name} has shape {tuple(value.shape)}, which is larger than the file")
    mean, names = _recorded(loaded)
    if mean is not None and convention is None:
        convention = Convention("verydeep", mean)
    return replace(foreign(loaded, convention), class_names=names)


def _recorded(state: Mapping[str, Tensor]) -> tuple[tuple[float, float, float] | None, tuple[str, ...] | None]:
    """Return the mean colour and the class names that an export of this project has left in the metadata.

    Raises:
        UserError: if they are of another form.
    """
    metadata: Any = getattr(state, "_metadata", None)
    for name in ("", METADATA):
        metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping):
        return None, None
    mean, names = metadata.get("mean"), metadata.get("classes")
    if mean is not None and not (isinstance(mean, list) and [type(each) for each in mean] == [float] * 3):
        raise UserError(f"its metadata of {METADATA} have the mean colour {mean!r}; three numbers are expected")
    if names is not None and not (isinstance(names, list) and all(type(name) is str for name in names)):
        raise UserError(f"its metadata of {METADATA} have classes that are not a list of names")
    colour = None if mean is None else (mean[0], mean[1], mean[2])
    return colour, None if names is None else tuple(names)


def read_safetensors(path: Path, convention: Convention | None) -> Foreign:
    """Read a safetensors file.

    Raises:
        UserError: if the tensors have other names, or do not fit together.
    """
    with safe_open(path, framework="pt") as file:
        return foreign({name: file.get_tensor(name) for name in file.keys()}, convention)  # noqa: SIM118


def foreign(state: Mapping[str, Tensor], convention: Convention | None) -> Foreign:
    """Return the net in a state dict.

    Args:
        state: tensors by name; DataParallel's prefix `module.` is removed.
        convention: the input convention, which a file does not state; if None, torchvision's.

    Raises:
        UserError: if a tensor is missing, unexpected, or of the wrong shape or type.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    left = {name for name in state if not name.endswith("num_batches_tracked")}
    convolutions: list[Kernel] = []
    normalisations = 0
    for number in _numbers(left, "features"):
        name = f"features.{number}"
        if f"{name}.running_mean" in left:
            if not convolutions or f"features.{number - 1}.weight" not in state:
                raise UserError(f"{name} is a batch normalisation that does not follow a convolution")
            statistics = (_taken(state, left, name, each) for each in STATISTICS)
            convolutions[-1] = convolutions[-1].normalised(*statistics, epsilon=EPSILON)
            normalisations += 1
        else:
            weight = _taken(state, left, name, "weight")
            bare = f"{name}.bias" not in left and f"features.{number + 1}.running_mean" in left
            bias = np.zeros(len(weight), np.float32) if bare else _taken(state, left, name, "bias")
            convolutions.append(Kernel(weight, bias))
    if not convolutions:
        raise UserError(f"no tensor is named features.N.weight; found {_some(left)}")
    if normalisations not in (0, len(convolutions)):
        raise UserError(
            f"{normalisations} of {len(convolutions)} convolutions have a batch normalisation; a VGG has "
            "it after all of them or none"
        )
    channels = convolutions[-1].outputs
    heads = _head_names(left)
    head = tuple(_connected(state, left, name, channels if name == heads[0] else None) for name in heads)
    if left:
        raise UserError(f"tensor {min(left)} is not part of torchvision's or timm's VGG")
    if head and all(np.isnan(kernel.weight).all() for kernel in head):  # torchvision's IMAGENET1K_FEATURES
        head, convention = (), convention or FEATURES
    folded = ("batch normalisation into the convolutions",) if normalisations else ()
    return Foreign(
        "state dict of torchvision or timm",
        tuple(convolutions),
        head,
        convention or TORCHVISION,
        folded=folded,
    )


def _numbers(names: set[str], group: str) -> list[int]:
    """Return the N of all names group.N, in order."""
    matches = (re.match(rf"{group}\.([0-9]{{1,4}})\.", name) for name in names)
    return sorted({int(match[1]) for match in matches if match})


def _head_names(names: set[str]) -> list[str]:
    """Return the names of the fully connected layers, in order; none if there are only convolutions."""
    if any(name.startswith(("pre_logits.", "head.")) for name in names):
        return ["pre_logits.fc1", "pre_logits.fc2", "head.fc"]
    return [f"classifier.{number}" for number in _numbers(names, "classifier")]


def _connected(state: Mapping[str, Tensor], left: set[str], name: str, channels: int | None) -> Kernel:
    """Return a fully connected layer, stored as a matrix or a convolution; pass `channels` for the first one."""
    weight, bias = _taken(state, left, name, "weight"), _taken(state, left, name, "bias")
    if weight.ndim == 2:
        weight = weight[:, :, None, None] if channels is None else flattened(weight, channels, "CHW")
    return Kernel(weight, bias)


def _taken(state: Mapping[str, Any], left: set[str], layer: str, part: str) -> np.ndarray:
    """Return a tensor as an array, and remove its name from those left."""
    name = f"{layer}.{part}"
    if name not in left:
        raise UserError(f"tensor {name} is missing")
    left.remove(name)
    tensor: Tensor = state[name].detach()
    if not tensor.is_floating_point():
        raise UserError(f"tensor {name} is of type {tensor.dtype}; a floating-point type is expected")
    array: np.ndarray = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    return array


def _some(names: set[str]) -> str:
    listed = sorted(names)[:3]
    return ", ".join(listed) + (", ..." if len(names) > len(listed) else "") if names else "no tensors"
