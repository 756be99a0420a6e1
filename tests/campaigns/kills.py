"""Kill trainings at random moments, and check that they end with the result of one that was not killed.

    python tests/campaigns/kills.py process 200
    python tests/campaigns/kills.py process 40 --ranks 2
    python tests/campaigns/kills.py process 40 --thread
    python tests/campaigns/kills.py worker 20
    python tests/campaigns/kills.py plan 10

`process` kills all processes of a training (SIGKILL). `worker` kills one of its workers; the training must then
say so in one line and end within `PATIENCE` seconds. `plan` kills the paper's experiments on digits. With
`--thread`, trainings save by a thread, as they do on a GPU. The same command resumes until it ends. The result is
then compared with that of an uninterrupted one: the weights of a training, or results.json and
outcomes.safetensors of the experiments; bit for bit in one process, up to rounding in several. The exit code is 1
if anything differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from verydeep import weights

RECIPE = [
    "train", "digits", "--net", "A", "--crop", "32", "--width", "0.125", "--fully-connected", "16",
    "--initialisation", "glorot", "--device", "cpu", "--batch", "100", "--epochs", "2", "--workers", "1",
]  # fmt: skip
PLAN = ["reproduce", "--data", "digits", "--preset", "digits", "--device", "cpu"]
THREAD = "import verydeep.cli, verydeep.training.saving as saving; saving.AT_ONCE = (); verydeep.cli.main()"
"""A program that is the command line, but saves by a thread."""
PATIENCE = 15.0
SAID = "said.txt"
"""Standard error of the last process, next to the directories of its results."""


def start(what: str, out: Path, ranks: int, thread: bool) -> subprocess.Popen[str]:
    """Start a training, or the experiments, in its own session."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    program = ["-m", "verydeep"]
    if thread:
        program = [str(out.parent / "thread.py")]
        Path(program[0]).write_text(THREAD)
    with (out.parent / SAID).open("w") as said:
        return subprocess.Popen(
            [*launcher, *program, *(PLAN if what == "plan" else RECIPE), "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def children(process: int) -> list[int]:
    """Return the ids of all processes below a process."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [each for child in map(int, text.split()) for each in (child, *children(child))]


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a training with all its ranks and workers."""
    for number in [process.pid, *children(process.pid)]:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def kill_worker(process: subprocess.Popen[str], chance: random.Random, said: Path) -> str:
    """Kill a worker; return a complaint, or nothing."""
    workers = children(process.pid)
    if not workers:
        return ""
    os.kill(chance.choice(workers), signal.SIGKILL)
    before = time.monotonic()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill_all(process)
        return f"it did not end within {PATIENCE:.0f} s"
    if process.returncode == 0:  # the worker had already read everything
        return ""
    text = said.read_text()
    if process.returncode != 2 or "Traceback" in text or "a worker has ended" not in text:
        return f"exit code {process.returncode} after {time.monotonic() - before:.1f} s: {text[-500:]}"
    return ""


def same(what: str, one: Path, other: Path, ranks: int) -> bool:
    """Whether two trainings have the same weights, or two experiments the same results."""
    if ranks == 1:
        names = ("results.json", "outcomes.safetensors") if what == "plan" else (weights.FILE_NAME,)
        return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    flat = [
        torch.cat([each.flatten() for each in weights.load(run).state_dict().values()]) for run in (one, other)
    ]
    return bool((flat[0] - flat[1]).norm() < 1e-4 * flat[0].norm())


def main(what: str, kills: int, ranks: int, seed: int, thread: bool) -> int:
    """Run the campaign and return the exit code."""
    chance, done, wrong, number = random.Random(seed), 0, 0, 0
    shares = (0.03, 0.3) if what == "plan" else (0.1, 1.2)  # of the time of an uninterrupted one
    with tempfile.TemporaryDirectory() as folder:
        whole, said = Path(folder) / "whole", Path(folder) / SAID
        before = time.monotonic()
        code = start(what, whole, ranks, thread).wait()
        assert code == 0, said.read_text()
        seconds = time.monotonic() - before
        while done < kills:
            run = Path(folder) / f"run-{number}"
            number += 1
            ended, killed_before = False, done
            while not ended:
                before = time.monotonic()
                process = start(what, run, ranks, thread)
                try:
                    code = process.wait(chance.uniform(*shares) * seconds if done < kills else None)
                except subprocess.TimeoutExpired:
                    done += 1
                    if what != "worker":
                        kill_all(process)
                    elif complaint := kill_worker(process, chance, said):
                        wrong += 1
                        print(f"kill {done}: {complaint}", flush=True)
                    continue
                ended = True
                if done == killed_before:  # it was not killed, and tells how long one takes now
                    seconds = min(seconds, time.monotonic() - before)
                if code or not same(what, run, whole, ranks):
                    wrong += 1
                    text = said.read_text()[-500:]
                    print(f"after kill {done}: exit code {code}, or another result: {text}", flush=True)
            print(f"{done} kills, {wrong} wrong", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("process", "worker", "plan"))
    parser.add_argument("kills", type=int)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--thread", action="store_true")
    given = parser.parse_args()
    sys.exit(main(given.what, given.kills, given.ranks, given.seed, given.thread))
