"""A run is a directory; this module enters it, says what identifies it, and reads it back.

It holds recipe.toml, data.json, start.json, log.jsonl, checkpoint.pt, weights.safetensors, best.safetensors and
environment.json.
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from verydeep import recipe as recipes
from verydeep import weights
from verydeep.distributed import Ranks
from verydeep.engine.native import library
from verydeep.errors import UserError, reason
from verydeep.files import read_json, remove_abandoned
from verydeep.network import ConvNet
from verydeep.progress import say
from verydeep.recipe import Recipe
from verydeep.training.checkpoint import CHECKPOINT, TRAINED
from verydeep.training.directory import LOCK, Entered, locked
from verydeep.training.journal import Epoch, read_log
from verydeep.training.schedule import LIMITS, planned_epochs
from verydeep.training.start import FILE_NAME as START
from verydeep.training.start import Start, compare_starts, recorded_start, start_of, write_start
from verydeep.training.validation import best_epoch

RECIPE, DATA, ENVIRONMENT = "recipe.toml", "data.json", "environment.json"

AGAIN = f"put back what it was, or move {TRAINED} away to start this run again"
"""What to do about a run that cannot be resumed."""


@dataclass(frozen=True)
class Run:
    """A training, ended or not."""

    path: Path
    recipe: Recipe
    start: Start
    epochs: tuple[Epoch, ...]
    """Its curves: what was measured in each epoch."""
    ended: str
    """Why it has ended; empty if it has not."""

    def __fspath__(self) -> str:
        """Return its path: a run can be given wherever the path of one can."""
        return str(self.path)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest validation error, the earliest of equal ones; None before the first ends."""
        number = best_epoch([epoch.validation_error for epoch in self.epochs])
        return self.epochs[number - 1] if number else None

    @property
    def unfinished(self) -> str:
        """How far a run that has not ended has come: "epoch 5 of 74"; empty if it has ended."""
        return "" if self.ended else _position(self.recipe, self.epochs)

    def net(self) -> ConvNet:
        """Load the trained net, in evaluation mode, with the weights of the last epoch.

        Raises:
            UserError: if no epoch has ended yet, and what `weights.load` refuses.
        """
        return weights.load(self.path)

    def __str__(self) -> str:
        net = f"{self.path}: net {self.recipe.net}, {self.unfinished or f'{len(self.epochs)} epochs'}"
        last = self.epochs[-1:]
        errors = "".join(f", loss {e.loss:.4f}, validation error {e.validation_error:.2%}" for e in last)
        return f"{net}{errors}; {self.ended or 'not ended'}"


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run directory.

    Raises:
        UserError: if it is not a run directory.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"the run is {path!r}; give the path of a run directory")
    folder = Path(path)
    if not (folder / RECIPE).is_file():
        raise UserError(f"{folder} is not a run directory: it has no {RECIPE}")
    recipe = recipes.read(folder / RECIPE)
    epochs, ended = read_log(folder)
    return Run(folder, recipe, recorded_start(folder, recipe), epochs, ended)


def unfinished(path: Path) -> str:
    """Return how far the training in a directory has come if it has not ended: "epoch 5 of 74".

    Returns:
        Empty if it has ended, or the directory does not say: it may hold weights alone.
    """
    if not (path / RECIPE).is_file():
        return ""
    try:
        recipe, (epochs, ended) = recipes.read(path / RECIPE), read_log(path)
    except UserError:
        return ""
    return "" if ended else _position(recipe, epochs)


def _position(recipe: Recipe, epochs: Sequence[Epoch]) -> str:
    """Return which epoch has ended last, and how many are planned."""
    if not epochs:
        return f"epoch 0 of {recipe.epochs}"
    # The first epoch is cut short only if it is the last, too.
    planned = planned_epochs(recipe, epochs[0].iteration)
    return f"epoch {len(epochs)} of {max(planned, len(epochs))}"


