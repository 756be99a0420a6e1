"""Tests that need real processes: several ranks, kill -9, other numbers of workers, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from verydeep import weights
from verydeep.training.directory import locked

TRAIN = [
    "train", "digits", "--net", "A", "--crop", "32", "--width", "0.125", "--fully-connected", "16",
    "--training-scale", "37", "--initialisation", "glorot", "--device", "cpu", "--no-flip",
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


def start(*more, ranks=1):
    """Start a training in its own process group."""
    return subprocess.Popen(
        command(*more, ranks=ranks),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def saved_iteration(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)["progress"]["iteration"]


def wait_for_iteration(path, iteration, process):
    """Wait until the log says that an iteration is done."""
    for _ in range(6000):
        if path.exists() and f'"iteration": {iteration},' in path.read_text():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError(f"iteration {iteration} was never reached")


@pytest.mark.slow
def test_the_same_weights_on_one_two_and_three_ranks(tmp_path):
    """Eight iterations; 1437 = 3 x 401 + 234, so the fourth has fewer images.

    The bound: float32 rounding, another order of summation in each gradient, grows over eight iterations to less
    than 1e-4 of the norm of the weights. Two trainings that differ in their seed differ by over 1e-2.
    """
    recipe = ["--batch", "401", "--iterations", "8", "--learning-rate", "0.002"]
    ways = {"1": (1, []), "2": (2, []), "3": (3, []), "parts": (2, ["--micro-batch", "70", "--recompute"])}
    for name, (ranks, more) in ways.items():
        run(*recipe, *more, "--out", str(tmp_path / name), ranks=ranks)
    run(*recipe, "--seed", "1", "--out", str(tmp_path / "other"))
    one = flat(tmp_path / "1")
    differences = {
        name: float((flat(tmp_path / name) - one).norm() / one.norm()) for name in ("2", "3", "parts", "other")
    }
    assert max(differences[name] for name in ("2", "3", "parts")) < 1e-4, differences
    assert differences["other"] > 1e-2, differences
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ways]
    epochs = [[line for line in map(json.loads, each) if "epoch" in line] for each in logs]
    for lines in zip(*epochs, strict=True):
        errors = [line["validation_error"] for line in lines]
        assert max(errors) - min(errors) < 3.5 / 360  # a few images lie on the border of two classes this early
        assert max(line["loss"] for line in lines) - min(line["loss"] for line in lines) < 1e-3


@pytest.mark.slow
def test_ranks_of_which_only_some_layers_learn(tmp_path):
    recipe = ["--batch", "401", "--learning-rate", "0.002"]
    run(*recipe, "--iterations", "1", "--out", str(tmp_path / "start"))
    recipe += ["--iterations", "4", "--start-from", str(tmp_path / "start"), "--learns", "fc7", "conv5_2"]
    for ranks in (1, 2):
        run(*recipe, "--out", str(tmp_path / str(ranks)), ranks=ranks)
    before, one, two = (weights.load(tmp_path / name).state_dict() for name in ("start", "1", "2"))
    for name, tensor in one.items():
        learns = name.split(".")[0] in ("fc7", "conv5_2")
        assert torch.equal(tensor, before[name]) == torch.equal(two[name], before[name]) == (not learns)
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


SMALL_BUCKETS = """
import verydeep.cli, verydeep.distributed
verydeep.distributed.BUCKET = 4000
verydeep.cli.main()
"""


@pytest.mark.slow
def test_however_many_messages_carry_the_gradients(tmp_path):
    """Some messages carry several layers, and some one layer that is larger than a bucket."""
    recipe = ["--batch", "200", "--iterations", "3"]
    run(*recipe, "--out", str(tmp_path / "one"), ranks=2)
    (tmp_path / "train.py").write_text(SMALL_BUCKETS)
    words = command(*recipe, "--out", str(tmp_path / "many"), ranks=2)
    at = words.index("verydeep")
    words[at - 1 : at + 1] = [str(tmp_path / "train.py")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    # Of two ranks' numbers there is one sum, wherever they lie.
    assert torch.equal(flat(tmp_path / "one"), flat(tmp_path / "many"))


MACHINES = """
import os, verydeep.cli, verydeep.training.gathering as gathering
os.environ["LOCAL_WORLD_SIZE"] = "1"
gathering.cheaper = lambda *_: True
original = gathering.Gathered.received
gathering.Gathered.received = lambda self: print("gathered") or original(self)
verydeep.cli.main()
"""


@pytest.mark.slow
def test_ranks_on_several_machines_gather_and_resume_to_bit_identical_weights(tmp_path):
    """Each rank takes itself to be alone on its machine, and such small layers to be worth gathering for."""
    recipe = ["--batch", "150", "--iterations", "6", "--learning-rate", "0.002", "--workers", "0"]
    run(*recipe, "--out", str(tmp_path / "added"), ranks=2)
    (tmp_path / "train.py").write_text(MACHINES)

    def words(out):
        found = command(*recipe, "--out", str(tmp_path / out), ranks=2)
        at = found.index("verydeep")
        found[at - 1 : at + 1] = [str(tmp_path / "train.py")]
        return found

    done = subprocess.run(words("whole"), capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("gathered") == 2 * 3 * 6  # ranks, layers, iterations
    difference = flat(tmp_path / "whole") - flat(tmp_path / "added")
    assert difference.norm() < 1e-4 * flat(tmp_path / "added").norm()
    with (tmp_path / "said.txt").open("w") as said:
        process = subprocess.Popen(words("parts"), stdout=said, stderr=said, env=environment())
    wait_for_iteration(tmp_path / "parts" / "log.jsonl", 2, process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert 2 <= saved_iteration(tmp_path / "parts") < 6
    done = subprocess.run(words("parts"), capture_output=True, text=True, env=environment(), check=False)
    assert "resuming after iteration" in done.stderr
    assert torch.equal(flat(tmp_path / "parts"), flat(tmp_path / "whole"))


@pytest.mark.slow
def test_ranks_without_an_image_change_nothing(tmp_path):
    """Mini-batches of one image on three ranks: no order of additions changes, so the weights are the same."""
    recipe = ["--batch", "1", "--iterations", "5", "--learning-rate", "0.002"]
    for ranks in (1, 3):
        run(*recipe, "--out", str(tmp_path / str(ranks)), ranks=ranks)
    assert torch.equal(flat(tmp_path / "1"), flat(tmp_path / "3"))


@pytest.mark.slow
def test_a_killed_training_goes_on_to_bit_identical_weights(tmp_path):
    """Killed with SIGKILL twice, once during an epoch, and resumed with other numbers of workers."""
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
    assert "resuming after iteration" in done.stderr
    assert torch.equal(flat(parts), flat(tmp_path / "whole"))
    for name in (weights.FILE_NAME, weights.BEST_FILE_NAME):
        assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_three_ranks_that_are_told_to_stop_save_and_go_on_to_bit_identical_weights(tmp_path):
    """SIGTERM to torchrun, which passes it on to the process group of each rank."""
    recipe = ["--batch", "200", "--epochs", "2"]
    run(*recipe, "--out", str(tmp_path / "whole"), ranks=3)
    process = start(*recipe, "--out", str(tmp_path / "parts"), "--workers", "1", ranks=3)
    wait_for_iteration(tmp_path / "parts" / "log.jsonl", 3, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert "saved; the same command resumes it" in said
    assert saved_iteration(tmp_path / "parts") >= 3
    done = run(*recipe, "--out", str(tmp_path / "parts"), ranks=3)
    assert "resuming after iteration" in done.stderr
    assert torch.equal(flat(tmp_path / "parts"), flat(tmp_path / "whole"))


THREADS = """
import os, sys, verydeep.cli
try:
    verydeep.cli.main()
