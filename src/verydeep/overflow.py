"""Warn before a net's activations overflow float16, whose largest number is 65504.

Pixels in 0..255 lead to activations in the thousands, and larger ones in some nets. A value that overflows becomes
infinite, and NaN one layer later, and torch does not report it.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from verydeep.torch_internals import user_level

LARGEST = torch.finfo(torch.float16).max
"""65504."""

NEAR = LARGEST / 4
"""Activations above this draw a warning: those of other images may be four times as large."""

SELDOM = 1024
"""The passes checked are 1, 2, 4, 8, ..., and beyond this number also every multiple of it."""


class HalfWatch:
    """Check the largest output of each convolution, in some passes of a net that computes in float16.

    A check reads each map once more and waits for the device, so only some passes are checked: the first, the
    second, the fourth and so on. Each warning appears once per net.
    """

    def __init__(self) -> None:
        self.looking = False
        self._passes = 0
        self._said: set[str] = set()
        self._names: list[str] = []
        self._largest: list[Tensor] = []

    def begin(self, x: Tensor) -> None:
        """Begin a pass with its centred images. The caller makes sure that their values may be read."""
        self.looking = False
        self._names, self._largest = [], []
        if "infinite" in self._said or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        self._passes += 1
        self.looking = self._passes & (self._passes - 1) == 0 or self._passes % SELDOM == 0

    def look(self, layer: str, output: Tensor) -> None:
        """Record the largest output of a convolution, after its ReLU if possible."""
        if output.dtype == torch.float16 and output.numel():
            self._names.append(layer)
            self._largest.append(output.detach().amax())  # NaN if there is one

    def end(self) -> None:
        """End the pass: wait for the device, and warn if necessary."""
        if not self.looking:  # change nothing: a compiler may be tracing this pass
            return
        self.looking = False
        names, largest = self._names, self._largest
        self._names, self._largest = [], []
        if largest:
            self._warn(names, torch.stack(largest).tolist())

    def _warn(self, names: Sequence[str], largest: Sequence[float]) -> None:
        for name, value in zip(names, largest, strict=True):
            if not value <= LARGEST:
                self._say(
                    "infinite", f"{name} overflows: its outputs, and those of later layers, are infinite or NaN"
                )
                return
        top = max(largest)
        if top > NEAR:
            name = names[largest.index(top)]
            self._say("near", f"{name} reaches {top:.0f}, and other images may exceed that")

    def _say(self, what: str, line: str) -> None:
        if what in self._said:
            return
        self._said.add(what)
        warnings.warn(
            f"the largest float16 is {LARGEST:.0f}. {line}. Use bfloat16, which has the range of float32: "
            "net.bfloat16(), torch.autocast(..., torch.bfloat16) or --precision bf16. This warning appears once "
            "per net.",
            stacklevel=user_level(),
        )


def in_half(x: Tensor) -> bool:
    """Whether convolutions of these images compute in float16: by their own type or under autocast."""
    if x.dtype == torch.float16:
        return True
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