@contextmanager
def run_directory(
    path: Path, recipe: Recipe, data: dict[str, Any], ranks: Ranks, new_limits: bool = False
) -> Iterator[Entered]:
    """Make a run directory or enter an existing one, and keep other processes out of it meanwhile.

    A run has begun once its directory holds something trained. Until then, another recipe may replace one whose
    start was refused.

    Args:
        path: the directory.
        recipe: of this training.
        data: what identifies the training set and what was measured on it, for `data.json`.
        ranks: of this process; the first one makes, checks and locks the directory for all.
        new_limits: whether the recipe may have other limits of epochs and iterations than the run; see
            `record_limits`.

    Yields:
        The directory, with the start of the training; as recorded if it has begun, since its start may have
        changed or be gone.

    Raises:
        UserError: if the directory holds a run of another recipe, another start or other data, something that is
            not a run, or a run that another process is training; then nothing in it is changed.
    """
    if not ranks.first:
        ranks.wait()
        # Machines without a common disk have no such file; what they start from is compared later.
        there = (path / RECIPE).exists()
        start = recorded_start(path, recipes.read(path / RECIPE)) if there else start_of(recipe)
        yield Entered(path, start, identity(recipe, start, data))
        return
    start = _start_of_run(path, recipe, data, new_limits) or start_of(recipe)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run directory {path}: {reason(error)}") from error
    with locked(path) as lock:
        for left in path.glob(".*.part"):  # of a process that was killed while writing
            left.unlink(missing_ok=True)
        remove_abandoned(path, ".tmp??????")  # safetensors', which earlier versions wrote with
        start = _start_of_run(path, recipe, data, new_limits) or start  # it may have begun since
        entered = Entered(path, start, identity(recipe, start, data), lock)
        if not begun(path):  # a start that failed may have left another recipe
            with entered.written(DATA) as aside:
                aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            write_start(path, start)
            recipes.write(recipe, path / RECIPE)
        ranks.wait()
        yield entered


IDENTIFYING = ("classes", "images", "validation_images", "mean")
"""What identifies the data of a run. Not their path: a data set may be moved. Means are compared as stored."""

OF_BOXES = ("regression", "boxes")
"""What also identifies the data of a box regressor (Appendix A): SCR or PCR, and a digest of its boxes."""


def identity(recipe: Recipe, start: Start, data: dict[str, Any]) -> dict[str, Any]:
    """Return what tells the checkpoints of a run from those of others, as plain values.

    Limits are not part of it, since a run may get higher ones, and neither is the path that it starts from.

    Args:
        recipe: of the run.
        start: of the run.
        data: as `run_directory` takes it.
    """
    fields = recipe.model_dump(mode="json", exclude={*LIMITS, "start_from"})
    names = (*IDENTIFYING, *(name for name in OF_BOXES if name in data))
    measured = json.dumps([data[name] for name in names])
    return {
        "recipe": fields | {"learning_rate": start.rate},
        "start": start.weights,
        "data": hashlib.sha256(measured.encode()).hexdigest(),
    }


def record_limits(entered: Entered, recipe: Recipe) -> None:
    """Write the limits of a recipe into the recipe.toml of a run, if it has others.

    Raises:
        UserError: if it cannot be written.
    """
    there = recipes.read(entered.path / RECIPE)
    limits = {name: getattr(recipe, name) for name in LIMITS}
    if limits != {name: getattr(there, name) for name in LIMITS}:
        entered.check()
        recipes.write(recipes.changed(there, limits), entered.path / RECIPE)


def begun(path: Path) -> bool:
    """Whether a directory holds something trained."""
    return any((path / name).exists() for name in (CHECKPOINT, weights.FILE_NAME, weights.BEST_FILE_NAME))


