"""Appendix B: a linear classifier on a net's descriptors, as it is stored with the net."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float32
from pydantic import ConfigDict, TypeAdapter, with_config

from verydeep.configurations import STRIDE, Architecture
from verydeep.errors import UserError

CLASSIFIER = "classifier"
"""Name of a classifier's settings in the header of a weight file, and the beginning of its tensors' names."""

Aggregation: TypeAlias = Literal["average", "stack"]
"""How the descriptors of several scales become one: their mean, or all of them one after the other."""


@dataclass(frozen=True)
class Description:
    """How one net describes a photograph.

    Raises:
        UserError: if a scale is too small or given twice, or the aggregation is unknown.
    """

    layer: str
    """The layer whose output is averaged over its map: relu7, or pool5 for a feature net."""
    scales: tuple[int, ...]
    """Test scales Q in pixels."""
    aggregation: Aggregation

    def __post_init__(self) -> None:
        if not self.scales or len(set(self.scales)) < len(self.scales) or min(self.scales) < STRIDE:
            raise UserError(f"scales are {list(self.scales)}; pass test scales Q of at least {STRIDE}, each once")
        if self.aggregation not in get_args(Aggregation):
            raise UserError(
                f"aggregation is {self.aggregation!r}; choose one of {', '.join(get_args(Aggregation))}"
            )

    def __str__(self) -> str:
        scales = f"Q = {', '.join(map(str, self.scales))}"
        how = {"average": "averaged", "stack": "stacked"}[self.aggregation]
        return f"{self.layer}, {scales}{f', {how}' if len(self.scales) > 1 else ''}"

    def length(self, architecture: Architecture) -> int:
        """Return the number of values of a descriptor of this net.

        Raises:
            UserError: if the net does not have the layer.
        """
        channels = {layer.name: layer.out_channels for layer in architecture.layers}
        if self.layer not in channels:
            raise UserError(f"net {architecture.configuration} has no layer {self.layer!r}")
        return channels[self.layer] * (len(self.scales) if self.aggregation == "stack" else 1)


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """A linear classifier of one net's descriptors. A descriptor x has the scores `weight @ x + bias`.

    Scores are decision values of support vector machines, one per class, and not posteriors: a photograph belongs
    to the class of the highest score, or, if it may belong to several, to all those with a positive score.

    Raises:
        UserError: if the shapes do not fit together, or a value is not finite.
    """

    classes: tuple[str, ...]
    """Class names, in the order of the scores."""
    description: Description
    weight: Float32[np.ndarray, "K D"]
    bias: Float32[np.ndarray, " K"]
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data set, number of training photographs, C, and what was measured; JSON must be able to represent it."""

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.weight.ndim != 2 or self.bias.ndim != 1:
            raise UserError("a linear classifier needs a matrix of weights and a vector of biases")
        if not count or self.weight.shape[:1] != (count,) or self.bias.shape != (count,):
            raise UserError(
                f"a linear classifier of {count} classes has weights of shape {self.weight.shape} and a bias of "
                f"shape {self.bias.shape}; it needs one row and one value per class"
            )
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise UserError("a linear classifier has values that are not finite")

    def check(self, architecture: Architecture) -> None:
        """Refuse a net that this classifier is not for.

        Raises:
            UserError: if the net does not have the layer, or its descriptors have another length.
        """
        wanted = self.description.length(architecture)
        if self.weight.shape[1] != wanted:
            raise UserError(
                f"the linear classifier takes descriptors of {self.weight.shape[1]} values; this net "
                f"{architecture.configuration} gives {wanted} ({self.description})"
            )

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors of the classifier in a weight file, by name."""
        return {f"{CLASSIFIER}.weight": self.weight, f"{CLASSIFIER}.bias": self.bias}


_DESCRIPTION = TypeAdapter(with_config(ConfigDict(extra="forbid"))(Description))


def classifier_header(classifier: LinearClassifier) -> str:
    """Return the settings of a classifier as they are written to a weight file's header.

    Raises:
        UserError: if JSON cannot represent the provenance.
    """
    described = asdict(classifier.description)
    fields = {"classes": classifier.classes, "description": described, "provenance": classifier.provenance}
    try:
        return json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot save the classifier: its provenance cannot be written: {error}") from error


def read_classifier(
    path: Path, text: str, arrays: Mapping[str, np.ndarray], architecture: Architecture
) -> LinearClassifier:
    """Return the classifier in a weight file.

    Args:
        path: the file, for messages.
        text: its settings, from the header.
        arrays: its tensors, float32.
        architecture: of the net in the file.

    Raises:
        UserError: if something is missing, or does not fit together or to the net.
    """
    try:
        fields = json.loads(text)
        found = LinearClassifier(
            tuple(map(str, fields["classes"])),
            _DESCRIPTION.validate_python(fields["description"]),
            arrays[f"{CLASSIFIER}.weight"],
            arrays[f"{CLASSIFIER}.bias"],
            dict(fields["provenance"]),
        )
        found.check(architecture)
    except KeyError as error:
        raise UserError(f"{path}: its linear classifier has no {error.args[0]}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: its linear classifier cannot be read: {str(error).splitlines()[0]}") from error
    return found
