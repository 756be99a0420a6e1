"""A run is a directory: recipe.toml, data.json, log.jsonl, checkpoint.pt, weights.safetensors, environment.json.

This module enters it, and saves and restores the state of its training.
"""

import json
import pickle
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from verydeep import recipe as recipes
from verydeep import weights
from verydeep.engine.native import library
from verydeep.errors import UserError
from verydeep.files import written_aside
from verydeep.network import ConvNet
from verydeep.recipe import Recipe

CHECKPOINT = "checkpoint.pt"


@dataclass
class Progress:
    """How far a training has come, besides its weights and momenta."""

    iteration: int = 0
    """Mini-batches done."""
    loss: float = 0.0
    """Sum over the images of the current epoch so far."""
    wrong: int = 0
    """Images of the current epoch so far whose highest score was not their class's."""
    images: int = 0
    """Images of the current epoch so far."""
    validation_errors: list[float] = field(default_factory=list)
    """Top-1 error on the validation set after each epoch."""
    training_losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch."""
    ended: str = ""
    """Why the training has ended; empty while it goes on."""


@contextmanager
def run_directory(path: Path, recipe: Recipe, data: dict[str, Any], first: bool) -> Iterator[None]:
    """Make a run directory or enter an existing one, and keep other processes out of it meanwhile.

    A run has begun when something trained is in its directory; before that another recipe takes the place of one
    whose start was refused.

    Args:
        path: the directory.
        recipe: of this training.
        data: what identifies the training set and what was measured on it, for `data.json`.
        first: whether this is the first rank; the others leave all of it to that one.

    Raises:
        UserError: where the directory holds a run of another recipe or other data, something that is no run,
            or a run that another process works on; nothing in it is changed then.
    """
    if not first:
        yield
        return
    recipe_file, data_file = path / "recipe.toml", path / "data.json"
    _refuse_another_run(path, recipe, data)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run directory {path}: {error.strerror}") from error
    with _locked(path):
        for left in path.glob(".*.part"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        _refuse_another_run(path, recipe, data)  # it may have begun since
        if not _begun(path):  # also where a start that came to nothing left another recipe
            with written_aside(data_file) as aside:
                aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            recipes.write(recipe, recipe_file)
        yield


def _begun(path: Path) -> bool:
    """Whether a directory holds something trained."""
    return any((path / name).exists() for name in (CHECKPOINT, weights.FILE_NAME))


def _refuse_another_run(path: Path, recipe: Recipe, data: dict[str, Any]) -> None:
    recipe_file = path / "recipe.toml"
    if not recipe_file.exists():
        if path.exists() and not (path.is_dir() and all(_unfinished(file) for file in path.iterdir())):
            raise UserError(
                f"{path} exists and is no run directory (it has no recipe.toml); name another with --out"
            )
    elif _begun(path):
        if differing := recipes.differences(recipe, recipes.read(recipe_file)):
            raise UserError(
                f"{path} holds a run of another recipe; these fields differ: {'; '.join(differing)}. "
                "Name another directory with --out, or give the same recipe to go on"
            )
        _check_data(path, data, path / "data.json")


def _unfinished(file: Path) -> bool:
    """Whether a process that was killed before it had written the recipe may have left this file."""
    return file.name in (".lock", "data.json") or file.suffix == ".part"


def _check_data(path: Path, data: dict[str, Any], data_file: Path) -> None:
    try:
        there = json.loads(data_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {data_file}: {error}") from error
    # Not its path: a data set may be moved. Means are compared as they are printed.
    for name in ("classes", "images", "validation_images", "mean"):
        if there.get(name) != data[name]:
            raise UserError(
                f"{path} holds a run on other data: there {name} is {_short(there.get(name))}, in {data['path']} "
                f"it is {_short(data[name])}. Name another directory with --out, or give the same data"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the directory's lock; the system lets go of it when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    try:
        file = (path / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write in the run directory {path}: {error.strerror}") from error
    with file:
        try:
            # A record lock: one of flock would live on in the reading processes of a training that was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"another process is training in {path}; wait for it or name another with --out"
            ) from error
        except OSError as error:  # some network drives have no locks
            raise UserError(f"cannot lock {path}: {error.strerror}; name a directory on another disk") from error
        yield


def save(path: Path, net: ConvNet, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the checkpoint of a run, whole or not at all.

    Raises:
        UserError: where it cannot be written; the last good one is kept.
    """
    with written_aside(path / CHECKPOINT) as aside:
        state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "progress": asdict(progress)}
        try:
            with aside.open("wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch's writer wraps what the system said, such as a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from error


def restore(path: Path, net: ConvNet, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Take up the checkpoint of a run; None where it has none yet.

    Raises:
        UserError: where the checkpoint cannot be read, or is gone where weights would be overwritten.
    """
    file = path / CHECKPOINT
    if not file.exists():
        if (path / weights.FILE_NAME).exists():
            raise UserError(
                f"{path} holds {weights.FILE_NAME} but no {CHECKPOINT} to go on from; put that back, move "
                "the weights away to start this run anew, or name another directory with --out"
            )
        return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        return Progress(**state["progress"])
    except (RuntimeError, KeyError, TypeError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{file} cannot be read ({(str(error) or 'it is empty').splitlines()[0]}); move it and "
            f"{weights.FILE_NAME} away to start this run anew"
        ) from error


def record_environment(path: Path, execution: dict[str, Any]) -> None:
    """Append to environment.json what this start of the run ran with: versions, machine, execution."""
    file = path / "environment.json"
    try:
        starts = list(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # there is none yet, or it is damaged: no reason not to train
        starts = []
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": sys.argv[1:],
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            # Of torch its own word, which also names the build, as +cpu or +cu130.
            "versions": {name: version(name) for name in ("verydeep", "numpy", "pillow", "simplejpeg")}
            | {"torch": torch.__version__},
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "engine": engine.name if (engine := library()) else None,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            **execution,
        }
    )
    with written_aside(file) as aside:
        aside.write_text(json.dumps(starts, indent=1) + "\n", encoding="utf-8")
