"""A warning if other processes use the cores that a training runs on."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Times = Mapping[int, float]
"""Seconds since each thread or process started, by its number."""


@dataclass(frozen=True)
class Moment:
    """Use of the cores up to a moment."""

    clock: float
    """Seconds of a monotonic clock."""
    machine: float
    """Core seconds used by all processes of the machine."""
    ran: Times
    """For each thread of this process: how long it had a core."""
    waited: Times
    """For each thread of this process: how long it had work but no core."""
    readers: Times
    """For each worker of this process: how long it had a core."""


def moment() -> Moment:
    """Ask the system; if it does not say, no thread has run or waited."""
    machine = 0.0
    ran: dict[int, float] = {}
    waited: dict[int, float] = {}
    readers: dict[int, float] = {}
    with suppress(OSError, ValueError):
        user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
        machine = sum(map(float, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(OSError, ValueError):  # it has ended, or the kernel lacks these figures
            ran[int(thread.name)], waited[int(thread.name)] = _core_times(thread)
    for reader in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            readers[reader.pid or 0], _ = _core_times(Path("/proc", str(reader.pid)))
    return Moment(time.monotonic(), machine, ran, waited, readers)


def _core_times(task: Path) -> tuple[float, float]:
    """Return the seconds that a thread has run, and those that it has waited for a core."""
    ran, waited, _ = map(int, (task / "schedstat").read_text().split())
    return ran / 1e9, waited / 1e9


class Crowding:
    """Warns once, in a line, that other processes slow down a training.

    Threads also wait for cores if the training itself has many workers and ranks. So the cores that other
    processes use count, too.
    """

    SHARE = 0.2
    """Least share of the time with work during which threads waited for a core."""
    FOREIGN = 0.25
    """Least number of cores that other processes use, on average."""
    SECONDS = 5.0
    """Least time with work, over all threads, for a verdict."""

    def __init__(self, ranks: int = 1, moment: Callable[[], Moment] = moment) -> None:
        """Start to watch.

        Args:
            ranks: ranks of this training on this machine, each of which uses as much as this one.
            moment: asks the system.
        """
        self._ranks, self._moment = ranks, moment
        self._before = moment()
        self._said = False

    def line(self) -> str:
        """Judge the time since the last verdict, or since the start.

        Returns:
            The warning, once; "" if the cores are free, too little time has passed, or it was given before.
        """
        if self._said:
            return ""
        before, now = self._before, self._moment()
        ran, waited = _passed(before.ran, now.ran), _passed(before.waited, now.waited)
        if ran + waited < self.SECONDS:
            return ""
        self._before = now
        share = waited / (ran + waited)
        ours = self._ranks * (ran + _passed(before.readers, now.readers))
        foreign = (now.machine - before.machine - ours) / (now.clock - before.clock)
        self._said = share >= self.SHARE and foreign >= self.FOREIGN
        if not self._said:
            return ""
        return (
            f"other processes use {foreign:.1f} of this machine's cores: the threads of this training waited for "
            f"a core during {share:.0%} of the time they had work, which slows it down. End the others, or leave "
            "them a core (OMP_NUM_THREADS, fewer --workers)"
        )


def _passed(before: Times, now: Times) -> float:
    """Return the sum over those that exist now; one that did not exist before has started since."""
    return sum((seconds - before.get(number, 0.0) for number, seconds in now.items()), 0.0)
