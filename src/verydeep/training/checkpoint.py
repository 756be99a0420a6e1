"""The checkpoint of a run: the state of its training, saved and restored."""

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from pydantic import ConfigDict, TypeAdapter

from verydeep import weights
from verydeep.errors import UserError
from verydeep.network import ConvNet
from verydeep.sealed import Damaged, SealingWriter, check_last_line
from verydeep.training.directory import Entered

CHECKPOINT = "checkpoint.pt"

FULL = ("allocate memory", "out of memory")
"""How torch says that there is not enough memory."""


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
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


_PROGRESS = TypeAdapter(Progress)


def save(entered: Entered, net: ConvNet, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the checkpoint of a run, whole or not at all, with a digest as its last line.

    Raises:
        UserError: if it cannot be written, or the directory is not the run's any more; the last good one is kept.
    """
    state = {
        "run": entered.identity,
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(progress),
    }
    with entered.written(CHECKPOINT) as aside, aside.open("wb") as file:
        writer = SealingWriter(file)
        try:
            torch.save(state, cast(IO[bytes], writer))  # which needs no more of a file than to write
        except RuntimeError as error:  # torch's writer wraps what the system said, such as a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from error
        writer.seal()


def restore(entered: Entered, net: ConvNet, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Take up the checkpoint of a run; None if it has none yet.

    Raises:
        UserError: if the checkpoint is damaged or of another run, or is gone while there are weights, which would
            be overwritten.
    """
    file, weight_file = entered.path / CHECKPOINT, entered.path / weights.FILE_NAME
    if not file.exists():
        if weight_file.exists():
            raise UserError(
                f"{entered.path} holds {weights.FILE_NAME} but no {CHECKPOINT} to resume from; put that back, "
                "move the weights away to start this run anew, or name another directory with --out"
            )
        return None
    try:
        state = _read(file)
        if other := _of_another_run(state.get("run", {}), entered.identity):
            raise _Unusable(f"it belongs to another run, where {other}")
        return _take_up(state, net, optimiser)
    except (_Unusable, OSError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise UserError(
            f"{file} cannot be read ({reason}); put back a whole one of this run, or move it and "
            f"{weights.FILE_NAME} away to start the run anew"
        ) from error


class _Unusable(Exception):
    """Why a checkpoint cannot be resumed from."""


def _read(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, unchanged since it was written.

    What torch says of a file that it does not like is not passed on: it advises to load it unsafely.
    """
    try:
        sealed = check_last_line(file)
    except Damaged as error:
        raise _Unusable("it is not what was written") from error
    try:
        # Of version 0.3 and before: torch does not look at the checksums that it writes.
        if not sealed and (record := _damaged_record(file)):
            raise _Unusable(f"its record {record} is damaged")
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (_Unusable, OSError, MemoryError):
        raise
    except Exception as error:
        if any(word in str(error) for word in FULL):
            raise
        raise _Unusable("it is damaged, or not a checkpoint") from error
    if not isinstance(state, dict):
        raise _Unusable("it does not hold what a checkpoint does")
    if "run" in state and not sealed:
        raise _Unusable("its digest is missing")
    return state


def _damaged_record(file: Path) -> str:
    """Name of the first record of torch's zip archive whose checksum does not hold, or empty.

    Raises:
        zipfile.BadZipFile: if it is not such an archive.
    """
    with zipfile.ZipFile(file) as archive:
        return archive.testzip() or ""


def _of_another_run(there: Any, ours: dict[str, Any]) -> str:
    """In what the identity of a checkpoint differs from that of this run; empty if in nothing that both know."""
    if not isinstance(there, dict) or not isinstance(there.get("recipe", {}), dict):
        return "nothing is known of its recipe"
    recipe = there.get("recipe", {})
    for name, value in ours["recipe"].items() if ours else ():
        if recipe.get(name, value) != value:
            return f"{name} is {recipe[name]}, not {value}"
    for name, words in (("start", "the weights that it started from"), ("data", "the data")):
        known = there.get(name), ours.get(name)
        if None not in known and known[0] != known[1]:
            return f"{words} are others"
    return ""


def _take_up(state: dict[str, Any], net: ConvNet, optimiser: torch.optim.Optimizer) -> Progress:
    """Give a net and its optimiser the state of a checkpoint."""
    try:
        progress = _PROGRESS.validate_json(json.dumps(state["progress"]))
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                velocity = optimiser.state.get(parameter, {}).get("momentum_buffer")
                if velocity is not None and velocity.shape != parameter.shape:
                    raise ValueError("a velocity has another shape than its weights")
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _Unusable(f"it does not fit this net: {line}") from error
    return progress
