"""Time of a pass of net D by layer and phase: transforms of values, products, outputs and weights.

Nothing is claimed here and there are no peers; benchmarks/engine.py has both. The script compiles the engine with
timers into a copy of the package, and measures passes at 224 with one image and with eight, on two threads. The
time of a phase is the sum over all threads divided by their number. "all" is elapsed time; the difference is the
time that threads wait. "outside" is the time outside the library's call: Python, the mean colour, the scores. All
are medians in milliseconds per image.

    python benchmarks/engine_phases.py
"""

import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from claims import Observation, destination, options, record

THREADS = 2
LAYERS = 64  # as in native/phases.hpp, with the phases in the same order
PHASES = ("values", "products", "outputs", "weights", "conv1_1", "all")
FLAGS = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "plain": [],
}
"""Compiler flags of each library besides `COMMON`, as in setup.py."""

COMMON = ["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=fast"]

Row = dict[str, float]


def timed_package(folder: Path, smoke: bool) -> str:
    """Copy the package to a folder, compile this machine's library with timers, and return the library's name."""
    import verydeep
    from verydeep.engine import native

    if (library := native.library()) is None:
        sys.exit("engine_phases.py: the engine is off or was not built; there is nothing to measure")
    package = Path(verydeep.__file__).parent
    shutil.copytree(package, folder / "verydeep", ignore=shutil.ignore_patterns("__pycache__"))
    (built,) = (folder / "verydeep" / "engine").glob(f"_{library.name}.*")
    source = package / "engine" / "native" / "engine.cpp"
    flags = [*COMMON, *FLAGS[library.name], *["-O1"] * smoke, "-DVERYDEEP_PHASES", "-shared", "-fPIC"]
    subprocess.run([os.environ.get("CXX", "c++"), *flags, source, "-o", built], check=True)
    return library.name


def passes(file: Path, batch: int, rounds: int, smoke: bool) -> dict[str, Row]:
    """Return median milliseconds per image by layer and phase, and of a whole pass, in the timed package.

    Args:
        file: the timed library.
        batch: number of images at once.
        rounds: number of measured passes.
        smoke: whether to use a small net.
    """
    import torch

    import verydeep

    torch.set_num_threads(THREADS)
    library = ctypes.CDLL(str(file))
    sizes: dict[str, Any] = {"crop": 64, "width": 0.125, "fully_connected": 32} if smoke else {}
    net = verydeep.ConvNet("D", **sizes).eval()
    names = [name.removesuffix(".weight") for name, _ in net.named_parameters() if name.endswith(".weight")]
    side = 64 if smoke else 224
    images = torch.rand(batch, 3, side, side) * 255
    found = (ctypes.c_int64 * (LAYERS * len(PHASES)))()
    tables, whole = [], []
    with torch.inference_mode():
        for number in range(rounds + 2):
            library.verydeep_phases(found)
            start = time.perf_counter()
            net(images)
            taken = time.perf_counter() - start
            library.verydeep_phases(found)
            if number >= 2:  # the first passes allocate scratch memory and workspace
                whole.append(1e3 * taken)
                tables.append(list(found))
    rows: dict[str, Row] = {}
    for layer, name in enumerate(names):
        row = {}
        for place, phase in enumerate(PHASES):
            median = statistics.median(table[layer * len(PHASES) + place] for table in tables) / 1e6
            row[phase] = round(median / batch / (1 if phase == "all" else THREADS), 3)
        if row["all"]:
            rows["conv1_1, conv1_2" if name == "conv1_1" else name] = row
    rows["the library's call"] = {phase: round(sum(row[phase] for row in rows.values()), 3) for phase in PHASES}
    outside = statistics.median(whole) / batch - rows["the library's call"]["all"]
    rows["outside"] = {phase: round(outside, 3) if phase == "all" else 0.0 for phase in PHASES}
    return rows


def by_child(folder: Path, name: str, batch: int, rounds: int, smoke: bool) -> dict[str, Row]:
    """Run `passes` in a process that finds the timed package before the installed one."""
    (file,) = (folder / "verydeep" / "engine").glob(f"_{name}.*")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    words = [sys.executable, __file__, "--passes", str(file), str(batch), str(rounds), *["--smoke"] * smoke]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    rows: dict[str, Row] = json.loads(done.stdout)
    return rows


def show(rows: dict[str, Row]) -> None:
    print(f"{'':18}" + "".join(f"{phase:>10}" for phase in ("all", *PHASES[:-1])))
    for name, row in rows.items():
        print(f"{name:18}" + "".join(f"{row[phase] or '':>10}" for phase in ("all", *PHASES[:-1])))


def main() -> int:
    parser = options(__doc__, "engine_phases")
    parser.add_argument("--rounds", type=int, help="[default: 11; 1 with --smoke]")
    parser.add_argument("--passes", nargs=3, metavar=("LIBRARY", "BATCH", "ROUNDS"), help="for this script itself")
    arguments = parser.parse_args()
    if arguments.passes:
        file, batch, number = arguments.passes
        print(json.dumps(passes(Path(file), int(batch), int(number), arguments.smoke)))
        return 0
    rounds = arguments.rounds or (1 if arguments.smoke else 11)
    what = "D at 64, an eighth of its channels" if arguments.smoke else "D at 224"
    details: dict[str, Any] = {"threads": THREADS, "rounds": rounds}
    observations = []
    with tempfile.TemporaryDirectory() as folder:
        name = details["library"] = timed_package(Path(folder), arguments.smoke)
        for batch in (1,) if arguments.smoke else (1, 8):
            rows = by_child(Path(folder), name, batch, rounds, arguments.smoke)
            print(f"\n{batch} image{'s' if batch > 1 else ''}, milliseconds per image")
            show(rows)
            details[f"batch {batch}, milliseconds an image"] = rows
            call = rows["the library's call"]
            text = f"testing {what}, batch {batch}: share of the matrix products in the engine's time"
            observations.append(Observation(text, round(call["products"] / call["all"], 3), "of the time"))
    return record(destination(arguments), [], observations, details=details)


if __name__ == "__main__":
    sys.exit(main())
