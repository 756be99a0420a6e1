"""Claim: this version takes at most 1.02 times as long as another one, in testing and in training.

The peer is another version of verydeep, in an environment whose Python is given. Each version has a process that
computes only when told to, and the two take turns. The first second of a turn does not count, since threads that
the other's work has put to sleep spin again after half a second of calm. A process may happen to get better memory
for its weights, which gains up to 5% in passes of one image for as long as it lives. So there are several pairs of
processes. Prints medians over all passes and their ratios, and writes them as JSON.

    python benchmarks/engine_versions.py --before ../before/.venv/bin/python
"""

import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import IO

from claims import Claim, destination, options, record

WORKER = """
import json, sys, time
import torch, verydeep
from torch.nn import functional as F
torch.set_num_threads(2)

def net_of(name, **sizes):
    torch.manual_seed(0)
    net = verydeep.ConvNet(name, **sizes)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return net

def images(count, height, width):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)

def testing(net, x):
    def run():
        with torch.no_grad():
            net.eval()(x)
    return run

def training(net, x):
    labels = torch.arange(len(x)) % 10
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-9, momentum=0.9)
    def run():
        optimiser.zero_grad()
        F.cross_entropy(net.train()(x), labels).backward()
        optimiser.step()
    return run

big, small = net_of(*NET[0], **NET[1]), net_of("A", classes=10, crop=64, width=0.25, fully_connected=1024)
side = big.crop
works = {
    "testing, D, 1 image": testing(big, images(1, side, side)),
    "testing, D, 8 images": testing(big, images(8, side, side)),
    "testing, D, 448x336": testing(big, images(1, 336, 448)),
    "testing, D, 683x512": testing(big, images(1, 512, 683)),
    "training, a miniature of A, 64 images": training(small, images(64, 64, 64)),
    "training, D, 16 images": training(big, images(16, side, side)),
}
print("ready", flush=True)
for line in sys.stdin:
    work, seconds = json.loads(line)
    end, taken = time.perf_counter() + seconds, []
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        works[work]()
        taken.append(time.perf_counter() - start)
    print(json.dumps(taken), flush=True)
"""
"""Program of each process: for each line that it reads, it computes one work for some seconds, and writes the
seconds of each pass."""

NET = '("D",), {}'
SMOKE = '("D",), {"classes": 10, "crop": 32, "width": 0.1, "fully_connected": 8}'

WORKS = (
    "testing, D, 1 image", "testing, D, 8 images", "testing, D, 448x336", "testing, D, 683x512",
    "training, a miniature of A, 64 images", "training, D, 16 images",
)  # fmt: skip

MOST = 1.02
LEAD = 1.0
"""Seconds at the start of a turn that do not count."""


class Version:
    """A process with one version of verydeep."""

    def __init__(self, python: str, net: str, stack: ExitStack) -> None:
        command = [python, "-c", f"NET = {net}\n{WORKER}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdin is not None
        assert process.stdout is not None
        self._to: IO[str] = process.stdin
        self._from: IO[str] = process.stdout
        if self._from.readline().strip() != "ready":
            raise RuntimeError(f"{python} cannot run verydeep; see its message above")

    def turn(self, work: str, seconds: float) -> list[float]:
        """Compute for some seconds, and return the seconds of each pass."""
        print(json.dumps([work, seconds]), file=self._to, flush=True)
        found: list[float] = json.loads(self._from.readline())
        return found


def main() -> int:
    parser = options(__doc__, "engine_versions")
    parser.add_argument("--before", metavar="PYTHON", help="Python of an environment with the other version")
    parser.add_argument(
        "--pairs", type=int, default=5, help="pairs of processes, one after another [default: %(default)s]"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns per pair and work [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn [default: %(default)s]")
    arguments = parser.parse_args()
    if not arguments.before and not arguments.smoke:
        parser.error("--before PYTHON is missing: the Python of an environment with the other version")
    rounds, seconds, lead = (1, 0.0, 0.0) if arguments.smoke else (arguments.rounds, arguments.seconds, LEAD)
    net, works = (SMOKE, WORKS[:1]) if arguments.smoke else (NET, WORKS)
    pythons = {"before": arguments.before or sys.executable, "now": sys.executable}
    found: dict[str, dict[str, list[float]]] = {work: {name: [] for name in pythons} for work in works}
    for _ in range(1 if arguments.smoke else arguments.pairs):
        with ExitStack() as stack:
            versions = {name: Version(python, net, stack) for name, python in pythons.items()}
            for work in works:
                for number in range(rounds):
                    for name in [*versions] if number % 2 else [*versions][::-1]:
                        time.sleep(0.1)  # until the other's threads no longer spin
                        versions[name].turn(work, lead)
                        found[work][name] += versions[name].turn(work, seconds)
    claims, details = [], {}
    for work, taken in found.items():
        medians = {name: 1000 * statistics.median(passes) for name, passes in taken.items()}
        ratio = round(medians["now"] / medians["before"], 3)
        print(f"{work}: {medians['before']:.2f} ms before, {medians['now']:.2f} now, {ratio:.3f}", flush=True)
        claims.append(
            Claim(f"{work}: time relative to the previous version", ratio, "of its time", {"at most": MOST})
        )
        details[work] = {
            "milliseconds, medians": {name: round(value, 3) for name, value in medians.items()},
            "passes": {name: len(passes) for name, passes in taken.items()},
        }
    return record(
        destination(arguments),
        claims,
        details={"pairs": arguments.pairs, "rounds": rounds, "seconds": seconds, **details},
    )


if __name__ == "__main__":
    sys.exit(main())
