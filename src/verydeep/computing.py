"""How nets are computed, in training as in testing; it changes nothing of what is computed but rounding."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from verydeep.errors import UserError

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Computing:
    """How nets are computed.

    Raises:
        UserError: for an unknown precision.
    """

    precision: Precision = "fp32"
    """bf16 computes with bfloat16 where torch's autocast does."""
    workers: int = 0
    """Processes a rank that read images ahead; 0 to read between the mini-batches."""
    progress: bool = True
    """Whether to show progress on standard error."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise UserError(f"precision is {self.precision!r}; choose one of {', '.join(get_args(Precision))}")

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context that a net is called in."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
