"""The checkpoint of a run: the state of its training, saved and restored."""

import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from verydeep import weights
from verydeep.errors import UserError
from verydeep.files import written_aside
from verydeep.network import ConvNet

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
