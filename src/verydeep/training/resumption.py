"""What `resume` reads from a run directory: its recipe with higher limits, its data, how it was computed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from verydeep import recipe as recipes
from verydeep.computing import Precision
from verydeep.configurations import whole_number
from verydeep.errors import UserError
from verydeep.files import is_folder, read_json
from verydeep.recipe import Recipe
from verydeep.training.run import DATA, ENVIRONMENT, Run
from verydeep.training.schedule import LIMITS


def resumed_recipe(run: Run, epochs: int | None = None, iterations: int | None = None) -> Recipe:
    """Return the recipe of a run with new limits.

    Args:
        run: the run.
        epochs: new limit of epochs; if None, the run's own.
        iterations: new limit of iterations; if None, the run's own.

    Raises:
        UserError: if a limit is not above what the run has done, or if the run ended because validation stopped
            improving.
    """
    given = {"epochs": epochs, "iterations": iterations}
    limits = {name: whole_number(name, value) for name, value in given.items() if value is not None}
    recipe = recipes.changed(run.recipe, limits) if limits else run.recipe
    if recipe == run.recipe:
        return recipe
    if run.ended and run.ended not in LIMITS.values():
        raise UserError(
            f"{run.path} has ended ({run.ended}), and a higher limit does not continue it; start a new run "
            f"from its weights with --start-from {run.path}"
        )
    done = {"epochs": len(run.epochs), "iterations": run.epochs[-1].iteration if run.epochs else 0}
    for name, limit in limits.items():
        if limit <= done[name] and limit != getattr(run.recipe, name):
            raise UserError(
                f"{name} is {limit}, but {run.path} has already done {done[name]}; use a higher number"
            )
    return recipe


def recorded_data(run: Path) -> str | None:
    """Return the data set of a classifier's run: an absolute path or "digits"; None if it is no longer there."""
    if recorded_regression(run):
        return None
    try:
        path = read_json(run / DATA)["path"]
        # A relative path is the name of a data set that a program made in memory.
        there = path == "digits" or (Path(path).is_absolute() and is_folder(Path(path)))
    except (UserError, LookupError, TypeError):
        return None
    return path if there else None


def recorded_regression(run: Path) -> str:
    """Return SCR or PCR for the run of a box regressor (Appendix A), else an empty string."""
    try:
        found = read_json(run / DATA).get("regression", "")
    except (UserError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


@dataclass(frozen=True)
class Recorded:
    """How a run was computed when it was last started."""

    device: str = "auto"
    precision: Precision = "fp32"
    micro_batch: int = 0
    compile: bool = False
    recompute: bool = False
    deterministic: bool = False


def recorded_execution(run: Path) -> Recorded:
    """Return how a run was computed when it was last started; the defaults for whatever is not recorded."""
    try:
        start = read_json(run / ENVIRONMENT)[-1]
        computing: Any = start.get("computing", {})
        device, precision, micro_batch = start.get("device"), computing.get("precision"), start.get("micro_batch")
        return Recorded(
            device.partition(":")[0] if isinstance(device, str) else "auto",
            precision if precision in get_args(Precision) else "fp32",
            micro_batch if isinstance(micro_batch, int) else 0,
            start.get("compile") is True,
            start.get("recompute") is True,
            computing.get("deterministic") is True,
        )
    except (UserError, LookupError, TypeError, AttributeError):
        return Recorded()
