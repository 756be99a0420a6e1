"""The weight file: parameters, configuration, preprocessing, classes and provenance in one safetensors file.

Loading never executes code. The file contains everything needed to use the net correctly: the mean colour is one
of its tensors, and the `Card` in its header says which net it is, its classes and how it was trained.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from safetensors import safe_open
from torch import Tensor, nn

from verydeep.card import PREPROCESSING, Card
from verydeep.configurations import Architecture, Layer
from verydeep.errors import UserError, reason
from verydeep.files import exists, is_file, is_folder, written_aside
from verydeep.linear import CLASSIFIER, classifier_header, read_classifier
from verydeep.network import ConvNet, new_module
from verydeep.published.download import download
from verydeep.published.registry import registry, similar
from verydeep.sealed import Damaged, check_arrays, write_arrays
from verydeep.torch_internals import wrapped

FILE_NAME = "weights.safetensors"
"""Name of the weight file in a run directory."""

BEST_FILE_NAME = "best.safetensors"
"""Name of the weight file of the best epoch in a run directory."""

FORMAT, EARLIER_FORMAT = "verydeep-2", "verydeep-1"
"""The format that is written, and an earlier one that can be read, with the sizes as fields of the card itself."""

CARD = "verydeep"
"""Name of the card in the header's metadata."""

FLOATS = ("F32", "F16", "BF16", "F64")
"""Types of tensors that can be read, by safetensors' names; the first is the one that is written."""


def convolutional_net(net: object) -> ConvNet:
    """Return the `ConvNet` itself, without wrappers of torch.compile, DataParallel or AveragedModel.

    Raises:
        UserError: if there is none.
    """
    inner = net
    while isinstance(inner, nn.Module) and not isinstance(inner, ConvNet):
        inner = wrapped(inner)
    if not isinstance(inner, ConvNet):
        kind = type(net).__name__
        raise UserError(
            f"the net is of type {kind}; pass a verydeep.ConvNet, or the path of a run or a weight file"
        )
    return inner


