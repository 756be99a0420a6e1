"""verydeep compared with other runtimes, in testing, dense testing and training: float32, two threads.

Claims: D at 224 takes at most half the time of the fastest other runtime at batch 8, and at most 0.7 of it at
batch 1. This was measured on Zen 5; on other processors the claim is that no other runtime is faster. Whole images
take at most 0.4 of PyTorch's time, training steps of D at most 0.5 and of a miniature at most 0.7. None of these
takes more memory than PyTorch.

The peers are PyTorch itself (the same net in plain torch: channels last, NCHW, compiled with freezing), and the
net as ONNX in ONNX Runtime, OpenVINO, MNN and ncnn, each installed from PyPI in a separate environment. OpenVINO
in bfloat16 is also measured, but is not a peer of a claim. All run in turn for several rounds, each in a separate
process. Times are medians; the error of each against float64 is also recorded.

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
"""One comparison: "what" is a part, "net" a key of `NETS`, "size" the number of images or their size, "unit" that
of the times. "results" has for each runtime {"ms", "error", "peak_mib", "version"}, if known, or {"failed"}."""

ZEN_5 = 26
"""The family of processors on which the claims against all runtimes were measured."""


def bound(table: Table, here: Machine) -> float:
    """Return the largest allowed time of verydeep, relative to the fastest other runtime in float32."""
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
    """Return our value relative to that of each other runtime that has one."""
    known = {name: row[what] for name, row in results.items() if row.get(what)}
    return {name: round(known[ours] / value, 3) for name, value in known.items() if ours in known and name != ours}


def claims(tables: Mapping[str, Table], here: Machine) -> list[Claim]:
    """Make the claims of some comparisons."""
    found = []
    memory: dict[str, float] = {}
    for table in tables.values():
        others = {name: ratio for name, ratio in ratios(table["results"]).items() if "bf16" not in name}
        if not others:
            raise ValueError(f"{title(table)}: verydeep, or all others, failed: {table['results']}")
        several = f"the fastest of {len(others)} other runtimes in float32"
        whom = several if len(others) > 1 else next(iter(others))
        found.append(
            Claim(
                f"{title(table)}: time relative to {whom}",
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
        text = f"peak memory relative to PyTorch, channels last: largest of {len(memory)} comparisons ({parts})"
        found.append(Claim(text, max(memory.values()), "of its memory", {"at most": 1.0}, memory))
    return found


def title(table: Table) -> str:
    """Return the title of a comparison."""
    net, size = NETS[table["net"]].title, table["size"]
    match table["what"]:
        case "inference":
            return f"testing {net}, batch {size}"
        case "dense":
            return f"dense testing of {size} pixels, {net}"
        case _:
            return f"a training step of {net}, batch {size}"


def environment(folder: Path, packages: list[str]) -> Path:
    """Return the Python of an environment with these packages, created if it does not exist."""
    root = folder / packages[0].lower()
    python = root / "bin" / "python"
    if not python.exists():
        venv.create(root, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", *packages], check=True)
    return python


def one(python: Path, script: str, *words: object) -> Row:
    """Run a script, and return the JSON in its last line."""
    done = subprocess.run([python, HERE / script, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turn(runs: Mapping[str, tuple[Any, ...]], rounds: int) -> dict[str, Row]:
    """Run all runtimes in turn, and return each one's last row with its median time over the rounds."""
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
    """Prepare the net for the other runtimes in a folder, and return the Python of each."""
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / f"D-{batch}.onnx").exists() for batch in batches):
        words = [str(batch) for batch in batches]
        subprocess.run([sys.executable, HERE / "engine_run.py", "weights", folder, net, *words], check=True)
        torch = f"torch=={version('torch').partition('+')[0]}"
        exporter = environment(folder, ["onnxscript", "onnx", torch])
        subprocess.run([exporter, HERE / "engine_export.py", folder, *words], check=True)
    return {name: environment(folder, packages) for name, packages in PEERS.items()}


def compare(arguments: Any, parts: tuple[str, ...]) -> dict[str, Table]:
    """Measure the given parts."""
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
            measure("inference", net, batch, "milliseconds per image", runs)
    if "dense" in parts:
        for size in ["96x64"] if arguments.smoke else ["448x336", "683x512"]:
            measure("dense", net, size, "milliseconds per image", by_torch(OURS[:2], "dense", net, size))
    if "training" in parts:
        for which, batch, steps in [(net, 2, 2)] if arguments.smoke else [("D", 16, 3), ("A-miniature", 64, 25)]:
            runs = by_torch(OURS[:2], "training", which, batch, steps)
            measure("training", which, batch, "milliseconds per step", runs)
    return tables


def earlier(file: Path | None) -> dict[str, Table]:
    """Read the comparisons of a file to which one part will be added."""
    if file is None or not file.exists():
        return {}
    there = read(file)
    same = there.machine == machine() and there.versions["torch"] == version("torch")
    if not same:
        sys.exit(
            f"engine.py: {file} was measured on another machine or with another torch; measure all parts, or name "
            "another file with --json"
        )
    found: dict[str, Table] = there.details["comparisons"]
    return found


def main() -> int:
    parser = options(__doc__, "engine")
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path("build/peers"),
        help="folder for the peers' environments [default: %(default)s]",
    )
    parser.add_argument("--rounds", type=int, help="[default: 3; 1 with --smoke]")
    parser.add_argument("--only", choices=PARTS, help="measure only this part; the file keeps the others")
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
