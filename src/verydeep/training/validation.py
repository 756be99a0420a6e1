"""Sect. 3.1: the validation after each epoch, and which epoch was best by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from verydeep.network import ConvNet


class Validated(NamedTuple):
    """What a validation measured."""

    error: float
    """Top-1 error in [0, 1]."""
    loss: float
    """Mean of -ln(posterior of the true class)."""


@dataclass(frozen=True)
class Validation:
    """How a net is validated after each epoch."""

    protocol: str
    """The protocol of the errors; logged with each of them."""
    images: int
    """Size of the validation set."""
    measure: Callable[[ConvNet], Validated]
    """Validate a net; called on every rank."""


def best_epoch(errors: Sequence[float]) -> int:
    """Return the number, from 1, of the epoch with the lowest validation error: the earliest of equal ones.

    Args:
        errors: validation errors of the epochs, in order.

    Returns:
        The epoch, or 0 if there are no errors.
    """
    return min(range(len(errors)), key=lambda at: errors[at]) + 1 if errors else 0
