"""What only real processes show: several ranks, kill -9, other numbers of workers, signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from verydeep import weights

TRAIN = [
    "train", "digits", "--net", "A", "--crop", "32", "--width", "0.125", "--fully-connected", "16",
    "--initialisation", "glorot", "--device", "cpu", "--no-flip",
]  # fmt: skip


def command(*more, ranks=1):
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", free_port()]
    return [*launcher, "-m", "verydeep", *TRAIN, *more]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run(*more, ranks=1):
    done = subprocess.run(
        command(*more, ranks=ranks), capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def flat(path):
    return torch.cat([tensor.flatten() for tensor in weights.load(path).state_dict().values()])


def start(*more):
    return subprocess.Popen(
        command(*more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    )


def wait_for_iteration(path, iteration, process):
    """Until the log says that an iteration is done."""
    for _ in range(6000):
        if path.exists() and f'"iteration": {iteration},' in path.read_text():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError(f"iteration {iteration} was never reached")


@pytest.mark.slow
def test_the_same_weights_on_one_two_and_three_ranks(tmp_path):
    """Ten iterations, the fourth of each epoch short: 1437 = 3 x 478 + 3, one image for each of three ranks.

    The bound: float32 rounding, another order of summation in each gradient, grows over ten iterations to less
    than 2e-5 of the norm of the weights. Two trainings that differ in their seed differ by over 1e-2.
    """
    recipe = ["--batch", "478", "--iterations", "10", "--learning-rate", "0.002"]
    for ranks in (1, 2, 3):
        run(*recipe, "--out", str(tmp_path / str(ranks)), ranks=ranks)
    run(*recipe, "--seed", "1", "--out", str(tmp_path / "other"))
    one = flat(tmp_path / "1")
    differences = {name: float((flat(tmp_path / name) - one).norm() / one.norm()) for name in ("2", "3", "other")}
    assert differences["2"] < 2e-5, differences
    assert differences["3"] < 2e-5, differences
    assert differences["other"] > 1e-2, differences
    logs = [(tmp_path / str(ranks) / "log.jsonl").read_text().splitlines() for ranks in (1, 2, 3)]
    epochs = [[line for line in map(json.loads, each) if "epoch" in line] for each in logs]
    for lines in zip(*epochs, strict=True):
        assert len({line["validation_error"] for line in lines}) == 1
        assert max(line["loss"] for line in lines) - min(line["loss"] for line in lines) < 1e-4


@pytest.mark.slow
def test_a_killed_training_goes_on_to_bit_identical_weights(tmp_path):
    """Killed with SIGKILL twice, once within an epoch, and gone on with other numbers of workers."""
    recipe = ["--batch", "200", "--epochs", "3"]
    run(*recipe, "--out", str(tmp_path / "whole"), "--workers", "0")
    parts = tmp_path / "parts"
    for iteration, workers in ((10, "2"), (17, "0")):
        process = start(*recipe, "--out", str(parts), "--workers", workers)
        wait_for_iteration(parts / "log.jsonl", iteration, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    done = run(*recipe, "--out", str(parts), "--workers", "1")
    assert "going on after iteration" in done.stderr
    assert torch.equal(flat(parts), flat(tmp_path / "whole"))
    assert (parts / weights.FILE_NAME).read_bytes() == (tmp_path / "whole" / weights.FILE_NAME).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(tmp_path, number):
    recipe = ["--batch", "100", "--epochs", "9", "--out", str(tmp_path / "a")]
    process = start(*recipe)
    wait_for_iteration(tmp_path / "a" / "log.jsonl", 5, process)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + number
    assert "saved; the same command goes on" in said
    assert "Traceback" not in said
    saved = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["progress"]["iteration"]
    logged = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert saved == max(line.get("iteration", 0) for line in logged) >= 5
