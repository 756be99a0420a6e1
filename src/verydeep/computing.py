"""How nets are computed, in training and testing; it affects results only by rounding."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from verydeep.errors import UserError

Precision = Literal["fp32", "bf16"]
"""In training."""

TestingPrecision = Literal["fp32", "bf16", "fp16"]
"""Where no gradients are needed, which float16 would round to 0."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Computing:
    """How nets are computed.

    Raises:
        UserError: if the precision is unknown.
    """

    precision: TestingPrecision = "fp32"
    """bf16 and fp16 use bfloat16 and float16 wherever torch's autocast does."""
    workers: int = 0
    """Processes per rank that prefetch images; 0 to read between the mini-batches."""
    progress: bool = True
    """Whether to show progress on standard error."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(TestingPrecision):
            raise UserError(
                f"precision is {self.precision!r}; choose one of {', '.join(get_args(TestingPrecision))}"
            )

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context that a net is called in."""
        half = _HALF.get(self.precision)
        return torch.autocast(device.type, half) if half else nullcontext()
