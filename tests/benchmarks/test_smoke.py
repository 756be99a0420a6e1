"""Every benchmark runs, at sizes that take seconds, and its exit status agrees with its claims."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from claims import ROOT, read
from engine_phases import COMMON, FLAGS
from verydeep.engine import native

needs_engine = pytest.mark.skipif(native.library() is None, reason="the engine is off or was not built")
needs_compiler = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "c++")), reason="there is no compiler")
needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="there is one core"
)


def smoke(name, folder, *words):
    """Run a benchmark, and return its record."""
    file = folder / f"{name}.json"
    # The spinning threads of two test processes would wait for each other.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--smoke", "--json", file, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert file.exists(), done.stderr
    found = read(file)
    assert done.returncode == (0 if found.holds else 1), done.stderr
    assert f"benchmarks/{name}.py --smoke" in found.command
    return found


def test_reading(tmp_path):
    found = smoke("reading", tmp_path)
    assert len(found.claims) == 1
    assert found.observations[1].measured < 1  # grey levels from Pillow
    assert set(found.details["images a second, medians"]) == {"Pillow, whole", "Pillow, box", "verydeep"}


def test_safeguards(tmp_path):
    found = smoke("safeguards", tmp_path)
    assert len(found.claims) == 1
    assert all(seconds > 0 for by in found.details["seconds"].values() for seconds in by.values())


def test_predict(tmp_path):
    (claim,) = (found := smoke("predict", tmp_path)).claims
    assert claim.peers.keys() == {"torch, NCHW", "torch, channels last"}
    assert found.observations[1].measured < 1e-3, "the posteriors agree"


def test_export(tmp_path):
    found = smoke("export", tmp_path)
    assert len(found.claims) == len(found.observations) == 2
    assert found.details["bytes"]["int8"] < found.details["bytes"]["float32"]


def test_descriptors(tmp_path):
    (claim,) = (found := smoke("descriptors", tmp_path)).claims
    assert claim.peers.keys() == {"torch, NCHW", "torch, channels last"}
    assert found.observations[1].measured < 1e-2, "the vectors agree"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_busy(tmp_path):
    (claim,) = smoke("busy", tmp_path).claims
    assert claim.measured > 0
    assert claim.peers.keys() == {"now, beside one", "now, beside two"}


def test_engine_versions(tmp_path):
    (claim,) = smoke("engine_versions", tmp_path).claims
    assert claim.measured > 0


def test_memory(tmp_path):
    found = smoke("memory", tmp_path)
    peak, ratio = found.claims
    assert 0.01 < peak.measured < 22
    assert ratio.measured > 0


@needs_engine
def test_engine_accuracy(tmp_path):
    found = smoke("engine_accuracy", tmp_path)
    assert len(found.claims) == 3
    assert found.holds  # about rounding, not speed, so it also has to hold for small nets
    assert all(claim.measured > 0 for claim in found.claims)


@needs_engine
def test_engine_layers(tmp_path):
    found = smoke("engine_layers", tmp_path)
    assert not found.claims
    assert len(found.details["milliseconds an image"]) == 16
    assert all(observation.measured > 0 for observation in found.observations)


@needs_engine
@needs_compiler
def test_engine_phases(tmp_path):
    found = smoke("engine_phases", tmp_path)
    rows = found.details["batch 1, milliseconds an image"]
    assert {"conv1_1, conv1_2", "conv5_3", "fc8", "the library's call", "outside"} <= set(rows)
    assert 0 < found.observations[0].measured < 1


@needs_engine
def test_the_timed_engine_is_compiled_as_the_package_is():
    builds = [ROOT / "pyproject.toml", ROOT / "setup.py"]
    text = "".join(file.read_text(encoding="utf-8") for file in builds if file.exists())
    for flag in {*COMMON, *(flag for flags in FLAGS.values() for flag in flags)}:
        assert f'"{flag}"' in text


@needs_two_cores
def test_ranks(tmp_path):
    found = smoke("ranks", tmp_path)
    (claim,) = found.claims
    assert claim.measured > 0
    (net,) = found.details["nets"].values()
    assert set(net["images a second"]) == {"one rank", "two ranks", "two trainings apart"}


@pytest.mark.slow
@needs_engine
def test_engine(tmp_path):
    """Compare with PyTorch only; the other runtimes are installed only to measure the claims."""
    found = smoke("engine", tmp_path)
    testing = found.details["comparisons"]["inference, smoke, 2"]["results"]
    failed = {name: row["failed"] for name, row in testing.items() if "failed" in row}
    compiled = failed.pop("torch.compile, frozen", "")  # needs a compiler
    assert not failed
    assert not compiled or not shutil.which("g++"), compiled
    assert {"verydeep", "PyTorch, channels last", "PyTorch, NCHW", "torch.compile, frozen"} == set(testing)
    assert all(row["error"] < 2e-5 for row in testing.values() if "error" in row)
    assert [re.sub(r" of .*", "", claim.claim) for claim in found.claims[1:3]] == [
        "dense testing",
        "a training step",
    ]


def test_gpu_throughput(tmp_path):
    found = smoke("gpu_throughput", tmp_path)
    assert [claim.claim.split(": ")[1] for claim in found.claims] == [
        "speed relative to the faster compiled peer",
        "speed",
    ] * 2
    assert set(found.claims[0].peers) == {"plain torch, eager", "plain torch, compiled"}


def test_gpu_layers(tmp_path):
    found = smoke("gpu_layers", tmp_path)
    assert len(found.details["milliseconds"]) == 26
    assert all(row["verydeep"] > 0 and row["floor"] > 0 for row in found.details["milliseconds"])


def test_gpu_files(tmp_path):
    speed, waiting, _ = smoke("gpu_files", tmp_path).observations
    assert speed.measured > 0
    assert 0 <= waiting.measured <= 1


def test_gpu_profile(tmp_path):
    *_, longest = smoke("gpu_profile", tmp_path).observations
    assert len(longest.peers) == 25


def test_gpu_testing(tmp_path):
    found = smoke("gpu_testing", tmp_path)
    assert [seen.observation.split(", ")[1] for seen in found.observations] == [
        "dense",
        "multi-crop",
        "centre-crop",
    ]
    assert all(len(seen.peers) == 5 for seen in found.observations)


def test_every_benchmark_is_run_here():
    texts = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").glob("*.py")}
    scripts = {name for name, text in texts.items() if "options(__doc__" in text}
    run = re.findall(r'smoke\("(\w+)"', (ROOT / "tests/benchmarks/test_smoke.py").read_text(encoding="utf-8"))
    assert scripts == set(run)
    assert len(run) >= 7
