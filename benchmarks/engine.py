"""Nets in float32 on two threads: verydeep beside other runtimes, in testing, dense testing and training.

Claims: D at 224 takes at most half the time of the fastest other runtime at batch 8, and at most 0.7 times at
batch 1. This was measured on Zen 5; on other processors the claim is that no other runtime is faster. Whole
images take at most 0.4 times as long as with PyTorch, training steps of D 0.5 and of a miniature 0.7 times. And
none of these takes more memory than PyTorch.

The peers are PyTorch itself (the same net in plain torch: channels last, NCHW, compiled with freezing), and the
net as ONNX in ONNX Runtime, OpenVINO, MNN and ncnn, each installed from PyPI into an environment of its own.
OpenVINO in bfloat16 is measured, too, but is no peer of a claim. All run in turn, several rounds, each in a
process of its own; the times are medians, and each one's error against float64 stands beside.

    python benchmarks/engine.py --environments ~/.cache/verydeep/peers
"""

import json
import statistics
import subprocess
import sys
import venv
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from claims import Claim, Machine, destination, machine, options, read, record
from engine_nets import NETS

HERE = Path(__file__).parent
PEERS = {
    "ONNX Runtime": ["onnxruntime"],
    "OpenVINO": ["openvino"],
    "OpenVINO bf16": ["openvino"],
    "MNN": ["MNN"],
    "ncnn": ["ncnn", "pnnx"],
}
OURS = ["verydeep", "PyTorch, channels last", "PyTorch, NCHW", "torch.compile, frozen"]
PARTS = ("inference", "dense", "training")

Row = dict[str, Any]
Table = dict[str, Any]
"""One comparison: "what" is a part, "net" one of `NETS`, "size" how many images or of which size, "unit"; and
"results", for each runtime {"ms", "error", "peak_mib", "version"} as far as it says so, or {"failed"}."""

ZEN_5 = 26
"""The family of processors on which the claims beside all runtimes were measured."""


def bound(table: Table, here: Machine) -> float:
    """The most that verydeep may take, over the fastest other in float32."""
    match table["what"]:
        case "inference" if here.family != ZEN_5:
            return 1.0
        case "inference":
            return 0.7 if table["size"] == 1 else 0.5
        case "dense":
            return 0.4
        case _:
            return 0.5 if table["net"] == "D" else 0.7


def ratios(results: Mapping[str, Row], what: str = "ms", ours: str = "verydeep") -> dict[str, float]:
    """Ours over each other's, of those that have it."""
    known = {name: row[what] for name, row in results.items() if row.get(what)}
    return {name: round(known[ours] / value, 3) for name, value in known.items() if ours in known and name != ours}


def claims(tables: Mapping[str, Table], here: Machine) -> list[Claim]:
    """What is claimed of some comparisons."""
    found = []
    memory: dict[str, float] = {}
    for table in tables.values():
        others = {name: ratio for name, ratio in ratios(table["results"]).items() if "bf16" not in name}
        if not others:
            raise ValueError(f"{title(table)}: verydeep, or all others, failed: {table['results']}")
        whom = f"the fastest of {len(others)} others in float32" if len(others) > 1 else next(iter(others))
        found.append(
            Claim(
                f"{title(table)}: time over that of {whom}",
                max(others.values()),
                "of its time",
                {"at most": bound(table, here)},
                others if len(others) > 1 else {},
            )
        )
        for name, ratio in ratios(table["results"], "peak_mib").items():
            if name == "PyTorch, channels last":
                memory[title(table)] = ratio
    if memory:
        parts = ", ".join(dict.fromkeys(table["what"] for table in tables.values()))
        text = (
            f"peak memory over that of PyTorch, channels last: the largest of {len(memory)} comparisons ({parts})"
        )
        found.append(Claim(text, max(memory.values()), "of its memory", {"at most": 1.0}, memory))
    return found


def title(table: Table) -> str:
    """Of a comparison, for people."""
    net, size = NETS[table["net"]].title, table["size"]
    match table["what"]:
        case "inference":
            return f"testing {net}, batch {size}"
        case "dense":
            return f"dense testing of {size} pixels, {net}"
        case _:
            return f"a training step of {net}, batch {size}"