def _start_of_run(path: Path, recipe: Recipe, data: dict[str, Any], new_limits: bool) -> Start | None:
    """Return the start of the run in a directory; None if none has begun.

    Raises:
        UserError: if it is not the run of this recipe and data, or not a run.
    """
    if not (path / RECIPE).exists():
        if path.exists() and not (path.is_dir() and all(_unfinished(file) for file in path.iterdir())):
            raise UserError(
                f"{path} exists and is not a run directory (it has no {RECIPE}); name another with --out"
            )
        return None
    if not begun(path):
        return None
    there = recipes.read(path / RECIPE)
    start = recorded_start(path, there)
    differs, line = compare_starts(path, start, recipe, there)
    limits = [name for name in LIMITS if getattr(recipe, name) != getattr(there, name)]
    compared = recipes.changed(recipe, {name: getattr(there, name) for name in limits}) if new_limits else recipe
    differing = _other_fields(compared, there, start) + ([differs] if differs else [])
    if differing:
        resume = f"; a run gets other limits with: verydeep resume {path}" if len(limits) == len(differing) else ""
        raise UserError(
            f"{path} holds a run of another recipe; these fields differ: {'; '.join(differing)}. "
            f"Name another directory with --out, or give the same recipe to resume it{resume}"
        )
    if other := _other_data(path, data):
        raise UserError(
            f"{path} holds a run on other data: there {other[0]}. Name another directory with --out, or give the "
            "same data"
        )
    if line:
        say(line)
    return start


def changes(path: Path, recipe: Recipe, data: dict[str, Any]) -> list[str]:
    """Return what has changed since a run began: its recipe, the weights that it starts from, its data.

    Args:
        path: its directory.
        recipe: the recipe that it is to have.
        data: as `run_directory` takes it.

    Returns:
        One line per change; none if the directory holds that run, or no run has begun there.

    Raises:
        UserError: if what it is to start from, or what it has written, cannot be read.
    """
    if not begun(path) or not (path / RECIPE).exists():
        return []
    there = recipes.read(path / RECIPE)
    start = recorded_start(path, there)
    found = _other_fields(recipe, there, start)
    if start_of(recipe).weights != start.weights:
        found.append(f"the weights that it starts from ({recipe.start_from or 'random now'})")
    return found + _other_data(path, data)


def move_aside(path: Path) -> Path:
    """Rename a run directory, so that its place is free and nothing of it is lost; return the new path.

    Raises:
        UserError: if another process is training in it.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    with locked(path):
        path.rename(aside)
    return aside


def _other_fields(recipe: Recipe, there: Recipe, start: Start) -> list[str]:
    """Return the fields in which a recipe differs from that of a run, except for the weights it starts from."""
    names = recipes.differing(recipe, there)
    if recipe.initial_rate(start.configuration) == start.rate:  # one follows the rule, the other names the rate
        names = [name for name in names if name != "learning_rate"]
    return [recipes.difference(name, recipe, there) for name in names if name != "start_from"]


def _unfinished(file: Path) -> bool:
    """Whether this file may be left from a process that was killed before it had written the recipe."""
    return file.name in (LOCK, DATA, START) or file.suffix == ".part"


def _other_data(path: Path, data: dict[str, Any]) -> list[str]:
    """Return in what the data of the run in a directory differ from these."""
    there = read_json(path / DATA)
    if not isinstance(there, dict):
        raise UserError(f"{path / DATA} is damaged: it holds {_short(there)}; {AGAIN}")
    return [
        f"{name} is {_short(there.get(name))}, in {data['path']} it is {_short(data.get(name))}"
        for name in (*IDENTIFYING, *OF_BOXES)
        if there.get(name) != data.get(name)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def record_environment(entered: Entered, execution: dict[str, Any]) -> None:
    """Append to environment.json what this start of the run runs with: versions, machine, execution."""
    try:
        starts = list(read_json(entered.path / ENVIRONMENT))
    except (UserError, TypeError):  # missing or damaged, which is no reason not to train
        starts = []
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": sys.argv[1:],
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            # Torch's own version string also names the build, such as +cpu or +cu130.
            "versions": {name: version(name) for name in ("verydeep", "numpy", "pillow", "simplejpeg")}
            | {"torch": torch.__version__},
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "engine": engine.name if (engine := library()) else None,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            **execution,
        }
    )
    with entered.written(ENVIRONMENT) as aside:
        aside.write_text(json.dumps(starts, indent=1) + "\n", encoding="utf-8")
