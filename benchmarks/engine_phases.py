"""Where the time of a pass of net D goes, by layer and phase: values of the tiles, products, outputs, weights.

Compiles the engine with timers in it and takes passes at 224 with one image and with eight, two threads. A
phase is the time of all threads divided by their number; "all" is by the clock, so that what is missing are
threads that wait. Before and after the library's call lies "outside": Python, the mean colour, the scores.
Prints a table of medians in milliseconds an image and writes JSON.

    python benchmarks/engine_phases.py
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import torch

from verydeep import ConvNet
from verydeep.configurations import configuration
from verydeep.engine import native, operators

THREADS = 2
LAYERS = 64  # as in native/phases.hpp, and the phases in its order
PHASES = ("values", "products", "outputs", "weights", "conv1_1", "all")
PROJECT = Path(__file__).parent.parent


def timed_library(folder):
    """The library that this machine uses, with timers: as the operators call it, and by itself."""
    name = native.library().name
    modules = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    module = next(module for module in modules if module["name"].endswith(f"_{name}"))
    file = folder / "timed.so"
    flags = [*module["extra-compile-args"], "-DVERYDEEP_PHASES", "-shared", "-fPIC"]
    sources = [PROJECT / source for source in module["sources"]]
    subprocess.run([os.environ.get("CXX", "c++"), *flags, *sources, "-o", file], check=True)
    return native.Library(name, file), ctypes.CDLL(str(file))


def passes(batch, rounds, library):
    """Median milliseconds an image by layer and phase, and of a pass as a whole."""
    net = ConvNet("D").eval()
    names = [layer.name for layer in configuration("D").layers() if layer.kind == "conv"]
    images = torch.rand(batch, 3, 224, 224) * 255
    found = (ctypes.c_int64 * (LAYERS * len(PHASES)))()
    tables, whole = [], []
    with torch.inference_mode():
        for number in range(rounds + 2):
            library.verydeep_phases(found)
            start = time.perf_counter()
            net(images)
            taken = time.perf_counter() - start
            library.verydeep_phases(found)
            if number >= 2:  # the first ones make scratch and workspace
                whole.append(1e3 * taken)
                tables.append(list(found))
    rows = {}
    for layer, name in enumerate(names):
        row = {}
        for place, phase in enumerate(PHASES):
            median = statistics.median(table[layer * len(PHASES) + place] for table in tables) / 1e6
            row[phase] = round(median / batch / (1 if phase == "all" else THREADS), 3)
        if row["all"]:
            rows["conv1_1, conv1_2" if name == "conv1_1" else name] = row
    rows["the library's call"] = {phase: round(sum(row[phase] for row in rows.values()), 2) for phase in PHASES}
    outside = statistics.median(whole) / batch - rows["the library's call"]["all"]
    rows["outside"] = {phase: round(outside, 2) if phase == "all" else 0 for phase in PHASES}
    return rows


def show(rows):
    print(f"{'':18}" + "".join(f"{phase:>10}" for phase in ("all", *PHASES[:-1])))
    for name, row in rows.items():
        print(f"{name:18}" + "".join(f"{row[phase] or '':>10}" for phase in ("all", *PHASES[:-1])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, default=Path("results/engine_phases.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    result = {"claim": "milliseconds an image of D at 224, two threads, by layer and phase"}
    with tempfile.TemporaryDirectory() as folder:
        caller, library = timed_library(Path(folder))
        operators.library = lambda: caller
        for batch in (1, 8):
            rows = passes(batch, arguments.rounds, library)
            print(f"\n{batch} image{'s' if batch > 1 else ''}, milliseconds an image")
            show(rows)
            result[f"batch {batch}"] = rows
    result |= {"library": caller.name, "torch": torch.__version__}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
