"""Make one measurement of benchmarks/engine.py with torch, in a separate process, and print JSON.

    python benchmarks/engine_run.py inference WHO NET BATCH
    python benchmarks/engine_run.py dense WHO NET WIDTHxHEIGHT
    python benchmarks/engine_run.py training WHO NET BATCH STEPS
    python benchmarks/engine_run.py weights FOLDER NET BATCH...

WHO is verydeep, or one of these, which run the same net in plain torch: "PyTorch, channels last", "PyTorch, NCHW",
"torch.compile, frozen". The last form writes the files for other runtimes: the net's weights, images for each
batch size, and exact scores.
"""

import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# torch reads this variable when it is imported.
if "torch.compile, frozen" in sys.argv:
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import verydeep
from engine_nets import NETS
from plain_torch import plain_torch

THREADS = 2


def new_net(which: str) -> nn.Module:
    """Make a net with random weights that preserve the size of the signal, and are the same in each process."""
    sizes = NETS[which]
    net = verydeep.ConvNet(
        sizes.name,
        classes=sizes.classes,
        crop=sizes.crop,
        width=sizes.width,
        fully_connected=sizes.fully_connected,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.copy_(nn.init.kaiming_normal_(torch.empty(parameter.shape)))
            else:
                parameter.zero_()
    return net


def built(who: str, net: nn.Module, dense: bool = False) -> nn.Module:
    """Return the net as a runtime uses it."""
    if who == "verydeep":
        return net
    layout = torch.contiguous_format if "NCHW" in who else torch.channels_last
    return plain_torch(net.state_dict(), dense, layout)


def images(count: int, height: int, width: int) -> Tensor:
    """Make images of noise with all pixel values, uint8."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def peak(reset: bool = False) -> int | None:
    """Return the peak memory of this process in MiB since the last reset; None if the system does not say."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    if reset:
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # memory left over from building the net does not count
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def milliseconds(run: Callable[[], object], times: int) -> float:
    """Return the median milliseconds of some calls, after two that are not counted."""
    peak(reset=True)
    run()
    run()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return 1000 * statistics.median(found)


def testing(who: str, which: str, x: Tensor, dense: bool) -> dict[str, Any]:
    """Measure milliseconds per image, the relative error of the first image's scores against float64, and MiB."""
    net = built(who, new_net(which), dense).eval()
    run = torch.compile(net) if "compile" in who else net
    with torch.no_grad():
        taken, most = milliseconds(lambda: run(x), 5), peak()
        scores = run(x[:1])
    exact = exact_scores(new_net(which), x[:1], dense)  # afterwards, since it takes memory itself
    error = float((scores - exact).norm() / exact.norm())
    return {"ms": taken / len(x), "error": error, "peak_mib": most, "version": torch.__version__}


def exact_scores(net: nn.Module, x: Tensor, dense: bool) -> Tensor:
    """Compute the scores with torch in float64."""
    with torch.no_grad():
        scores: Tensor = plain_torch(net.state_dict(), dense).eval().double()(x)
        return scores


def training(who: str, which: str, count: int, steps: int) -> dict[str, Any]:
    """Measure milliseconds per step of gradient descent with momentum, and memory in MiB."""
    net = built(who, new_net(which)).train()
    sizes = NETS[which]
    x, labels = images(count, sizes.crop, sizes.crop), torch.arange(count) % 10
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(net(x), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return {"ms": milliseconds(step, steps), "peak_mib": peak(), "version": torch.__version__}


def write_weights(folder: Path, which: str, batches: list[int]) -> None:
    """Write the files that engine_export.py and engine_peers.py read."""
    net, side = new_net(which).eval(), NETS[which].crop
    for batch in batches:
        np.save(folder / f"images-{batch}.npy", images(batch, side, side).float().numpy())
    np.save(folder / "scores.npy", exact_scores(net, images(1, side, side), dense=False).numpy())
    torch.save(net.state_dict(), folder / "weights.pt")


def main() -> None:
    torch.set_num_threads(THREADS)
    what, who, which, *rest = sys.argv[1:]
    side = NETS[which].crop
    match what:
        case "weights":
            write_weights(Path(who), which, [int(batch) for batch in rest])
        case "inference":
            print(json.dumps(testing(who, which, images(int(rest[0]), side, side), dense=False)))
        case "dense":
            width, height = map(int, rest[0].split("x"))
            print(json.dumps(testing(who, which, images(1, height, width), dense=True)))
        case "training":
            print(json.dumps(training(who, which, int(rest[0]), int(rest[1]))))
        case _:
            sys.exit(f"engine_run.py: {what!r} is unknown; use weights, inference, dense or training")


if __name__ == "__main__":
    main()
