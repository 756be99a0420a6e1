"""Sect. 3.1: when validation stops improving the learning rate is divided by 10, three times; then it ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from verydeep.recipe import Recipe

LIMITS = {"epochs": "limit of epochs", "iterations": "limit of iterations"}
"""Why a training has ended that can be resumed with a higher limit, by the limit's field of the recipe."""


@dataclass(frozen=True)
class Stage:
    """Where a training is in its schedule."""

    rate: float
    drops: int
    """How often the rate has been divided."""
    ended: bool
    """Whether validation has stopped improving at the last rate, too."""


def stage(recipe: Recipe, initial_rate: float, validation_errors: Sequence[float]) -> Stage:
    """Return the stage after epochs with these validation errors, in order; it depends on nothing else.

    Validation has stopped improving after `patience` epochs in a row without an error below all earlier ones. If
    the recipe says after which epochs the rate is divided, errors do not matter.
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


def last_iteration(recipe: Recipe, per_epoch: int) -> int:
    """Return the iteration that a training ends with at the latest.

    Args:
        recipe: its limits.
        per_epoch: iterations per epoch.
    """
    return min(recipe.iterations, recipe.epochs * per_epoch)


def planned_epochs(recipe: Recipe, per_epoch: int) -> int:
    """Return the number of epochs up to `last_iteration`; a limit of iterations may cut the last one short."""
    return -(-last_iteration(recipe, per_epoch) // per_epoch)


def why_ended(recipe: Recipe, stage: Stage, iteration: int, per_epoch: int) -> str:
    """Return why a training ends after an epoch; empty if it does not.

    Args:
        recipe: the recipe.
        stage: of the schedule, after that epoch.
        iteration: the last iteration of that epoch.
        per_epoch: iterations per epoch.
    """
    if stage.ended:
        return f"no lower validation error after {recipe.rate_drops} drops of the rate"
    last = last_iteration(recipe, per_epoch)
    if iteration < last:
        return ""
    return LIMITS["iterations" if last == recipe.iterations else "epochs"]