def save(net: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write a weight file, completely or not at all.

    A net that `load` would refuse is refused before a file is touched.

    Args:
        net: a `ConvNet`, possibly wrapped by torch.compile, DataParallel or AveragedModel; its parameters are
            stored as float32, together with its card, and its linear classifier if it has one.
        path: the file, by convention `.safetensors`; replaced if it exists.
        half: store the parameters as float16, in half the space; `load` makes them float32 again.

    Raises:
        UserError: if the net is not a `ConvNet`, if its tensors are not those of its architecture (a layer was
            pruned, parametrized, replaced by one of another shape, or has no bias), if a layer computes something
            else, if a tensor is not finite (in float16: too large), or if the file cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"the path is {path!r}; pass the path of the file to write")
    content = Content.of(net, half)
    with written_aside(Path(path)) as aside:
        content.write(aside)


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a weight file."""

    arrays: dict[str, np.ndarray]
    """Parameters and mean colour; in float32 they share memory with a net in float32 on the CPU."""
    header: str
    """The card, as it is written to the file's header."""
    classifier: dict[str, str] = field(default_factory=dict)
    """The settings of the linear classifier, for the header; empty if the net has none."""

    @classmethod
    def of(cls, net: nn.Module, half: bool = False) -> "Content":
        """Return the content of a net's weight file; the arguments and the errors are those of `save`."""
        inner = convolutional_net(net)
        tensors = inner.state_dict()
        shapes_found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if complaint := misfit(inner.card.architecture, shapes_found):
            raise UserError(
                f"cannot save the net: {complaint}. Make pruning permanent (torch.nn.utils.prune.remove) and "
                "remove parametrizations (torch.nn.utils.parametrize.remove_parametrizations); save a net with "
                "other layers with torch.save"
            )
        if layer := other_layer(inner, inner.layers):
            raise UserError(
                f"cannot save the net: {layer}. A weight file contains only tensors and a card, so load would "
                "build another net from it; save this net with torch.save"
            )
        if strange := next((name for name, tensor in tensors.items() if type(tensor) is not Tensor), None):
            raise UserError(
                f"cannot save the net: {strange} is a {type(tensors[strange]).__name__}; use whole, plain tensors"
            )
        if empty := next((name for name, tensor in tensors.items() if tensor.is_meta), None):
            raise UserError(f"cannot save the net: {empty} is on the meta device and has no values")
        own = {name: tensor.to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
        if bad := not_finite(own):
            raise UserError(
                f"cannot save the net: {bad} holds values that are not finite; its training has diverged"
            )
        if half:  # but for the mean colour, whose pixels have eight bits before the point
            own = {name: tensor if name == "mean" else tensor.half() for name, tensor in own.items()}
            if bad := not_finite(own):
                raise UserError(
                    f"cannot save the net: {bad} holds values beyond float16 (65504); save it in float32"
                )
        arrays = {name: tensor.numpy() for name, tensor in own.items()}
        if inner.classifier is None:
            return cls(arrays, header(inner.card))
        inner.classifier.check(inner.card.architecture)
        arrays |= inner.classifier.arrays
        return cls(arrays, header(inner.card), {CLASSIFIER: classifier_header(inner.classifier)})

    def write(self, path: Path) -> None:
        """Write the weight file, with its digest, to a path that nothing else reads yet.

        Raises:
            OSError: if the system cannot write it.
        """
        write_arrays(path, self.arrays, {CARD: self.header} | self.classifier)


def load(source: str | os.PathLike[str]) -> ConvNet:
    """Load a net in evaluation mode.

    Args:
        source: a run directory or a weight file.

    Raises:
        UserError: if there is no weight file, if it is damaged, if its tensors are not those of the net that its
            card describes, or if a value is not finite.
    """
    path = weight_file(source)
    metadata = _metadata(path)
    card = _card(path, metadata)
    with safe_open(path, framework="pt") as file:
        names = checked_names(path, file, card.architecture)
        own = [name for name in file.keys() if name not in names]  # noqa: SIM118
        tensors = {name: file.get_tensor(name).float() for name in names}
        linear = {name: file.get_tensor(name).float().numpy() for name in own}
    if bad := not_finite(tensors):
        raise UserError(f"{path}: tensor {bad} holds values that are not finite; its training has diverged")
    net = assembled(card, tensors)
    if CLASSIFIER in metadata:
        net.classifier = read_classifier(path, metadata[CLASSIFIER], linear, card.architecture)
    return net


def checked_names(path: Path, file: Any, architecture: Architecture) -> list[str]:
    """Return the names of a net's tensors in a weight file, after a check of their shapes and types.

    Nothing has to be allocated for it: a card may claim any size.

    Args:
        path: the file, for messages.
        file: the same, opened by safetensors.
        architecture: that of its card.

    Raises:
        UserError: if they are not the tensors of this architecture.
    """
    names = list(file.keys())
    if CLASSIFIER in (file.metadata() or {}):  # a linear classifier, which is stored with the net
        names = [name for name in names if not name.startswith(f"{CLASSIFIER}.")]
    if complaint := misfit(architecture, {name: tuple(file.get_slice(name).get_shape()) for name in names}):
        raise UserError(f"{path}: {complaint}; the file is incomplete, or another program made it")
    for name in names:
        if (kind := file.get_slice(name).get_dtype()) not in FLOATS:
            raise UserError(f"{path}: tensor {name} is of type {kind}; weights are {', '.join(FLOATS)}")
    return names


def assembled(card: Card, tensors: Mapping[str, Tensor]) -> ConvNet:
    """Return a net in evaluation mode with this card and these tensors, which must be all of its tensors."""
    net = with_tensors(card, tensors)
    net.lay_out()
    net.requires_grad_(True)
    return net.eval()


def with_tensors(card: Card, tensors: Mapping[str, Tensor]) -> ConvNet:
    """Return a net with this card and these tensors themselves, not copies; they must be all of its tensors."""
    with torch.device("meta"):  # saves drawing random weights that would be replaced at once
        net = ConvNet(card.architecture)
    net.card = card
    net.load_state_dict(dict(tensors), assign=True)
    return net


def feature_net(net: nn.Module) -> ConvNet:
    """Return the feature net of a net: a copy of its convolutions, without fc6, fc7 and fc8.

    Its layers end at pool5, and its features are equal bit for bit to those of the whole net. It takes images from
    32 x 32 pixels on. Its file is much smaller: 59 MB instead of 553 MB for net D.

    Args:
        net: a `ConvNet`, possibly wrapped by torch.compile, DataParallel or AveragedModel.

    Returns:
        A new net of 0 classes, in evaluation mode, on the same device and of the same type. It shares no memory
        with the given one. Its card keeps the training scale and the provenance, which names the layers that were
        dropped.

    Raises:
        UserError: if the net is not a `ConvNet`, or one of its convolutional layers is not that of its
            architecture (pruned, parametrized, replaced).
    """
    inner = convolutional_net(net)
    card = inner.card
    architecture = replace(card.architecture, classes=0)
    state = inner.state_dict()
    dropped = [layer.name for layer in card.architecture.layers if layer.fully_connected and layer.kind == "conv"]
    tensors = {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in dropped}
    complaint = misfit(architecture, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if complaint := complaint or other_layer(inner, architecture.layers):
        raise UserError(f"cannot take the convolutions of the net: {complaint}")
    provenance = card.provenance | ({"dropped": dropped} if dropped else {})
    made = replace(card, architecture=architecture, class_names=None, provenance=provenance)
    return assembled(made, {name: tensor.detach().clone() for name, tensor in tensors.items()})


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a net's weight file, by name."""
    wanted: dict[str, tuple[int, ...]] = {"mean": (3,)}
    for layer in architecture.layers:
        if layer.kind == "conv":
            wanted[f"{layer.name}.weight"] = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
            wanted[f"{layer.name}.bias"] = (layer.out_channels,)
    return wanted


def misfit(architecture: Architecture, found: Mapping[str, tuple[int, ...]]) -> str:
    """Describe the first tensor, by name, that does not fit the architecture; empty if all of them fit."""
    wanted = shapes(architecture)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            return (
                f"tensor {name} has shape {found.get(name, 'none (it is missing)')}; net "
                f"{architecture.configuration} needs {wanted.get(name, 'no such tensor')}"
            )
    return ""


def other_layer(net: ConvNet, layers: Sequence[Layer]) -> str:
    """Describe one of these layers that differs from what `load` would build in its place; empty if none does.

    Dropouts do not count: they do nothing in testing.
    """
    if type(net).forward is not ConvNet.forward:
        return f"{type(net).__name__} has its own forward"
    with torch.device("meta"):  # only their settings are compared
        as_made = [new_module(layer, 0.0, position) for position, layer in enumerate(layers)]
    for layer, made in zip(layers, as_made, strict=True):
        module = net.get_submodule(layer.name)
        if layer.kind != "dropout" and (type(module) is not type(made) or _settings(module) != _settings(made)):
            return f"{layer.name} is {module}, where a net {net.configuration.name} has {made}"
    return ""


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the settings of a convolution or pooling that determine what it computes."""
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "ceil_mode")
    return {name: getattr(module, name, None) for name in names}


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with a value that is not finite; empty if there is none."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")


def read_card(source: str | os.PathLike[str]) -> Card:
    """Read the card of the net in a run directory or weight file, without loading its parameters.

    This reads the whole file to check its digest; files from versions before 0.3 have none.

    Raises:
        UserError: if there is no weight file, if it is damaged, or if verydeep did not write it.
    """
    path = weight_file(source)
    return _card(path, _metadata(path))


def _metadata(path: Path) -> dict[str, str]:
    try:
        return check_arrays(path, known=(CARD, "format"))  # PyTorch's other tools write "format"
    except Damaged as error:
        raise UserError(f"{error}; copy it again from its source, or train the net again") from error
    except OSError as error:
        raise UserError(f"cannot read the weight file {path}: {reason(error)}") from error


def _card(path: Path, metadata: Mapping[str, str]) -> Card:
    if CARD not in metadata:
        raise UserError(f"{path} is a safetensors file from another system: its header has no card of verydeep")
    try:
        return card_of_file(json.loads(metadata[CARD]))
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: its card cannot be read: {_first_line(error)}") from error


_CARD = TypeAdapter(with_config(ConfigDict(extra="forbid", strict=False))(Card))


def header(card: Card) -> str:
    """Return a card as it is written to a weight file's header.

    Raises:
        UserError: if it could not be read back: a field has another type, or JSON cannot represent the provenance.
    """
    fields = asdict(card)
    if card.rescaling == "bilinear":  # left out, since versions that know no other filter refuse unknown fields
        del fields["rescaling"]
    try:
        text = json.dumps({"format": FORMAT, "preprocessing": PREPROCESSING, **fields}, allow_nan=False)
        card_of_file(json.loads(text))
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot save the net: its card cannot be written: {_first_line(error)}") from error
    return text


def card_of_file(fields: Any) -> Card:
    """Return the card in a weight file's header, in this format or the earlier one.

    Raises:
        UserError: if the format or the preprocessing is unknown.
        ValueError: if the fields are not those of a card.
    """
    if not isinstance(fields, dict) or fields.get("format") not in (FORMAT, EARLIER_FORMAT):
        there = fields.get("format") if isinstance(fields, dict) else fields
        raise UserError(f"its format is {there!r}; this version reads {FORMAT} and {EARLIER_FORMAT}")
    fields = {name: value for name, value in fields.items() if name != "format"}
    if (preprocessing := fields.pop("preprocessing", PREPROCESSING)) != PREPROCESSING:
        raise UserError(f"its preprocessing is {preprocessing!r}; this version knows {PREPROCESSING!r}")
    if "architecture" not in fields:
        sizes = Architecture.__dataclass_fields__
        fields["architecture"] = {name: fields.pop(name) for name in sizes if name in fields}
    return _CARD.validate_python(fields)


def weight_file(source: str | os.PathLike[str]) -> Path:
    """Return the path of a run directory's weight file, of the file itself, or of published weights.

    A path that exists is never taken for a name. Published weights are downloaded if they are not in the cache.

    Args:
        source: a run directory, a weight file, or the name of published weights, such as torchvision/vgg16.

    Raises:
        UserError: if there is no such file or name, the system cannot tell, or a download fails.
    """
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"the source is {source!r}; pass the path of a run directory or a weight file")
    path = Path(source)
    if is_folder(path):
        if not is_file(path / FILE_NAME):
            raise UserError(
                f"{path} holds no {FILE_NAME}: it is not a run directory, or its first epoch has not ended"
            )
        return path / FILE_NAME
    if exists(path):
        return path
    name = os.fspath(source)
    if name in registry():
        return download(name)
    hint = similar(name)
    raise UserError(
        f"{path} does not exist; {f'{hint} ' if hint else ''}pass a run directory, a weight file ({FILE_NAME}) or "
        "the name of published weights (see verydeep weights)"
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        return ": ".join([".".join(map(str, first["loc"])), message] if first["loc"] else [message])
    return str(error).splitlines()[0]
