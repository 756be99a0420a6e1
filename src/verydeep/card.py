"""The metadata of a net: which net it is, its classes, and how it was trained.

`ConvNet.card` holds it, and `weights.py` writes it to the weight file: testing needs to know at which scale a net
was trained, and whether on mirror images.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from verydeep.configurations import Architecture
from verydeep.errors import UserError

PREPROCESSING = "RGB in 0..255; the net subtracts its mean colour"
"""The input of every net of this project."""

Rescaling: TypeAlias = Literal["bilinear", "bicubic"]
"""The filter for rescaling photographs, with antialiasing."""


@dataclass(frozen=True)
class Card:
    """A net's card.

    Raises:
        UserError: if the number of class names is not that of the net's classes, the filter is unknown, or the
            training scale is smaller than the crop or out of order.
    """

    architecture: Architecture
    class_names: tuple[str, ...] | None = None
    """Names in the order of the class scores; None if only their number is known."""
    training_scale: tuple[int, int] | None = None
    """Smin and Smax of the training images, in pixels of the smallest side (Sect. 3.1); None if unknown."""
    flip: bool = True
    """Whether the net was also trained on mirror images."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: recipe, data set, epochs, errors, versions."""
    rescaling: Rescaling = "bilinear"
    """How the training images were rescaled; test images are rescaled in the same way."""

    def __post_init__(self) -> None:
        names, classes = self.class_names, self.architecture.classes
        if names is not None and not (isinstance(names, tuple) and all(isinstance(name, str) for name in names)):
            raise UserError(f"class_names is {names!r}; pass a tuple of names")
        if names is not None and len(names) != classes:
            raise UserError(f"the card has {len(names)} class names for a net with {classes} classes")
        if self.rescaling not in get_args(Rescaling):
            raise UserError(f"rescaling is {self.rescaling!r}; choose one of {', '.join(get_args(Rescaling))}")
        if self.training_scale is not None:
            low, high = self.training_scale
            if not self.architecture.crop <= low <= high:
                raise UserError(
                    f"training_scale is {self.training_scale}; pass Smin and Smax in pixels, with the crop "
                    f"({self.architecture.crop}) <= Smin <= Smax"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, or "class 0", "class 1", ... if they are unknown."""
        return self.class_names or tuple(f"class {number}" for number in range(self.architecture.classes))