def environment(folder: Path, packages: list[str]) -> Path:
    """Python of an environment with these packages; made where it is not there."""
    root = folder / packages[0].lower()
    python = root / "bin" / "python"
    if not python.exists():
        venv.create(root, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", *packages], check=True)
    return python


def one(python: Path, script: str, *words: object) -> Row:
    """What a process prints last: JSON."""
    done = subprocess.run([python, HERE / script, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turn(runs: Mapping[str, tuple[Any, ...]], rounds: int) -> dict[str, Row]:
    """Each runtime's last row with the median of its milliseconds over some rounds, A B A B."""
    found: dict[str, list[Row]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (python, script, *words) in runs.items():
            row = one(python, script, *words)
            found[name].append(row)
            print(f"  {name}: {row}", flush=True)
    results = {}
    for name, rows in found.items():
        failed = [row for row in rows if "failed" in row]
        results[name] = (
            failed[0] if failed else rows[-1] | {"ms": round(statistics.median(row["ms"] for row in rows), 2)}
        )
    return results


def other_runtimes(folder: Path, net: str, batches: list[int]) -> dict[str, Path]:
    """Python of each; the net lies in the folder as they take it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / f"D-{batch}.onnx").exists() for batch in batches):
        words = [str(batch) for batch in batches]
        subprocess.run([sys.executable, HERE / "engine_run.py", "weights", folder, net, *words], check=True)
        torch = f"torch=={version('torch').partition('+')[0]}"
        exporter = environment(folder, ["onnxscript", "onnx", torch])
        subprocess.run([exporter, HERE / "engine_export.py", folder, *words], check=True)
    return {name: environment(folder, packages) for name, packages in PEERS.items()}


def compare(arguments: Any, parts: tuple[str, ...]) -> dict[str, Table]:
    """Measure some parts."""
    python = Path(sys.executable)
    tables: dict[str, Table] = {}

    def measure(what: str, net: str, size: object, unit: str, runs: Mapping[str, tuple[Any, ...]]) -> None:
        table = {"what": what, "net": net, "size": size, "unit": unit, "results": {}}
        print(title(table), flush=True)
        table["results"] = in_turn(runs, arguments.rounds)
        tables[f"{what}, {net}, {size}"] = table

    def by_torch(names: list[str], what: str, *words: object) -> dict[str, tuple[Any, ...]]:
        return {name: (python, "engine_run.py", what, name, *words) for name in names}

    net = "smoke" if arguments.smoke else "D"
    batches = [2] if arguments.smoke else [8, 1]
    if "inference" in parts:
        folder = arguments.environments.absolute()
        others = {} if arguments.smoke else other_runtimes(folder, net, batches)
        for batch in batches:
            runs = by_torch(OURS, "inference", net, batch)
            runs |= {name: (it, "engine_peers.py", name, folder, batch) for name, it in others.items()}
            measure("inference", net, batch, "milliseconds an image", runs)
    if "dense" in parts:
        for size in ["96x64"] if arguments.smoke else ["448x336", "683x512"]:
            measure("dense", net, size, "milliseconds an image", by_torch(OURS[:2], "dense", net, size))
    if "training" in parts:
        for which, batch, steps in [(net, 2, 2)] if arguments.smoke else [("D", 16, 3), ("A-miniature", 64, 25)]:
            runs = by_torch(OURS[:2], "training", which, batch, steps)
            measure("training", which, batch, "milliseconds a step", runs)
    return tables


def earlier(file: Path | None) -> dict[str, Table]:
    """The comparisons of a file, to which one part is added."""
    if file is None or not file.exists():
        return {}
    there = read(file)
    same = there.machine == machine() and there.versions["torch"] == version("torch")
    if not same:
        sys.exit(
            f"engine.py: {file} was measured on another machine or with another torch; measure all parts, or give "
            "another file with --json"
        )
    found: dict[str, Table] = there.details["comparisons"]
    return found


def main() -> int:
    parser = options(__doc__, "engine")
    parser.add_argument("--environments", type=Path, default=Path("build/peers"), help="folder of the peers'")
    parser.add_argument("--rounds", type=int, help="[default: 3; 1 with --smoke]")
    parser.add_argument("--only", choices=PARTS, help="measure this part; the file keeps the others")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.smoke else 3)
    file = destination(arguments)
    tables = earlier(file) if arguments.only else {}
    tables |= compare(arguments, (arguments.only,) if arguments.only else PARTS)
    rows = [pair for table in tables.values() for pair in table["results"].items()]
    versions = {name: row["version"] for name, row in rows if name not in OURS and "version" in row}
    details = {"rounds": arguments.rounds, "threads": 2, "comparisons": tables}
    return record(file, claims(tables, machine()), versions=versions, details=details)


if __name__ == "__main__":
    sys.exit(main())