except SystemExit as end:
    assert not end.code
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
assert not any("gloo" in name for name in names), names
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the names of threads")
def test_no_thread_of_the_ranks_outlives_them(tmp_path):
    """It would sometimes abort the process at its end."""
    (tmp_path / "train.py").write_text(THREADS)
    words = command("--batch", "200", "--iterations", "1", "--out", str(tmp_path / "run"), ranks=2)
    at = words.index("verydeep")
    words[at - 1 : at + 1] = [str(tmp_path / "train.py")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(tmp_path, number):
    """Sent as by a terminal or a scheduler: to the training and its workers."""
    process = start("--batch", "100", "--epochs", "9", "--workers", "1", "--out", str(tmp_path / "a"))
    wait_for_iteration(tmp_path / "a" / "log.jsonl", 5, process)
    os.killpg(process.pid, number)
    _, said = process.communicate()
    assert process.returncode == 128 + number
    assert "saved; the same command resumes it" in said
    assert "Traceback" not in said
    logged = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert saved_iteration(tmp_path / "a") == max(line.get("iteration", 0) for line in logged) >= 5


@pytest.mark.slow
def test_a_refusal_on_several_ranks_is_a_sentence(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    words = command("--out", str(tmp_path), ranks=2)
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode != 0
    assert "is not a run directory" in done.stderr
    ours = done.stderr.split("torch/distributed/elastic")[0]  # whose own report follows
    assert "Traceback" not in ours, ours


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_training_learns_the_same(tmp_path):
    recipe = ["--batch", "359", "--iterations", "3", "--learning-rate", "0.002"]
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        run(*recipe, *more, "--out", str(tmp_path / name))
    plain, compiled = flat(tmp_path / "plain"), flat(tmp_path / "compiled")
    assert (compiled - plain).norm() < 1e-4 * plain.norm()


@pytest.mark.slow
def test_a_full_disk_is_said_in_a_sentence_and_leaves_the_last_checkpoint(tmp_path):
    """A limit on file sizes, which the system enforces as it would a full disk."""
    # The limit holds for shared memory too, which workers would need.
    recipe = ["--batch", "200", "--epochs", "2", "--out", str(tmp_path / "a"), "--workers", "0"]
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2); "
        "runpy.run_module('verydeep', run_name='__main__')"
    )
    words = [sys.executable, "-c", code, "900000", *TRAIN, *recipe]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2
    assert "checkpoint.pt: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a" / weights.FILE_NAME).exists()  # a run that holds one must have a checkpoint
    run(*recipe)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")
def test_ranks_of_which_one_loses_a_worker_end_with_one_line(tmp_path):
    """They used to hang: the rank waited for its workers, torchrun for the rank, and the run stayed locked."""
    out = tmp_path / "a"
    process = start("--batch", "100", "--epochs", "9", "--workers", "1", "--out", str(out), ranks=2)
    wait_for_iteration(out / "log.jsonl", 2, process)
    for rank in children(process.pid):
        for worker in children(rank):
            os.kill(worker, signal.SIGKILL)
            break
        break
    _, said = process.communicate(timeout=100)
    assert process.returncode != 0
    ours = said.split("torch/distributed/elastic")[0]
    assert "a worker has ended (Killed)" in ours
    assert "Traceback" not in ours
    with locked(out):  # by nobody any more
        pass


def children(process):
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
