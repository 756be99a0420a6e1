"""How nets are computed, in training and testing; it affects results only by rounding."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from verydeep.errors import UserError
from verydeep.torch_internals import float32_on_gpus

Precision = Literal["fp32", "tf32", "bf16"]
"""In training."""

TestingPrecision = Literal["fp32", "tf32", "bf16", "fp16"]
"""Where no gradients are needed, which float16 would round to 0."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Computing:
    """How nets are computed.

    Raises:
        UserError: if the precision is unknown.
    """

    precision: TestingPrecision = "fp32"
    """fp32 is IEEE float32. tf32 computes float32 convolutions and matrix products in TF32, on CUDA GPUs only.
    bf16 and fp16 use bfloat16 and float16 wherever torch's autocast does, but for fc8 and what follows it."""
    workers: int = 0
    """Processes per rank that prefetch images; 0 to read between the mini-batches."""
    progress: bool = True
    """Whether to show progress on standard error."""
    deterministic: bool = False
    """Whether a CUDA GPU gives the same bits every time; a CPU always does. See also `ranks`."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(TestingPrecision):
            raise UserError(
                f"precision is {self.precision!r}; choose one of {', '.join(get_args(TestingPrecision))}"
            )

    @property
    def half(self) -> torch.dtype | None:
        """The type that autocast computes in; None in float32."""
        return _HALF.get(self.precision)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context that a net is called in."""
        return torch.autocast(device.type, self.half) if self.half else nullcontext()

    def check(self, device: torch.device) -> None:
        """Refuse a device that cannot compute in this way.

        Raises:
            UserError: if it is tf32 and not on a CUDA GPU, or deterministic and on neither CPU nor CUDA GPU.
        """
        if self.precision == "tf32" and device.type != "cuda":
            raise UserError(f"precision tf32 is for CUDA GPUs, and the device is {device.type}; use fp32 or bf16")
        if self.deterministic and device.type not in ("cpu", "cuda"):
            raise UserError(f"deterministic is for CPUs and CUDA GPUs, and the device is {device.type}")

    @contextmanager
    def settings(self, device: torch.device, fixed_shapes: bool = False) -> Iterator[None]:
        """Set torch's switches for this computation while inside, and restore them; on a CPU, change nothing.

        Args:
            device: where to compute.
            fixed_shapes: whether nearly all mini-batches have one shape. Then cuDNN tries several algorithms for
                each layer and keeps the fastest, unless results must be deterministic. That takes long, and for
                each shape again.

        Raises:
            UserError: as `check` does.
        """
        self.check(device)
        with ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(float32_on_gpus(self.precision == "tf32"))
                stack.enter_context(_benchmark(fixed_shapes and not self.deterministic))
                if self.deterministic:
                    stack.enter_context(_deterministic())
            yield


@contextmanager
def _benchmark(on: bool) -> Iterator[None]:
    """Let cuDNN time its algorithms on each new shape, or not, and restore its switch afterwards."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, on
    try:
        yield
    finally:
        cudnn.benchmark = before


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch use only algorithms that give the same bits every time, and restore its switches afterwards.

    cuDNN's benchmark must be off: which algorithm is fastest may differ from start to start.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic
    mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        cudnn.deterministic = before
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
