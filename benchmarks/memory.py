"""Memory of a training step of E at 224, with activation checkpointing (`net.recompute`) and keeping all maps.

Claims: 32 images at once need at most 24 GB either way, and with recomputation at most 0.9 of the memory without.
Each step is one of gradient descent with momentum on random images, in a separate process. The two ways take turns
for several rounds; results are medians of the peak resident memory.

    python benchmarks/memory.py --micro-batch 32
"""

import multiprocessing
import resource
import statistics
import sys
import time
from multiprocessing.queues import Queue

import torch
from torch.nn import functional as F

import verydeep
from claims import Claim, Observation, destination, options, record

SETTINGS = {"keeping all maps": False, "recomputing": True}
GIB_OF_24_GB = 24e9 / 2**30


def step(
    sizes: dict[str, int | float], images: int, recompute: bool, results: "Queue[tuple[float, float]]"
) -> None:
    """Run one iteration, and put its peak memory in GiB and its seconds into the queue."""
    net = verydeep.ConvNet("E", **sizes).train()  # type: ignore[arg-type]
    net.recompute = recompute
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    side = int(sizes["crop"])
    x = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, int(sizes["classes"]), (images,))
    started = time.perf_counter()
    F.cross_entropy(net(x), labels).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    results.put((peak / (2**30 if sys.platform == "darwin" else 2**20), seconds))


def main() -> int:
    parser = options(__doc__, "memory")
    parser.add_argument("--micro-batch", type=int, default=32, help="images at once [default: 32]")
    parser.add_argument("--rounds", type=int, help="[default: 3; 1 with --smoke]")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.smoke else 3)
    sizes: dict[str, int | float] = {"classes": 1000, "crop": 224, "width": 1.0, "fully_connected": 4096}
    if arguments.smoke:
        sizes = {"classes": 10, "crop": 32, "width": 0.125, "fully_connected": 16}
        arguments.micro_batch = 2
    processes = multiprocessing.get_context("spawn")
    peaks: dict[str, list[float]] = {name: [] for name in SETTINGS}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, recompute in SETTINGS.items():
            results = processes.Queue()
            process = processes.Process(target=step, args=(sizes, arguments.micro_batch, recompute, results))
            process.start()
            peak, taken = results.get()
            process.join()
            peaks[name].append(round(peak, 3))
            seconds[name].append(round(taken, 2))
            print(f"{name}: {peak:.2f} GiB, {taken:.1f} s", flush=True)
    what = f"a training step of E, crop {sizes['crop']}, {arguments.micro_batch} images at once"
    found = {name: statistics.median(values) for name, values in peaks.items()}
    keeping, recomputing = found.values()
    times = {name: statistics.median(values) for name, values in seconds.items()}
    claims = [
        Claim(f"{what}: peak memory", max(found.values()), "GiB", {"at most": round(GIB_OF_24_GB, 2)}, found),
        Claim(
            f"{what}: peak memory with recomputation, relative to without",
            round(recomputing / keeping, 3),
            "of the memory",
            {"at most": 0.9},
        ),
    ]
    ratio = round(times["recomputing"] / times["keeping all maps"], 3)
    observations = [
        Observation(f"{what}: time of the first with recomputation, relative to without", ratio, "of the time")
    ]
    details = {"rounds": rounds, "sizes": sizes, "peak, GiB": peaks, "seconds": seconds}
    return record(destination(arguments), claims, observations, details=details)


if __name__ == "__main__":
    sys.exit(main())
