"""How near a net's activations come to the largest number of float16, 65504.

Pixels in 0..255 make activations in the thousands, and some nets go beyond. What overflows is infinite, and NaN a
layer later, without a word from torch.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from verydeep.torch_internals import user_level

LARGEST = torch.finfo(torch.float16).max
"""65504."""

NEAR = LARGEST / 4
"""Activations beyond this draw a warning: other images may have four times as large ones."""

SELDOM = 1024
"""Passes are looked at in a row of 1, 2, 4, 8, ... and from here on each time after this many."""


class HalfWatch:
    """Looks at the largest output of each convolution in some passes through a net in float16.

    The device waits for this, and each map is read once more, so that most passes are left alone: only the first,
    the second, the fourth and so on are looked at. Of each warning there is one per net.
    """

    def __init__(self) -> None:
        self.looking = False
        self._passes = 0
        self._said: set[str] = set()
        self._names: list[str] = []
        self._largest: list[Tensor] = []

    def begin(self, x: Tensor) -> None:
        """Begin a pass with its centred images; whoever calls this has made sure that values may be looked at."""
        self.looking = False
        self._names, self._largest = [], []
        if "infinite" in self._said or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        self._passes += 1
        self.looking = self._passes & (self._passes - 1) == 0 or self._passes % SELDOM == 0

    def look(self, layer: str, output: Tensor) -> None:
        """Take in the output of a convolution, after its ReLU if possible."""
        if output.dtype == torch.float16 and output.numel():
            self._names.append(layer)
            self._largest.append(output.detach().amax())  # NaN, if there is one

    def end(self) -> None:
        """End the pass: wait for the device, and warn."""
        if not self.looking:  # nothing is changed, as in a pass that a compiler traces
            return
        self.looking = False
        names, largest = self._names, self._largest
        self._names, self._largest = [], []
        if largest:
            self._warn(names, torch.stack(largest).tolist())

    def _warn(self, names: Sequence[str], largest: Sequence[float]) -> None:
        for name, value in zip(names, largest, strict=True):
            if not value <= LARGEST:
                self._say("infinite", f"{name} overflows: its outputs, and all that follows, are infinite or NaN")
                return
        top = max(largest)
        if top > NEAR:
            name = names[largest.index(top)]
            self._say("near", f"{name} reaches {top:.0f}, which other images may well exceed")

    def _say(self, what: str, line: str) -> None:
        if what in self._said:
            return
        self._said.add(what)
        warnings.warn(
            f"float16 ends at {LARGEST:.0f}. {line}. Compute in bfloat16, which has no such limit: "
            "net.bfloat16(), torch.autocast(..., torch.bfloat16) or --precision bf16. This warning appears once "
            "per net.",
            stacklevel=user_level(),
        )


def in_half(x: Tensor) -> bool:
    """Whether convolutions of these images compute in float16: by their own type or by autocast."""
    if x.dtype == torch.float16:
        return True
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
