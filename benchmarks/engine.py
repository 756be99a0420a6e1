"""Claim: D (1000 classes, 224, float32) runs in at most half the time of the fastest other runtime at batch 8.

At batch 1 in at most 0.7 times. Exports D with random weights to ONNX and gives it to ONNX Runtime, OpenVINO, MNN
and ncnn, each installed from PyPI into an environment of its own, and to PyTorch (eager in both layouts, compiled
with freezing). All in turn, several rounds, each in a process of its own with two threads; prints medians, ratios
and each one's error against float64, and writes JSON. Also dense testing of whole images, and training steps,
against PyTorch with channels last.

    python benchmarks/engine.py --environments ~/.cache/verydeep/peers
"""

import argparse
import json
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PEERS = {
    "ONNX Runtime": ["onnxruntime"],
    "OpenVINO": ["openvino"],
    "OpenVINO bf16": ["openvino"],
    "MNN": ["MNN"],
    "ncnn": ["ncnn", "pnnx"],
}
OURS = ["verydeep", "PyTorch, channels last", "PyTorch, NCHW", "torch.compile, frozen"]


def environment(folder, packages):
    """Python of an environment with these packages; made where it is not there."""
    root = folder / packages[0].lower()
    python = root / "bin" / "python"
    if not python.exists():
        venv.create(root, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", *packages], check=True)
    return python


def one(python, script, *words):
    """What a process prints last: JSON."""
    done = subprocess.run([python, HERE / script, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(runs, rounds):
    """Median milliseconds of each run over some rounds, A B A B."""
    found = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (python, script, *words) in runs.items():
            result = one(python, script, *words)
            found[name].append(result)
            print(f"  {name}: {result}", flush=True)
    table = {}
    for name, results in found.items():
        if "failed" in results[-1]:
            table[name] = results[-1]
        else:
            table[name] = {**results[-1], "ms": round(statistics.median(each["ms"] for each in results), 2)}
    return table


def ratios(table, ours="verydeep"):
    """Our time over each other's."""
    return {
        name: round(table[ours]["ms"] / each["ms"], 3)
        for name, each in table.items()
        if name != ours and "ms" in each
    }


def peaks(table):
    """Our largest memory over each other's, where it was measured."""
    ours = table["verydeep"].get("peak_mib")
    others = {name: each.get("peak_mib") for name, each in table.items() if name != "verydeep"}
    return {name: round(ours / theirs, 3) for name, theirs in others.items() if ours and theirs}


def processor():
    """What /proc/cpuinfo says of the first processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    return {name: known.get(name) for name in ("model name", "cpu family", "model", "cache size")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=Path("build/peers"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("inference", "dense", "training"))
    parser.add_argument("--json", type=Path, default=Path("results/engine.json"))
    arguments = parser.parse_args()
    folder = arguments.environments.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    result = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    result["processor"] = processor()
    python, script = sys.executable, "engine_run.py"
    if arguments.only in (None, "inference"):
        if not (folder / "D.onnx").exists():
            exporter = environment(folder, ["onnxscript", "onnx", "torch==2.13.0", "-e", str(HERE.parent)])
            subprocess.run([exporter, HERE / script, "export", folder], check=True)
        for batch in (8, 1):
            runs = {name: (python, script, "inference", name, folder, batch) for name in OURS}
            for name, packages in PEERS.items():
                runs[name] = (environment(folder, packages), "engine_peers.py", name, folder, batch)
            table = in_turn(runs, arguments.rounds)
            others = {name: ratio for name, ratio in ratios(table).items() if "bf16" not in name}
            result[f"inference, batch {batch}"] = {
                "milliseconds an image": table,
                "verydeep / other": ratios(table),
                "peak memory, verydeep / other": peaks(table),
                "verydeep / fastest in float32": max(others.values()),
                "at most": 0.5 if batch == 8 else 0.7,
            }
    if arguments.only in (None, "dense"):
        for size in ("448x336", "683x512"):
            runs = {name: (python, script, "dense", name, size) for name in OURS[:2]}
            table = in_turn(runs, arguments.rounds)
            result[f"dense, {size}"] = {
                "milliseconds an image": table,
                "verydeep / other": ratios(table),
                "peak memory, verydeep / other": peaks(table),
                "at most": 0.4,
            }
    if arguments.only in (None, "training"):
        for net, most in (("D", 0.5), ("A-miniature", 0.7)):
            runs = {name: (python, script, "training", name, net) for name in OURS[:2]}
            table = in_turn(runs, arguments.rounds)
            result[f"training, {net}"] = {
                "milliseconds a step": table,
                "verydeep / other": ratios(table),
                "peak memory, verydeep / other": peaks(table),
                "at most": most,
            }
    print(json.dumps(result, indent=1))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
