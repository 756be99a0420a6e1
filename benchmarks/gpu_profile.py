"""Where a training step of net D spends its time on one NVIDIA GPU: three steps of 256 images in bfloat16.

    python benchmarks/gpu_profile.py

It lists the 25 kernels that take longest, in milliseconds per step, and how long the GPU waited for the next one.
"""

import sys
import time
from collections import defaultdict

import torch

import verydeep
from claims import Observation, destination, options, record
from gpu_machine import device_for, versions, wait
from gpu_throughput import Case, our_training, small

STEPS, LONGEST = 3, 25


def main() -> int:
    arguments = options(__doc__, "gpu_profile").parse_args()
    device = device_for(arguments.smoke)
    torch.backends.cudnn.benchmark = True
    net = (small() if arguments.smoke else verydeep.ConvNet("D")).to(device)
    verydeep.initialise(net, "glorot", seed=0)
    turn = our_training(net, Case("training", "bf16", 2 if arguments.smoke else 256, 1), device)
    for _ in range(4):
        turn()
    wait(device)
    started = time.perf_counter()
    for _ in range(4 * STEPS):
        turn()
    wait(device)
    whole = (time.perf_counter() - started) / (4 * STEPS) * 1e3
    kinds = [
        torch.profiler.ProfilerActivity.CUDA if device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
    ]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(STEPS):
            turn()
        wait(device)
    kernels: dict[str, float] = defaultdict(float)
    for event in profile.events() or []:
        if event.device_type.name == "CUDA":
            kernels[event.name] += event.device_time / 1e3 / STEPS
        elif device.type == "cpu":
            kernels[event.name] += event.self_cpu_time_total / 1e3 / STEPS
    busy = sum(kernels.values())
    longest = sorted(kernels.items(), key=lambda each: -each[1])[:LONGEST]
    seen = [
        Observation("a training step of D, 256 images, bf16", round(whole, 3), "ms"),
        Observation("of it in kernels (measured in other steps)", round(busy, 3), "ms"),
        Observation(
            f"the {LONGEST} kernels that take longest, together",
            round(sum(each for _, each in longest), 3),
            "ms",
            {name[:120].replace("|", "/"): round(each, 4) for name, each in longest},
        ),
    ]
    return record(destination(arguments), [], seen, versions=versions())


if __name__ == "__main__":
    sys.exit(main())
