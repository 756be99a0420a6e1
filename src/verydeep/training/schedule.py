"""Sect. 3.1: the learning rate, divided by 10 when the validation accuracy has stopped improving, three times."""

from collections.abc import Sequence
from dataclasses import dataclass

from verydeep.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """Where a training stands."""

    rate: float
    drops: int
    """How often the rate was divided so far."""
    ended: bool
    """Whether the accuracy has stopped improving at the last rate too."""


def stage(recipe: Recipe, initial_rate: float, validation_errors: Sequence[float]) -> Stage:
    """The stage after epochs with these validation errors, in order; a function of them and nothing else.

    `patience` epochs in a row without an error below all before count as "stopped improving". Where the recipe
    says after which epochs the rate is divided, the errors decide nothing.
    """
    if recipe.drop_after:
        drops = sum(epoch <= len(validation_errors) for epoch in recipe.drop_after)
        return Stage(initial_rate / recipe.rate_divisor**drops, drops, ended=False)
    best, waited, drops = float("inf"), 0, 0
    for error in validation_errors:
        if error < best:
            best, waited = error, 0
        else:
            waited += 1
        if waited == recipe.patience:
            if drops == recipe.rate_drops:
                return Stage(initial_rate / recipe.rate_divisor**drops, drops, ended=True)
            drops, waited = drops + 1, 0
    return Stage(initial_rate / recipe.rate_divisor**drops, drops, ended=False)
