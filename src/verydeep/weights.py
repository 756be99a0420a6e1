"""The weight file: parameters, configuration, preprocessing, classes and provenance in one safetensors file.

Loading never executes code. What a net needs to be used rightly travels with it: the mean colour is one of its
tensors, and the `Card` in the file's header says which net it is, which classes it knows and how it was trained.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from verydeep.configurations import check_sizes, configuration
from verydeep.errors import UserError
from verydeep.files import written_aside
from verydeep.network import ConvNet

FILE_NAME = "weights.safetensors"
"""Name of the weight file in a run directory."""

FLOATS = ("F32", "F16", "BF16", "F64")
"""Types of tensors that are read, by safetensors' names; written is the first."""


class Card(BaseModel):
    """What a weight file says about its net besides the numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["verydeep-1"] = "verydeep-1"
    configuration: str
    classes: int
    class_names: tuple[str, ...] | None = None
    crop: int
    width: float
    fully_connected: int
    dropout: float
    preprocessing: Literal["RGB in 0..255; the net subtracts its mean colour"] = (
        "RGB in 0..255; the net subtracts its mean colour"
    )
    training_scale: tuple[int, int] | None = None
    """Smin and Smax of the training images, in pixels of the smallest side (Sect. 3.1)."""
    flip: bool = True
    """Whether mirrored images were training images too."""
    provenance: dict[str, Any] = {}
    """Where the weights come from: recipe, data set, epochs, errors, versions."""


def card_of(net: ConvNet, **more: Any) -> Card:
    """The card of a net; `more` gives the fields that a net does not know, such as `provenance`."""
    return Card(
        configuration=net.configuration.name,
        classes=net.classes,
        class_names=net.class_names,
        crop=net.crop,
        width=net.width,
        fully_connected=net.fully_connected,
        dropout=net.dropout,
        **more,
    )


def save(net: ConvNet, path: str | Path, card: Card | None = None) -> None:
    """Write a weight file, whole or not at all.

    Args:
        net: the net; its parameters are stored as float32.
        path: the file, `.safetensors` by custom; replaced where it exists.
        card: what the file says about the net; that of `card_of(net)` where None.

    Raises:
        UserError: where the file cannot be written.
    """
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in net.state_dict().items()}
    metadata = {"verydeep": (card or card_of(net)).model_dump_json()}
    with written_aside(Path(path)) as aside:
        try:
            save_file(tensors, aside, metadata)
        except SafetensorError as error:  # it wraps the system's error in its own
            raise OSError(str(error)) from error


def load(source: str | Path) -> ConvNet:
    """Load a net in evaluation mode.

    Args:
        source: a run directory or a weight file.

    Raises:
        UserError: where there is none, where it is damaged, or where the tensors are not those of the net that
            its card names.
    """
    path = weight_file(source)
    card = read_card(path)
    wanted = {
        f"{layer.name}.{kind}": shape
        for layer in configuration(card.configuration).layers(
            card.classes, card.crop, card.width, card.fully_connected
        )
        if layer.kind == "conv"
        for kind, shape in (
            ("weight", (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)),
            ("bias", (layer.out_channels,)),
        )
    } | {"mean": (3,)}
    # Shapes are compared before anything is allocated: a card may claim any size.
    with safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise UserError(
                    f"{path}: tensor {name} has shape {found.get(name, 'none, it is missing')}; net "
                    f"{card.configuration} wants {wanted.get(name, 'no such tensor')}; the file is not whole or "
                    "was made by something else"
                )
            if name in wanted and (kind := file.get_slice(name).get_dtype()) not in FLOATS:
                raise UserError(f"{path}: tensor {name} is of type {kind}; weights are {', '.join(FLOATS)}")
        tensors = {name: file.get_tensor(name).float() for name in wanted}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: tensor {name} holds values that are not finite; its training has diverged")
    with torch.device("meta"):  # no time for random weights that are replaced at once
        net = ConvNet(
            card.configuration,
            card.class_names or card.classes,
            card.crop,
            card.width,
            card.fully_connected,
            card.dropout,
        )
    net.load_state_dict(tensors, assign=True)
    net.lay_out()
    net.requires_grad_(True)
    return net.eval()


def read_card(source: str | Path) -> Card:
    """The card of a run directory's or a weight file's net, without loading its parameters.

    Raises:
        UserError: where there is none, or where it is no weight file of this project.
    """
    path = weight_file(source)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no readable weight file (safetensors): {error}") from error
    if "verydeep" not in metadata:
        raise UserError(
            f"{path} is a safetensors file of another system: it has no card of verydeep in its header"
        )
    try:
        card = Card.model_validate(json.loads(metadata["verydeep"]))
    except (ValidationError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: its card cannot be read: {_first_line(error)}") from error
    if card.class_names is not None and len(card.class_names) != card.classes:
        raise UserError(f"{path}: its card names {len(card.class_names)} classes for a net of {card.classes}")
    try:
        configuration(card.configuration)
        check_sizes(card.classes, card.crop, card.width, card.fully_connected)
    except UserError as error:
        raise UserError(f"{path}: its card names no net: {error}") from error
    return card


def weight_file(source: str | Path) -> Path:
    """The weight file of a run directory, or the file itself.

    Raises:
        UserError: where there is no such file.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise UserError(
                f"{path} holds no {FILE_NAME}: it is no run directory, or its first epoch has not ended"
            )
        return path / FILE_NAME
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run directory or a weight file ({FILE_NAME})")
    return path


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([".".join(map(str, first["loc"])), first["msg"]] if first["loc"] else [first["msg"]])
    return str(error).splitlines()[0]
