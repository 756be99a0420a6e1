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

TRAINED = f"{CHECKPOINT}, {weights.FILE_NAME} and {weights.BEST_FILE_NAME}"
"""The files of a run that have to go for it to start again."""

FULL = ("allocate memory", "out of memory")
"""Words of torch's messages about too little memory."""


@dataclass
class Progress:
    """How far a training has come, besides its weights and velocities."""

    iteration: int = 0
    """Mini-batches done."""
    loss: float = 0.0
    """Sum over the images of the current epoch so far."""
    wrong: int = 0
    """Images of the current epoch so far that were classified wrongly."""
    images: int = 0
    """Images of the current epoch so far."""
    validation_errors: list[float] = field(default_factory=list)
    """Top-1 error on the validation set after each epoch."""
    training_losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch."""
    ended: str = ""
    """Why the training has ended; empty if it has not."""
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    @property
    def between_epochs(self) -> bool:
        """Whether an epoch has ended, and nothing has been learnt since."""
        return bool(self.validation_errors) and not self.images


_PROGRESS = TypeAdapter(Progress)


def save(entered: Entered, net: ConvNet, optimiser: dict[str, Any], progress: Progress) -> None:
    """Write the checkpoint of a run, whole or not at all, with a digest as its last line.

    Args:
        entered: the run.
        net: the net.
        optimiser: the state of its optimiser, as `state_dict` returns it.
        progress: how far the training has come.

    Raises:
        UserError: if it cannot be written, or the directory is no longer that of the run; the last one is kept.
    """
    state = {
        "run": entered.identity,
        "net": net.state_dict(),
        "optimiser": optimiser,
        "progress": asdict(progress),
    }
    with entered.written(CHECKPOINT) as aside, aside.open("wb") as file:
        writer = SealingWriter(file)
        try:
            torch.save(state, cast(IO[bytes], writer))  # which only calls write
        except RuntimeError as error:  # torch's writer wraps the system's error, such as a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from error
        writer.seal()


def restore(entered: Entered, net: ConvNet, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Load the checkpoint of a run into a net and its optimiser.

    Returns:
        How far the training had come; None if there is no checkpoint yet.

    Raises:
        UserError: if the checkpoint is damaged or of another run, or is missing while there are weights, which
            would be overwritten.
    """
    file = entered.path / CHECKPOINT
    if not file.exists():
        for name in (weights.FILE_NAME, weights.BEST_FILE_NAME):
            if (entered.path / name).exists():
                raise UserError(
                    f"{entered.path} holds {name} but no {CHECKPOINT} to resume from; put that back, move the "
                    "weights away to start this run again, or name another directory with --out"
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
            f"{file} cannot be read ({reason}); put back a whole one of this run, or move {TRAINED} away to start "
            "the run again"
        ) from error


class _Unusable(Exception):
    """Why a checkpoint cannot be resumed from."""


def _read(file: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, which have not changed since they were written.

    Torch's own message about a file that it refuses is not passed on: it advises to load the file unsafely.
    """
    try:
        sealed = check_last_line(file)
    except Damaged as error:
        raise _Unusable("it is not what was written") from error
    try:
        # Version 0.3 and before wrote no digest, and torch does not verify the checksums that it writes.
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
    """Return the name of the first record of torch's zip archive with a wrong checksum; empty if there is none.

    Raises:
        zipfile.BadZipFile: if it is not a zip archive.
    """
    with zipfile.ZipFile(file) as archive:
        return archive.testzip() or ""


def _of_another_run(there: Any, ours: dict[str, Any]) -> str:
    """Return how the identity of a checkpoint differs from that of this run; empty if what both know agrees."""
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
    """Load the state of a checkpoint into a net and its optimiser."""
    try:
        progress = _PROGRESS.validate_json(json.dumps(state["progress"]))
        net.load_state_dict(state["net"])
        fused = [group["fused"] for group in optimiser.param_groups]
        optimiser.load_state_dict(state["optimiser"])
        for group, ours in zip(optimiser.param_groups, fused, strict=True):
            group["fused"] = ours  # by this device, and not by that of the checkpoint
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                velocity = optimiser.state.get(parameter, {}).get("momentum_buffer")
                if velocity is not None and velocity.shape != parameter.shape:
                    raise ValueError("a velocity has another shape than its weights")
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _Unusable(f"it does not fit this net: {line}") from error
    return progress
