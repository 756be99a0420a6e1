"""What is known about a net besides its numbers: which net it is, its classes, how it was trained.

`ConvNet.card` holds it and `weights.py` writes it beside the numbers: testing needs to know at which scale a net
was trained, and whether it has seen mirror images.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from verydeep.configurations import Architecture
from verydeep.errors import UserError

PREPROCESSING = "RGB in 0..255; the net subtracts its mean colour"
"""What every net of this project takes."""

Rescaling: TypeAlias = Literal["bilinear", "bicubic"]
"""The filter that photographs are rescaled with, antialiased."""


@dataclass(frozen=True)
class Card:
    """A net's card.

    Raises:
        UserError: where it names another number of classes than the net has, or a filter that is not known.
    """

    architecture: Architecture
    class_names: tuple[str, ...] | None = None
    """In the order of the class scores; None where only their number is known."""
    training_scale: tuple[int, int] | None = None
    """Smin and Smax of the training images, in pixels of the smallest side (Sect. 3.1); None where not known."""
    flip: bool = True
    """Whether mirrored images were training images too."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: recipe, data set, epochs, errors, versions."""
    rescaling: Rescaling = "bilinear"
    """How the training images were rescaled; those that the net is tested on are rescaled in the same way."""

    def __post_init__(self) -> None:
        names, classes = self.class_names, self.architecture.classes
        if names is not None and not (isinstance(names, tuple) and all(isinstance(name, str) for name in names)):
            raise UserError(f"class_names is {names!r}; give a tuple of names")
        if names is not None and len(names) != classes:
            raise UserError(f"the card names {len(names)} classes for a net of {classes}")
        if self.rescaling not in get_args(Rescaling):
            raise UserError(f"rescaling is {self.rescaling!r}; choose one of {', '.join(get_args(Rescaling))}")
        if self.training_scale is not None:
            low, high = self.training_scale
            if not self.architecture.crop <= low <= high:
                raise UserError(
                    f"training_scale is {self.training_scale}; give Smin and Smax in pixels, from the crop "
                    f"({self.architecture.crop}) on"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, or "class 0", "class 1", ... where they are not known."""
        return self.class_names or tuple(f"class {number}" for number in range(self.architecture.classes))
