"""What the benchmarks for GPUs share: the device, its versions, and times on it."""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch


def device_for(smoke: bool) -> torch.device:
    """Return the GPU, or with `smoke` the CPU where there is none.

    Raises:
        SystemExit: if there is no GPU; with a line that says so.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if not smoke:
        raise SystemExit("no CUDA GPU; --smoke tries the script on a CPU")
    return torch.device("cpu")


def wait(device: torch.device) -> None:
    """Wait until everything that was begun on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(call: Callable[[], object], device: torch.device, rounds: int = 7, least: float = 5.0) -> float:
    """Return the time of a call, as a median over rounds that take at least that many milliseconds each."""
    call()
    wait(device)
    started = time.perf_counter()
    call()
    wait(device)
    count = max(1, round(least / 1e3 / max(1e-6, time.perf_counter() - started)))
    found = []
    for _ in range(rounds):
        wait(device)
        started = time.perf_counter()
        for _ in range(count):
            call()
        wait(device)
        found.append((time.perf_counter() - started) / count * 1e3)
    return statistics.median(found)


def ceilings(device: torch.device, side: int = 8192, numbers: int = 2**29) -> tuple[float, float]:
    """Return the TFLOP/s of a bfloat16 matrix product, and the TB/s of a copy, counted as read and written."""
    a = torch.randn(side, side, device=device).to(torch.bfloat16)
    product = milliseconds(lambda: a @ a, device)
    source = torch.randn(numbers, device=device)
    to = torch.empty_like(source)
    copy = milliseconds(lambda: to.copy_(source), device)
    return 2 * side**3 / product / 1e9, 2 * source.nbytes / copy / 1e9


def versions() -> dict[str, str]:
    """Return the versions of the peers that are installed, and of what computes."""
    found = {}
    for name in ("torchvision", "timm", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found |= {"GPU": torch.cuda.get_device_name(), "CUDA": str(torch.version.cuda)}
        found["cuDNN"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return found
