"""Claim: nets keep at least half of their speed beside one busy process, and lose at most 3% when they run alone.

The script trains a net A on digits with `verydeep train`, and runs D at 224 with one image and with eight. Each of
these is a process that lives throughout the benchmark and is stopped (SIGSTOP) outside its turns. It runs alone,
beside one process that only computes, and beside two. If `--before` names the Python of an environment with
another version, the processes of both versions take turns. A turn is repeated, at most four times, if other
processes used a tenth of a core during it. Prints the median images per second over all turns, and their ratios,
and writes them as JSON. Linux only.

    python benchmarks/busy.py --before ../before/.venv/bin/python
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from claims import Claim, destination, options, record

TRAINING = [
    "--net", "A", "--crop", "32", "--width", "0.25", "--fully-connected", "128", "--training-scale", "32", "40",
    "--no-flip", "--initialisation", "glorot", "--batch", "64", "--epochs", "100000", "--patience", "100000",
    "--device", "cpu",
]  # fmt: skip
"""Flags to train a net A on digits without end."""

TESTING = """
import sys, torch, verydeep
torch.manual_seed(0)
net = verydeep.ConvNet("D", classes=1000).eval()
images = torch.randint(0, 256, (int(sys.argv[1]), 3, 224, 224), dtype=torch.uint8)
with torch.no_grad():
    while True:
        net(images)
        print(flush=True)
"""

WORK = {"training, A": 64, "testing, D, 1 image": 1, "testing, D, 8 images": 8}
"""What is computed, and the number of images per line that the process writes."""

OTHERS = {"alone": 0, "beside one": 1, "beside two": 2}
"""Number of busy processes at the same time."""

IDLE, BUSY = 0.97, 0.5
"""Bounds: speed alone, relative to the other version; speed beside one busy process, relative to alone."""

LEAD = 1.0
"""Seconds at the start of a turn that do not count: sleeping threads spin again after half a second of calm."""

FOREIGN = 0.1
"""Cores used by other processes from which on a turn is repeated."""


class Computing:
    """A process that computes during its turns, and writes one line per pass or iteration."""

    def __init__(self, python: str, work: str, folder: Path) -> None:
        self.images = WORK[work]
        if work.startswith("training"):
            command = [python, "-m", "verydeep", "train", "digits", *TRAINING, "--out", str(folder / "run")]
            self.lines = folder / "run" / "log.jsonl"
            output: int | IO[str] = subprocess.DEVNULL
        else:
            command = [python, "-c", TESTING, str(self.images)]
            self.lines = folder / "lines"
            output = self.lines.open("w")
        ours = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # even if the caller has set them
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        errors = folder / "errors"
        self.process = subprocess.Popen(command, stdout=output, stderr=errors.open("w"), env=environment)
        self._errors = errors
        self._reading: IO[bytes] | None = None
        self.end_of_pass()
        self.process.send_signal(signal.SIGSTOP)

    def end_of_pass(self) -> tuple[float, int]:
        """Wait for the end of a pass; return its time, and how many passes have ended since the last call."""
        passes, last = self._new_lines(), 0
        while not last:
            if self.process.poll() is not None:
                raise RuntimeError(self._errors.read_text())
            time.sleep(0.002)
            last = self._new_lines()
        return time.perf_counter(), passes + last

    def _new_lines(self) -> int:
        if self._reading is None and self.lines.exists():
            self._reading = self.lines.open("rb")
        return self._reading.read().count(b"\n") if self._reading else 0

    def turn(self, seconds: float, lead: float) -> float:
        """Return images per second over some seconds, after a lead in which the process adapts to the machine."""
        self.process.send_signal(signal.SIGCONT)
        time.sleep(lead)
        start, _ = self.end_of_pass()
        time.sleep(seconds)
        end, passes = self.end_of_pass()
        self.process.send_signal(signal.SIGSTOP)
        return passes * self.images / (end - start)

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()


def cores_used(pid: int | None = None) -> float:
    """Return the core seconds used by a process, or by the whole system."""
    tick = os.sysconf("SC_CLK_TCK")
    if pid is None:
        user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
        return sum(map(int, (user, nice, system, *interrupts))) / tick
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / tick


@contextmanager
def others(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run this many busy processes."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def turn(computing: Computing, count: int, seconds: float, lead: float) -> tuple[float, float]:
    """Return images per second beside busy processes, and how many cores other processes used."""
    with others(count) as running:
        time.sleep(0.1)  # until they have started
        ours = [computing.process.pid, *(process.pid for process in running)]
        foreign, start = cores_used() - sum(map(cores_used, ours)), time.perf_counter()
        speed = computing.turn(seconds, lead)
        foreign = cores_used() - sum(map(cores_used, ours)) - foreign
        return speed, foreign / (time.perf_counter() - start)


def measure(
    work: str, versions: Mapping[str, str], rounds: int, seconds: float, lead: float
) -> tuple[dict[str, dict[str, list[float]]], int]:
    """Return images per second by version and number of busy processes, and how many turns were repeated."""
    speeds: dict[str, dict[str, list[float]]] = {version: {name: [] for name in OTHERS} for version in versions}
    again = 0
    with ExitStack() as stack:
        computing = {}
        for version, python in versions.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            computing[version] = Computing(python, work, folder)
            stack.callback(computing[version].end)
        for _ in range(rounds):
            for name, count in OTHERS.items():
                for version in versions:
                    for _ in range(5):
                        speed, foreign = turn(computing[version], count, seconds, lead)
                        if foreign < FOREIGN:
                            break
                        again += 1
                    speeds[version][name].append(round(speed, 2))
    return speeds, again


def main() -> int:
    parser = options(__doc__, "busy")
    parser.add_argument("--before", metavar="PYTHON", help="Python of an environment with another version")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each kind [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn [default: %(default)s]")
    arguments = parser.parse_args()
    times = (1, 0.2, 0.1) if arguments.smoke else (arguments.rounds, arguments.seconds, LEAD)
    versions = {"before": arguments.before} if arguments.before else {}
    versions["now"] = sys.executable
    claims, details = [], {}
    for work in [*WORK][:1] if arguments.smoke else WORK:
        speeds, again = measure(work, versions, *times)
        medians = {
            version: {name: statistics.median(found) for name, found in each.items()}
            for version, each in speeds.items()
        }
        for version, each in medians.items():
            for name, speed in each.items():
                print(f"{work}, {version}, {name}: {speed:.1f} images/s, {speed / each['alone']:.2f}", flush=True)
        details[work] = {"images a second": speeds, "medians": medians, "turns taken again": again}
        now, unit = medians["now"], "of the speed"
        beside = round(now["beside one"] / now["alone"], 3)
        text = f"{work}: speed beside one busy process, relative to running alone"
        peers = {f"{version}, {name}": round(each[name] / each["alone"], 3)
                 for version, each in medians.items() for name in ("beside one", "beside two")}  # fmt: skip
        claims.append(Claim(text, beside, unit, {"at least": BUSY}, peers))
        if "before" in medians:
            alone = round(now["alone"] / medians["before"]["alone"], 3)
            text = f"{work}: speed alone, relative to the previous version"
            claims.append(Claim(text, alone, unit, {"at least": IDLE}))
    return record(destination(arguments), claims, details={"rounds": times[0], "seconds": times[1], **details})


if __name__ == "__main__":
    sys.exit(main())
