"""Sect. 3.1: the weights that a training starts from, and the learning rate that follows from them.

A run keeps its start in start.json, since those weights may change later, or be gone.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from verydeep import recipe as recipes
from verydeep import weights
from verydeep.errors import UserError
from verydeep.files import digest, written_aside
from verydeep.interop.loading import located, read_card
from verydeep.printable import decoded
from verydeep.recipe import Recipe

FILE_NAME = "start.json"


@dataclass(frozen=True)
class Start:
    """Origin of the initial weights of a training."""

    path: str | None
    """The weight file, absolute, as `decoded` has it; None for random weights."""
    weights: str | None
    """SHA-256 of the weight file, which identifies it however its path is spelled."""
    configuration: str | None
    """Configuration of the net in that file."""
    rate: float
    """Initial learning rate."""
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def sentence(self, given: bool) -> str:
        """Return a line on the rate and its origin; `given` if the recipe names it."""
        if given:
            return f"learning rate {self.rate:.2g}, as given"
        if self.rate == recipes.FINE_TUNING_RATE:
            return f"learning rate {self.rate:.2g}: it starts from a net of its own configuration (Sect. 3.1)"
        return f"learning rate {self.rate:.2g} (Sect. 3.1)"


_START = TypeAdapter(Start)


def start_of(recipe: Recipe) -> Start:
    """Return the start that a recipe names.

    Raises:
        UserError: if there are no such weights.
    """
    if recipe.start_from is None:
        return Start(None, None, None, recipe.initial_rate(None))
    file = located(recipe.start_from).path
    configuration = read_card(file).architecture.configuration
    return Start(decoded(os.path.realpath(file)), digest(file), configuration, recipe.initial_rate(configuration))


def recorded_start(run: Path, recipe: Recipe) -> Start:
    """Return the start of a run that has begun.

    Args:
        run: its directory.
        recipe: the recipe in its recipe.toml.

    Raises:
        UserError: if start.json cannot be read.
    """
    file = run / FILE_NAME
    if file.exists():
        try:
            return _START.validate_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"cannot read {file} ({line}); remove it to use what the weights record") from error
    # A run of version 0.1, or one whose file was lost: its weights record the rate that they were trained at.
    try:
        provenance = weights.read_card(run).provenance
        rate = float(provenance["recipe"]["learning_rate"])
    except (UserError, KeyError, TypeError, ValueError):
        provenance, rate = {}, recipe.initial_rate(None)
    path = decoded(os.path.abspath(recipe.start_from)) if recipe.start_from else None
    same = path is not None and rate == recipes.FINE_TUNING_RATE  # only the rule for such a start gives it
    return Start(path, provenance.get("start"), recipe.net if same else None, rate)


def write_start(run: Path, start: Start) -> None:
    """Write start.json."""
    with written_aside(run / FILE_NAME, within=run) as aside:
        aside.write_text(json.dumps(asdict(start), indent=1) + "\n", encoding="utf-8")


def compare_starts(run: Path, there: Start, ours: Recipe, theirs: Recipe) -> tuple[str, str]:
    """Compare the start of a recipe with that of a run: by weights, or by path if those are gone or changed.

    Args:
        run: its directory, for messages.
        there: its start.
        ours: the recipe that was given.
        theirs: the recipe of the run.

    Returns:
        What differs, and a line on weights that have changed since; either may be empty.
    """
    if ours.start_from is None or theirs.start_from is None:
        differs = ours.start_from != theirs.start_from
        return f"start_from: {ours.start_from} (there: {theirs.start_from})" if differs else "", ""
    try:
        given = start_of(ours)
    except UserError:  # the run no longer needs it, and it may be gone
        given = None
    if given is not None and given.weights == there.weights:
        return "", ""
    places = {ours.start_from, decoded(os.path.abspath(ours.start_from)), _file(ours.start_from)}
    if not places & {theirs.start_from, there.path}:
        found = "not found" if given is None else f"SHA-256 {(given.weights or '')[:12]}"
        kept = f"SHA-256 {there.weights[:12]}" if there.weights else "of unknown content"
        return f"start_from: {ours.start_from}, {found} (there: {theirs.start_from}, {kept})", ""
    if given is None or there.weights is None:
        return "", ""
    return (
        "",
        f"{run}: {ours.start_from} has other weights now than this run started from; the run keeps its own",
    )


def _file(source: str) -> str:
    """Return the weight file that a path names, as `Start.path` has it, whether it exists or not."""
    path = os.path.realpath(source)
    return decoded(path if path.endswith(".safetensors") else os.path.join(path, weights.FILE_NAME))
