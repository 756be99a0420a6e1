"""Appendix A: what the outputs of a box regressor mean: one box for all classes (SCR), or one per class (PCR).

A regressor is a net of Table 1 whose fc8 has 4 outputs, or 4 per class. Their names are in its card, in place of
those of the classes, so that the weight file alone says what the net is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from verydeep.errors import UserError

Regression = Literal["SCR", "PCR"]
"""Single-class regression, whose box is shared by all classes, or per-class regression."""

COORDINATES = ("centre x", "centre y", "width", "height")


@dataclass(frozen=True)
class Outputs:
    """The outputs of a box regressor."""

    classes: tuple[str, ...]
    """The classes that it has boxes for; empty for one box shared by all classes."""

    @property
    def regression(self) -> Regression:
        """SCR or PCR."""
        return "PCR" if self.classes else "SCR"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all outputs, in order."""
        prefixes = [f"{name}: " for name in self.classes] or [""]
        return tuple(f"{prefix}{coordinate}" for prefix in prefixes for coordinate in COORDINATES)

    def of_class(self, outputs: Float[np.ndarray, "N outputs"], name: str) -> Float[np.ndarray, "N 4"]:
        """Return the four outputs for the box of a class.

        Raises:
            UserError: if the regressor does not know the class.
        """
        if not self.classes:
            return outputs
        if name not in self.classes:
            raise UserError(
                f"the box regressor knows no class {name!r}; it was trained with {', '.join(self.classes)}"
            )
        first = 4 * self.classes.index(name)
        return outputs[:, first : first + 4]


def outputs_for(classes: Sequence[str], regression: str) -> Outputs:
    """Return the outputs of a regressor for these classes.

    Raises:
        UserError: if the regression is unknown.
    """
    if regression not in ("SCR", "PCR"):
        raise UserError(f"regression is {regression!r}; choose SCR (one box) or PCR (one box per class)")
    return Outputs(tuple(classes) if regression == "PCR" else ())


def are_boxes(names: Sequence[str]) -> bool:
    """Return whether these are the names of a box regressor's outputs, and not of classes."""
    try:
        outputs_named(names)
    except UserError:
        return False
    return True


def outputs_named(names: Sequence[str]) -> Outputs:
    """Return the outputs of a regressor from the names in its card.

    Raises:
        UserError: if these are not the names of boxes: the net is a classifier.
    """
    ending = f": {COORDINATES[0]}"
    found = Outputs(tuple(name.removesuffix(ending) for name in names[::4] if name.endswith(ending)))
    if found.names != tuple(names):
        raise UserError("the net predicts classes, not boxes; train a box regressor with verydeep localise train")
    return found
