"""Claim: activation checkpointing (--recompute) lets a 24 GB machine train E at 224 with a useful batch.

Takes one step of E (1000 classes, crop 224) on random images in a process of its own for each setting, with and
without recomputation, and prints the peak of resident memory, seconds a step and the ratio of the peaks.

    python benchmarks/memory.py --micro-batch 32
"""

import argparse
import json
import multiprocessing
import platform
import resource
import time
from pathlib import Path

import torch

from verydeep.distributed import Ranks
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training.augmentation import MiniBatch
from verydeep.training.step import Execution, Step, new_optimiser


def step(net_name, micro_batch, recompute, results):
    """One iteration of `micro_batch` images; puts peak GiB and seconds."""
    net = ConvNet(net_name).train()
    net.recompute = recompute
    learn = Step(net, new_optimiser(net, Recipe(net=net_name)), Ranks(), Execution(recompute=recompute))
    batch = MiniBatch(
        torch.randint(0, 256, (micro_batch, 224, 224, 3), dtype=torch.uint8).permute(0, 3, 1, 2),
        torch.randint(0, 1000, (micro_batch,)),
        torch.zeros(micro_batch, 3),
        torch.arange(micro_batch),
    )
    started = time.perf_counter()
    learn(batch, micro_batch)
    seconds = time.perf_counter() - started
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((kibibytes / 2**20, seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="E")
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--json", type=Path, default=Path("results/memory.json"))
    arguments = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    measured = {}
    for recompute in (False, True):
        results = processes.Queue()
        process = processes.Process(target=step, args=(arguments.net, arguments.micro_batch, recompute, results))
        process.start()
        peak, seconds = results.get()
        process.join()
        name = "recompute" if recompute else "plain"
        measured[name] = {"peak_gib": round(peak, 2), "seconds": round(seconds, 1)}
        print(f"{arguments.net}, {arguments.micro_batch} images at 224, {name}: {peak:.2f} GiB, {seconds:.1f} s")
    ratio = measured["recompute"]["peak_gib"] / measured["plain"]["peak_gib"]
    print(f"peak with recomputation / without: {ratio:.2f}")
    result = {
        "claim": "E at 224 trains within 24 GB",
        "net": arguments.net,
        "micro_batch": arguments.micro_batch,
        "ratio": round(ratio, 3),
        **measured,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
