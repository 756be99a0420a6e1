"""Kill trainings at random moments, and check that they end with the weights of one that was not killed.

    python tests/campaigns/kills.py process 200
    python tests/campaigns/kills.py process 40 --ranks 2
    python tests/campaigns/kills.py worker 20

`process` kills all processes of a training (SIGKILL). `worker` kills one of its workers; the training must then
say so in one line and end within `PATIENCE` seconds. The same command resumes the training until it ends. Its
weights are then compared with those of an uninterrupted training: bit for bit in one process, up to rounding in
several. The exit code is 1 if anything differs.
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
PATIENCE = 15.0


def start(out: Path, ranks: int) -> subprocess.Popen[str]:
    """Start a training in its own session."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*launcher, "-m", "verydeep", *RECIPE, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
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
    process.communicate()


def kill_worker(process: subprocess.Popen[str], chance: random.Random) -> str:
    """Kill a worker; return a complaint, or nothing."""
    workers = children(process.pid)
    if not workers:
        return ""
    os.kill(chance.choice(workers), signal.SIGKILL)
    before = time.monotonic()
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        kill_all(process)
        return f"it did not end within {PATIENCE:.0f} s"
    if process.returncode == 0:  # the worker had already read everything
        return ""
    if process.returncode != 2 or "Traceback" in said or "a reading process has ended" not in said:
        return f"exit code {process.returncode} after {time.monotonic() - before:.1f} s: {said[-500:]}"
    return ""


def same(one: Path, other: Path, ranks: int) -> bool:
    """Whether two runs have the same weights."""
    if ranks == 1:
        return (one / weights.FILE_NAME).read_bytes() == (other / weights.FILE_NAME).read_bytes()
    flat = [
        torch.cat([each.flatten() for each in weights.load(run).state_dict().values()]) for run in (one, other)
    ]
    return bool((flat[0] - flat[1]).norm() < 1e-4 * flat[0].norm())


def main(what: str, kills: int, ranks: int, seed: int) -> int:
    """Run the campaign and return the exit code."""
    chance, done, wrong, number = random.Random(seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        before = time.monotonic()
        process = start(whole, ranks)
        _, said = process.communicate()
        assert process.returncode == 0, said
        seconds = time.monotonic() - before
        while done < kills:
            run = Path(folder) / f"run-{number}"
            number += 1
            ended = False
            while not ended:
                process = start(run, ranks)
                try:
                    code = process.wait(chance.uniform(0.1, 1.2) * seconds if done < kills else None)
                except subprocess.TimeoutExpired:
                    done += 1
                    if what == "process":
                        kill_all(process)
                    elif complaint := kill_worker(process, chance):
                        wrong += 1
                        print(f"kill {done}: {complaint}", flush=True)
                    continue
                _, said = process.communicate()
                ended = True
                if code or not same(run, whole, ranks):
                    wrong += 1
                    print(f"after kill {done}: exit code {code}, or other weights: {said[-500:]}", flush=True)
            print(f"{done} kills, {wrong} wrong", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("process", "worker"))
    parser.add_argument("kills", type=int)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.what, given.kills, given.ranks, given.seed))
